"""ENRICHED format: Debian's auditd writes it, and our functions must make the same of the same records, byte by byte.

Two ways to the records: auditd's own lines without what it appended, and what ours read beside it, from the multicast
group. What auditd 3.0.9 says and we do not is named here, one rule each, and listed in docs/shapes/raw.md.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from audisp.parse.enriched import enrich_lines
from audisp.parse.form import MAX_NODE_LINE
from tests.e2e.ausearch_rules import HostNames
from tests.e2e.daemons import Auditd, Ours, add_plugin, lines_of, size_of, work
from tests.e2e.stream import WORK_AUID, auditctl, wait_quiet
from tests.e2e.test_form import between
from tests.e2e.workload import send
from tests.needs import ROOT, needs

pytestmark = [needs("root", "auditd"), pytest.mark.timeout(180, func_only=True), pytest.mark.usefixtures("audit")]

USER = 1005
MESSAGES = (
    b"op=ids uid=1000 gid=1000 euid=0 egid=0 suid=33 sgid=33 id=0 new_gid=8 oauid=4294967295 inode_uid=1",
    b"op=nobody auid=12345 ouid=4294967295 ogid=65534 old-auid=-1",
    b"op=arch arch=c00000b7 arch=40000003 arch=14 arch=dead",
    b"op=inet saddr=02000050170203040000000000000000",
    b"op=inet6 saddr=0A0000500000000000000000000000000000FFFFCB00710902000000",
    b"op=local saddr=01002F746D702F61206200FFFF saddr=01002F72756E2F7800",
    b"op=netlink saddr=1000000034120000FF000000",
    b"op=short saddr=0200 saddr=02 saddr=0000 saddr=0100 saddr=2600736B",
    b"op=brackets (uid=0 uid=0) uid=0, uid=0: gid=0'",
    b'op=quotes uid="0" d="x uid=1 y" e=\'uid=2\' msg=\'uid=3',
    b"op=empty uid= gid uid =0 =0",
    b"op=many " + b"uid=0 " * 700,
    b"op=more " + b"x" * 37 + b" " + b"uid=65534 " * 600,
    b"op=sockets " + b"saddr=01002F746D702F61206200 " * 200,
    b'op=forged \x1dUID="root"',
    # Each of these has a rule below.
    b"op=call arch=c000003e syscall=59",
    b"op=letters uid=zz auid=-2 suid=+1 fsuid=4294967296",
    b"op=abstract saddr=010000616263",
    b"op=uring uring_op=18",
)
"""What a process with CAP_AUDIT_WRITE may say of itself."""


def as_auditd(line: bytes) -> bytes:
    """A line of ours with what auditd 3.0.9 says otherwise."""
    own, separator, items = line.rpartition(b"\x1d")
    if not separator:
        return line
    # The name of an abstract socket as if it were a path.
    items = items.replace(b"path=@", b"path=")
    # It knows the machine in SYSCALL alone, and io_uring not at all.
    if not own.startswith(b"type=SYSCALL"):
        items = re.sub(rb"\bSYSCALL=\S+", b"SYSCALL=unknown-syscall(-1)", items)
    items = re.sub(rb" URING_OP=\S+", b"", items)
    # An id that is no number is root's, or what the digits in it say; -2 is a number.
    if b"op=letters " in own:
        items += b' UID="root" AUID="unknown(-2)" SUID="daemon" FSUID="root"'
    return own + separator + items


def test_as_auditd(tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    rule = ["-F", "arch=b64", "-S", "execve,connect,bind,pipe2", "-F", f"auid={WORK_AUID}", "-k", "mixed"]
    auditctl("-a", "always,exit", *rule)
    auditctl("-w", str(watched), "-p", "wa", "-k", "watched")
    theirs = Auditd(tmp_path / "auditd", log_format="ENRICHED")
    ours = Ours(tmp_path / "ours", "--source", "multicast")
    log = tmp_path / "ours.log"
    add_plugin(ours.folder, "log", plugin="log", log_file=log)
    with theirs, ours:
        auditctl("-m", "mark-of-begin")
        work("mixed", 12, watched)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9) as sock:
            for text in MESSAGES:
                send(sock, USER, text + b"\0")
        auditctl("-m", "mark-of-end")
        wait_quiet(lambda: [size_of(path) for path in (theirs.log, log)])

    expected = between(lines_of(theirs.log))
    assert len(expected) > 800
    types = {line.split(b" ", 1)[0] for line in expected if b"\x1d" in line}
    assert types >= {b"type=SYSCALL", b"type=PATH", b"type=SOCKADDR", b"type=USER", b"type=USER_LOGIN"}
    assert any(len(line) == MAX_NODE_LINE for line in expected)

    # What auditd appended to is what we append to, and we append the same.
    raw = [bare(line) for line in expected]
    made = enrich_lines(b"\n".join(raw), HostNames()).split(b"\n")
    assert [as_auditd(line) for line in made] == expected

    # The records that ours read for themselves, in the same way.
    read = between(lines_of(log))
    assert [line[: len(own)] for line, own in zip(read, raw, strict=True)] == raw
    made = enrich_lines(b"\n".join(read), HostNames()).split(b"\n")
    assert [as_auditd(line) for line in made] == expected


def bare(line: bytes) -> bytes:
    """A line of auditd's without what it appended: what stands behind the last 0x1D, but for one that was sent."""
    own, separator, _ = line.rpartition(b"\x1d")
    return own if separator and not own.endswith(b"msg='op=forged ") else line


def test_the_rules_are_documented() -> None:
    text = (ROOT / "docs" / "shapes" / "raw.md").read_text(encoding="utf-8")
    for word in ("abstract", "unknown-syscall(-1)", "URING_OP", "unknown(-2)", "no number"):
        assert word in text
