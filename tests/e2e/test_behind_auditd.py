"""Ours behind a real auditd: as its child on stdin, and on the socket of its af_unix plugin."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from audisp.dispatch.control import ask
from audisp.errors import SourceError
from tests.e2e.daemons import Auditd, Child, Ours, add_plugin, lines_of, size_of, work
from tests.e2e.stream import WORK_AUID, auditctl, kernel_status, wait_for, wait_quiet
from tests.needs import needs

pytestmark = [needs("root", "auditd"), pytest.mark.timeout(180, func_only=True), pytest.mark.usefixtures("audit")]


def audited(folder: Path) -> Path:
    """Rules for the mixed workload, and the folder that it works in."""
    watched = folder / "watched"
    watched.mkdir()
    rule = ["-F", "arch=b64", "-S", "execve,connect", "-F", f"auid={WORK_AUID}", "-k", "mixed"]
    auditctl("-a", "always,exit", *rule)
    auditctl("-w", str(watched), "-p", "wa", "-k", "watched")
    return watched


def between(path: Path) -> list[bytes]:
    """Lines from the begin mark to the end mark."""
    lines = [line for line in lines_of(path) if b"type=DAEMON_" not in line[:80]]
    first = next(number for number, line in enumerate(lines) if b"mark-of-begin" in line)
    last = next(number for number, line in enumerate(lines) if b"mark-of-end" in line)
    return lines[first : last + 1]


def has(path: Path, mark: bytes) -> bool:
    """Whether the mark has arrived there."""
    return path.exists() and mark in path.read_bytes()


@pytest.mark.parametrize(("form", "name_format"), [("string", "none"), ("binary", "none"), ("binary", "hostname")])
def test_as_its_child(tmp_path: Path, form: str, name_format: str) -> None:
    watched = audited(tmp_path)
    ours = Ours(tmp_path / "ours", "--source", "stdin")
    log = tmp_path / "ours.log"
    add_plugin(ours.folder, "log", plugin="log", log_file=log)
    script = tmp_path / "audispd"
    script.write_text(f"#!/bin/sh\nexec {shlex.join(ours.argv)} 2>>'{ours.out}'\n")
    script.chmod(0o750)
    auditd = Auditd(tmp_path / "auditd", [Child("audispd", str(script), format=form)], name_format=name_format)

    def status() -> dict[str, Any]:
        try:
            return ask(ours.run, "status")
        except (OSError, SourceError):
            return {}

    with auditd:
        wait_for(status, "ours is up")
        pid = status()["pid"]
        assert f"PPid:\t{auditd.pid}\n" in Path(f"/proc/{pid}/status").read_text()
        auditctl("-m", "mark-of-begin")
        work("mixed", 8, watched)
        auditctl("-m", "mark-of-end")
        wait_for(lambda: has(log, b"mark-of-end"), "the end has come", 10)
        wait_quiet(lambda: (size_of(auditd.log), size_of(log)))
        source = status()["sources"]["stdin"]
        assert source["received"] == source["routed"] > 900
        assert (source["rejected"], source["resyncs"]) == (0, 0)
        # It neither asked for the stream nor touched it.
        assert kernel_status()["pid"] == auditd.pid
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "ours has ended with its parent", 10)
    assert between(log) == between(auditd.log)
    assert "Traceback" not in ours.said()


@pytest.mark.parametrize("form", ["string", "binary"])
def test_on_its_socket(tmp_path: Path, form: str) -> None:
    watched = audited(tmp_path)
    path = tmp_path / "events"
    auditd = Auditd(tmp_path / "auditd", [Child("af_unix", "builtin_af_unix", f"0640 {path}", format=form)])
    log = tmp_path / "ours.log"
    with auditd:
        wait_for(path.exists, "the socket is there")
        ours = Ours(tmp_path / "ours", "--source", f"unix:{path}")
        add_plugin(ours.folder, "log", plugin="log", log_file=log)
        with ours:
            name = f"unix:{path}"
            auditctl("-m", "mark-of-begin")
            work("mixed", 8, watched)
            auditctl("-m", "mark-of-end")
            wait_for(lambda: has(log, b"mark-of-end"), "the end has come", 10)
            wait_quiet(lambda: (size_of(auditd.log), size_of(log)))
            source = ours.source(name)
            assert source["received"] == source["routed"] > 900
            assert (source["rejected"], source["resyncs"]) == (0, 0)
            ours.assert_balanced()
            assert between(log) == between(auditd.log)

            # Killed in the middle, and back: ours comes back, too, by itself. What was half sent is no record.
            auditd.kill()
            path.unlink(missing_ok=True)
            auditd.start()
            wait_for(lambda: ours.source(name)["reconnects"] == 1, "ours is connected again")
            auditctl("-m", "mark-after-restart")
            wait_for(lambda: has(log, b"mark-after-restart"), "the stream goes on")
            assert ours.source(name)["rejected"] <= 1
            ours.assert_balanced()
