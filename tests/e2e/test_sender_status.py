"""`audisp status` shows what forwards: the plugin `remote`, and audisp-remote as a child."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.collectors import Collector
from tests.e2e.daemons import Child, Ours, add_plugin
from tests.e2e.stream import PATIENCE, wait_for
from tests.needs import needs
from tests.soak.forward import record
from tests.sources.rotating import RotatingLog
from tests.tls.ends import KEY, WEB1
from tests.tls.files import put_key

pytestmark = [needs("root"), pytest.mark.timeout(120, func_only=True)]

COUNT = 100


def status(run: Path, *words: str) -> str:
    argv = [sys.executable, "-m", "audisp.cli.audisp", "status", "--runtime-dir", str(run), *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout


def sender_conf(folder: Path, port: int) -> Path:
    folder.mkdir()
    path = folder / "audisp-remote.conf"
    keys: dict[str, Any] = {
        "remote_server": f"127.0.0.1:{port}",
        "transport": "tls",
        "tls_psk_identity": WEB1.decode(),
        "tls_psk_file": put_key(folder / "psk", KEY),
        "queue_file": folder / "remote.log",
        "spool_dir": folder / "spool",
        "spool_min_free": 0,
        "state_file": folder / "remote.state",
        "network_retry_max": 1,
        "network_failure_action": "syslog",
    }
    path.write_text("".join(f"{key} = {value}\n" for key, value in keys.items()))
    path.chmod(0o640)
    return path


def test_both_senders(tmp_path: Path) -> None:
    where = tmp_path / "collector"
    where.mkdir(mode=0o750)
    program = tmp_path / "audisp-remote"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m audisp.cli.remote "$@"\n')
    program.chmod(0o750)
    log = RotatingLog(tmp_path / "audit.log")
    log.append([record(number) for number in range(COUNT)])
    key = put_key(where / "psk", KEY)
    with Collector(where, transport="tls", tls_psk_identity=WEB1.decode(), tls_psk_file=key) as collector:
        child = Child("au-remote", str(program), f"--config {sender_conf(tmp_path / 'child', collector.port)}")
        ours = Ours(tmp_path / "ours", "--source", f"follow:{log.path}", children=[child], write_logs="no")
        add_plugin(ours.folder, "inside", plugin="remote", config=sender_conf(tmp_path / "inside", collector.port))
        with ours:

            def senders() -> dict[str, dict[str, Any]]:
                plugins = json.loads(status(ours.run, "--json"))["plugins"]
                return {name: plugins[name]["sender"] for name in ("au-remote", "inside")}

            # One is up to date at once, the other when it next writes its state file.
            wait_for(
                lambda: all((each["sent"] or 0) >= COUNT and each["waiting"] == 0 for each in senders().values()),
                "both have sent all",
            )
            for each in senders().values():
                assert each["server"] == f"127.0.0.1:{collector.port}"
                assert each["protocol"].startswith("native")
                assert (each["lost"], each["oldest_seconds"], each["stale"], each["error"]) == (0, None, False, None)
            text = status(ours.run)
            for name in ("au-remote", "inside"):
                assert re.search(rf"(?m)^{name} +127\.0\.0\.1:{collector.port} +native +\d+ +0 +- +0$", text), text
            collector.stop()
            log.append([record(COUNT)])
            wait_for(lambda: senders()["inside"]["waiting"] == 1, "one record waits")
            wait_for(lambda: re.search(r"(?m)^inside: not connected: .+", status(ours.run)), "it says why")
