"""The plugin `remote` in a whole dispatcher, to a real collector over TLS: reload, and what `audisp check` says."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from audisp.dispatch.control import ask
from tests.e2e.collectors import Collector
from tests.e2e.stream import wait_for
from tests.needs import ROOT, needs
from tests.soak.forward import Dispatcher, record
from tests.sources.rotating import RotatingLog
from tests.tls.ends import KEY, WEB1
from tests.tls.files import put_key

pytestmark = [needs("root"), pytest.mark.timeout(120, func_only=True)]


def collector(folder: Path) -> Collector:
    folder.mkdir()
    folder.chmod(0o750)
    key = put_key(folder / "psk", KEY)
    return Collector(folder, transport="tls", tls_psk_identity=WEB1.decode(), tls_psk_file=key)


def stored(where: Collector) -> list[bytes]:
    return [each for each in where.records() if not each.startswith(b"type=DAEMON_")]


def change(dispatcher: Dispatcher, old: str, new: str) -> None:
    path = dispatcher.folder / "audisp-remote.conf"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_sighup_takes_another_server_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "audit.log")
    log.append([record(1)])
    with collector(tmp_path / "first") as first, collector(tmp_path / "second") as second:
        dispatcher = Dispatcher(tmp_path / "ours", log.path, tmp_path / "spool", first.port)
        with dispatcher:
            wait_for(lambda: len(stored(first)) == 1, "the first record is stored")
            log.append([record(number) for number in range(2, 101)])
            wait_for(lambda: len(stored(first)) == 100, "a hundred are stored")
            wait_for(lambda: ask(dispatcher.control, "status")["plugins"]["remote"]["waiting"] == 0, "all is taken")
            # Nothing of it has changed, so nothing is done.
            dispatcher.send(signal.SIGHUP)
            wait_for(lambda: "reload: nothing had changed" in dispatcher.said(), "the first reload")
            change(dispatcher, f"port = {first.port}", f"port = {second.port}")
            dispatcher.send(signal.SIGHUP)
            wait_for(lambda: "reload: remote restarted" in dispatcher.said(), "the second reload")
            log.append([record(number) for number in range(101, 201)])
            wait_for(lambda: len(stored(second)) >= 100, "a hundred more are stored")
            detail = ask(dispatcher.control, "status")["plugins"]["remote"]["detail"]
            assert detail["server"] == f"127.0.0.1:{second.port}"
            assert detail["protocol"].startswith("native")
            # A key that does not fit any more is said, and what runs stays.
            change(dispatcher, "transport = tls", "transport = tsl")
            dispatcher.send(signal.SIGHUP)
            wait_for(lambda: "did you mean 'tls'?" in dispatcher.said(), "the third reload")
            log.append([record(201)])
            wait_for(lambda: len(stored(second)) >= 101, "it goes on")
        assert stored(first) == [record(number) for number in range(1, 101)]
        assert stored(second) == [record(number) for number in range(101, 202)]
    assert "Traceback" not in dispatcher.said()


def test_check_names_the_line_of_the_senders_own_file(tmp_path: Path) -> None:
    dispatcher = Dispatcher(tmp_path / "ours", tmp_path / "audit.log", tmp_path / "spool", 60)
    words = [sys.executable, "-m", "audisp.cli.audisp", "check", str(dispatcher.folder)]
    good = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert good.returncode == 0, good.stdout + good.stderr
    change(dispatcher, "network_retry_max", "network_retry_mx")
    bad = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert bad.returncode == 1
    said = bad.stdout + bad.stderr
    assert "audisp-remote.conf:11" in said
    assert "network_retry_max" in said
