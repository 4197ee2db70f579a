"""Mistakes of a tired administrator under a running dispatcher: none of them costs a record."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.dispatch.voices import PATIENCE

AUDISPD = (sys.executable, "-I", "-m", "audisp.cli.audispd")
AUDITD = "plugin_dir = {}/plugins\nlog_format = RAW\nspace_left = 2\nadmin_space_left = 1\n"


class Admin:
    """Makes mistakes, one after the other."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)
        self.folder, self.plugins = folder, folder / "plugins"
        self.auditd, self.audispd, self.conf = (
            folder / "auditd.conf",
            folder / "audispd.conf",
            self.plugins / "x.audisp",
        )
        self.plugins.mkdir()
        self.sink = folder / "sink.sh"
        self.sink.write_text(f"#!/bin/sh\nexec cat >> {folder}/out\n")
        self.right()

    def right(self) -> None:
        """Everything as it should be."""
        if not self.plugins.exists():
            (self.folder / "aside").rename(self.plugins)
        self.sink.chmod(0o755)
        self.auditd.write_text(AUDITD.format(self.folder))
        self.audispd.write_text("drain_timeout = 20\n")
        self.conf.write_text(f"active = yes\npath = {self.sink}\n")
        self.conf.chmod(0o644)

    def mistakes(self) -> list[tuple[Callable[[], object], str]]:
        """What to do, and what must be said of it."""
        good = self.conf.read_text()
        return [
            (lambda: self.conf.write_text(good + "activ = no\n"), "x.audisp:3: unknown key 'activ'"),
            (lambda: self.conf.write_text(good.replace("yes", "yse")), "x.audisp:1: active: 'yse' is not one of"),
            (lambda: self.conf.write_text(good.replace("sink", "sinc")), "sinc.sh' cannot be used: No such file"),
            (lambda: self.conf.write_text(good.rstrip()), "x.audisp:2: the last line has no line end"),
            (lambda: self.conf.write_text(good + "user = rooot\n"), "(did you mean 'root'?)"),
            (lambda: self.sink.chmod(0o777), "sink.sh' can be written by its group and everybody"),
            (lambda: self.conf.chmod(0o666), "x.audisp: can be written by its group and everybody"),
            (lambda: self.plugins.rename(self.folder / "aside"), "plugins: no plugins, the folder cannot be opened"),
            (
                lambda: self.auditd.write_text(AUDITD.format("/nowhere")),
                "/nowhere/plugins: no plugins, the folder cannot be opened",
            ),
            (lambda: self.auditd.write_text("q_depth = many\n"), "auditd.conf:1: q_depth: 'many' is not a whole"),
            (self.auditd.unlink, "auditd.conf: is gone since the last reading"),
            (self.audispd.unlink, "audispd.conf: is gone since the last reading"),
            (lambda: self.audispd.write_text("sourc = stdin\n"), "audispd.conf:1: unknown key 'sourc'"),
        ]


def test_no_mistake_costs_a_record(tmp_path: Path) -> None:
    admin = Admin(tmp_path)
    log = tmp_path / "said"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*AUDISPD, "-n", "-c", tmp_path, "--source", "stdin", "--runtime-dir", tmp_path / "run"],
            stdin=subprocess.PIPE,
            stderr=said,
        )
    assert process.stdin is not None
    sent = 0

    def wait(text: str, times: int = 1) -> None:
        give_up = time.monotonic() + PATIENCE
        while log.read_text().count(text) < times:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < give_up, f"never said: {text}\n{log.read_text()}"
            time.sleep(0.01)

    def feed() -> None:
        nonlocal sent
        assert process.stdin is not None
        for _ in range(50):
            sent += 1
            process.stdin.write(b"type=USER msg=audit(1700000000.123:%d): x\n" % sent)
        process.stdin.flush()

    try:
        give_up = time.monotonic() + PATIENCE
        while not (tmp_path / "run/control.sock").exists():
            assert time.monotonic() < give_up
            time.sleep(0.01)
        done = 0
        for mistake, text in admin.mistakes():
            feed()
            mistake()
            process.send_signal(signal.SIGHUP)
            feed()
            wait(text)
            # A bad plugin file does not end a reload, a bad file of ours or auditd's does.
            done += ".conf" not in text
            wait("NOTICE: reload: ", done)
            admin.right()
            process.send_signal(signal.SIGHUP)
            feed()
            done += 1
            wait("NOTICE: reload: ", done)
        process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, log.read_text()
    found = re.findall(rb"^type=USER msg=audit\(1700000000\.123:(\d+)\)", (tmp_path / "out").read_bytes(), re.M)
    assert [int(serial) for serial in found] == list(range(1, sent + 1))
    assert os.listdir(tmp_path / "plugins") == ["x.audisp"]
