"""We are audited, too, where we do not own the stream: counted, shown, and said with the rule that ends it."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.daemons import Auditd, Child, Ours
from tests.e2e.stream import auditctl
from tests.needs import needs

pytestmark = [needs("root", "auditd"), pytest.mark.timeout(180, func_only=True), pytest.mark.usefixtures("audit")]

CHILD = """#!{python} -IS
import os, select
while True:
    if select.select([0], [], [], 0.02)[0] and not os.read(0, 65536):
        break
    os.getppid()
"""
"""A plugin that makes an audited call fifty times a second."""


def test_the_rule_that_is_printed_ends_it(tmp_path: Path) -> None:
    program = tmp_path / "child"
    program.write_text(CHILD.format(python=sys.executable))
    program.chmod(0o750)
    ours = Ours(tmp_path / "ours", "--source", "multicast", children=[Child("busy", str(program))])
    with Auditd(tmp_path / "auditd"), ours:
        auditctl("-a", "always,exit", "-F", "arch=b64", "-S", "accept4", "-F", f"pid={ours.pid}")
        auditctl("-a", "always,exit", "-F", "arch=b64", "-S", "getppid", "-F", f"ppid={ours.pid}")
        said = r"WARNING: (\d+) % of the audited system calls of the last 10 s are our own or our plugins'"
        end = time.monotonic() + 40
        while not re.search(said, ours.said()):
            assert time.monotonic() < end, ours.status()["own_activity"]
            ours.status()  # each is an accept4 of ours
            time.sleep(0.05)
        found = re.search(said, ours.said())
        assert found is not None
        assert int(found[1]) > 90
        activity = ours.status()["own_activity"]
        assert activity["records"] > 100
        assert activity["percent"] > 90

        # Both commands as they stand in the message.
        rules = re.findall(r"auditctl (-A never,exit -F p?pid=\d+)", ours.said())
        assert rules == [f"-A never,exit -F pid={ours.pid}", f"-A never,exit -F ppid={ours.pid}"]
        for rule in rules:
            auditctl(*rule.split())
        time.sleep(0.3)
        before = ours.status()["own_activity"]["records"]
        for _ in range(20):
            ours.status()
            time.sleep(0.05)
        assert ours.status()["own_activity"]["records"] == before
        # And it is said once, not every second.
        assert len(re.findall(said, ours.said())) == 1


def test_the_owner_is_exempt(tmp_path: Path) -> None:
    """The kernel audits nothing of its audit daemon: the same rule brings nothing, and nothing is warned about."""
    with Ours(tmp_path / "ours") as ours:
        auditctl("-a", "always,exit", "-F", "arch=b64", "-S", "accept4", "-F", f"pid={ours.pid}")
        for _ in range(30):
            ours.status()
        time.sleep(0.3)
        assert b"type=SYSCALL" not in b"".join(
            line for line in ours.log.read_bytes().splitlines() if b"syscall=288" in line
        )
        assert ours.status()["own_activity"]["records"] == 0
