"""Programs of other projects, unchanged, as our children: what reaches their far end is compared record by record."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from audisp.parse.form import ENRICHMENT
from tests.e2e.daemons import Auditd, Child, Ours, lines_of, private_dev, sink, size_of, work
from tests.e2e.stream import WORK_AUID, auditctl, wait_quiet
from tests.needs import needs

pytestmark = [needs("root", "auditd"), pytest.mark.timeout(180, func_only=True), pytest.mark.usefixtures("audit")]

REMOTE_CONF = "/etc/audit/audisp-remote.conf"
"""Compiled into audisp-remote."""


def audited(folder: Path) -> Path:
    """Rules for the mixed workload, and the folder that it works in."""
    watched = folder / "watched"
    watched.mkdir()
    rule = ["-F", "arch=b64", "-S", "execve,connect", "-F", f"auid={WORK_AUID}", "-k", "mixed"]
    auditctl("-a", "always,exit", *rule)
    auditctl("-w", str(watched), "-p", "wa", "-k", "watched")
    return watched


class Syslogd:
    """Whatever comes to a datagram socket, as syslogd would have it."""

    def __init__(self, path: Path) -> None:
        self.messages: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while message := self._socket.recv(65_536):
            self.messages.append(message)

    def close(self) -> None:
        """No more."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()


@contextmanager
def syslogd(path: Path) -> Iterator[Syslogd]:
    """One that ends."""
    found = Syslogd(path)
    try:
        yield found
    finally:
        found.close()


@needs("audisp-syslog")
def test_audisp_syslog(tmp_path: Path) -> None:
    watched = audited(tmp_path)
    kept = tmp_path / "kept"
    children = [
        Child("syslog", "/sbin/audisp-syslog", "LOG_INFO LOG_LOCAL3"),
        Child("sink", sink(tmp_path, "sink", kept)),
    ]
    with (
        syslogd(tmp_path / "log") as log,
        Ours(tmp_path / "ours", children=children, wrapper=private_dev(tmp_path, tmp_path / "log")) as ours,
    ):
        work("mixed", 6, watched)
        wait_quiet(lambda: (size_of(ours.log), len(log.messages)))
        ours.assert_balanced()
        assert ours.plugin("syslog")["restarts"] == 0
    got = []
    for message in log.messages:
        found = re.fullmatch(rb"<158>\w{3} [ \d]\d [\d:]{8} audispd: (.*)\n", message, re.S)
        if found:
            got.append(found[1])
    expected = [line.replace(ENRICHMENT, b" ") for line in lines_of(kept)]  # as audisp-syslog does
    assert got == expected
    assert len(got) > 800


@needs("audisp-remote")
def test_audisp_remote(tmp_path: Path) -> None:
    watched = audited(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    conf = tmp_path / "audisp-remote.conf"
    keys = {
        "remote_server": "127.0.0.1",
        "port": port,
        "transport": "tcp",
        "queue_file": tmp_path / "queue",
        "mode": "immediate",
        "queue_depth": 10_240,
        "format": "managed",
        "network_retry_time": 1,
        "network_failure_action": "stop",
    }
    conf.write_text("".join(f"{key} = {value}\n" for key, value in keys.items()))
    conf.chmod(0o640)
    script = tmp_path / "remote"
    run = f"mount --bind {conf} {REMOTE_CONF} && exec /sbin/audisp-remote"
    script.write_text(f"#!/bin/sh\nexec unshare -m sh -c '{run}'\n")
    script.chmod(0o750)
    collector = Auditd(tmp_path / "collector", listen=port)
    kept = tmp_path / "kept"
    children = [Child("remote", str(script)), Child("sink", sink(tmp_path, "sink", kept))]
    with collector, Ours(tmp_path / "ours", children=children) as ours:
        work("mixed", 6, watched)
        wait_quiet(lambda: (size_of(ours.log), size_of(collector.log)), 1.0)
        ours.assert_balanced()
    got = [line for line in lines_of(collector.log) if b"type=DAEMON_" not in line[:60]]
    # audisp-remote leaves out EOE, and the collector's lines may be longer than a local log's.
    lines = [line for line in lines_of(kept) if not line.startswith((b"type=EOE ", b"type=DAEMON_"))]
    expected = [line.removesuffix(b" ") for line in lines]
    assert got == expected
    assert len(got) > 700


@needs("laurel")
def test_laurel(tmp_path: Path) -> None:
    watched = audited(tmp_path)
    out = tmp_path / "laurel"
    out.mkdir()
    conf = tmp_path / "laurel.toml"
    conf.write_text(
        f'directory = "{out}"\nstatusreport-period = 0\n'
        '[auditlog]\nfile = "events"\nsize = 500000000\ngenerations = 1\n'
        '[transform]\nexecve-argv = [ "array" ]\n'
    )
    with Ours(tmp_path / "ours", children=[Child("laurel", "/usr/sbin/laurel", f"--config {conf}")]) as ours:
        work("mixed", 6, watched)
        wait_quiet(lambda: (size_of(ours.log), size_of(out / "events")), 1.0)
        ours.assert_balanced()
        assert ours.plugin("laurel")["restarts"] == 0, ours.said()
    events = [json.loads(line) for line in lines_of(out / "events")]
    got = {event["ID"]: set(event) - {"ID", "NODE"} for event in events}
    expected: dict[str, set[str]] = {}
    for line in lines_of(ours.log):
        found = re.match(rb"type=(\S+) msg=audit\(([0-9.:]+)\)", line)
        assert found is not None
        expected.setdefault(found[2].decode(), set()).add(found[1].decode())
    assert got == expected


def test_a_shell_script(tmp_path: Path) -> None:
    """The least that a plugin can be: a loop that reads lines. Empty environment, signals as it expects them."""
    watched = audited(tmp_path)
    kept = tmp_path / "kept"
    script = tmp_path / "script"
    script.write_text(
        "#!/bin/sh\nenv >>$1.env\nwhile IFS= read -r line; do printf '%s\\n' \"$line\"; done >>$1\necho end >>$1.end\n"
    )
    script.chmod(0o750)
    children = [Child("script", str(script), str(kept)), Child("sink", sink(tmp_path, "sink", tmp_path / "sunk"))]
    with Ours(tmp_path / "ours", children=children) as ours:
        work("mixed", 4, watched)
        wait_quiet(lambda: (size_of(ours.log), size_of(kept)))
        ours.assert_balanced()
    assert lines_of(kept) == lines_of(tmp_path / "sunk")
    assert len(lines_of(kept)) > 500
    assert lines_of(Path(f"{kept}.end")) == [b"end"]
    assert Counter(line.split(b"=")[0] for line in lines_of(Path(f"{kept}.env"))) <= Counter([b"PWD", b"SHLVL", b"_"])
