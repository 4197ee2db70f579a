"""The exact form of records: Debian's auditd owns the stream, ours listens beside it, and both must say the same.

What auditd 3.0.9 does otherwise than 4.2, whose form is ours (upstream.md 2.1 to 2.3), is named here, one rule each,
and listed in docs/compatibility.md. The facts of 4.2 itself are held by tests/parse/test_form.py with fixed bytes.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import pytest

from audisp.parse.form import ENRICHMENT, MAX_NODE_LINE, MAX_PAYLOAD
from audisp.parse.types import type_name
from tests.e2e.daemons import Auditd, Child, Ours, add_plugin, lines_of, serials_of, sink, size_of, work
from tests.e2e.stream import WORK_AUID, auditctl, wait_for, wait_quiet
from tests.needs import needs

pytestmark = [needs("root", "auditd"), pytest.mark.timeout(180, func_only=True), pytest.mark.usefixtures("audit")]

SLOT = 16 + MAX_PAYLOAD
"""What auditd 3.0.9 sends for each record in binary form, whatever its size."""
Frame = tuple[int, int, bytes]
"""Version, type, payload."""


def slots(data: bytes) -> list[Frame]:
    """Frames of auditd 3.0.9: fixed slots, the rest of each is left over from earlier records."""
    found = []
    for at in range(0, len(data), SLOT):
        version, length, type_, size = struct.unpack_from("=4I", data, at)
        assert length == 16
        found.append((version, type_, data[at + 16 : at + 16 + size]))
    return found


def frames(data: bytes) -> list[Frame]:
    """Frames of auditd 4.1.1 and later, and ours: as long as their payload."""
    found, at = [], 0
    while at < len(data):
        version, length, type_, size = struct.unpack_from("=4I", data, at)
        assert length == 16
        found.append((version, type_, data[at + 16 : at + 16 + size]))
        at += 16 + size
    assert at == len(data)
    return found


def between(items: list[bytes]) -> list[bytes]:
    """Those from the begin mark to the end mark: around them each daemon has records of starting and stopping."""
    first = next(number for number, item in enumerate(items) if b"mark-of-begin" in item)
    last = next(number for number, item in enumerate(items) if b"mark-of-end" in item)
    return [item for item in items[first : last + 1] if b"type=DAEMON_" not in item[:300]]


def frames_between(items: list[Frame]) -> list[Frame]:
    """The same for frames."""
    first = next(number for number, item in enumerate(items) if b"mark-of-begin" in item[2])
    last = next(number for number, item in enumerate(items) if b"mark-of-end" in item[2])
    return [item for item in items[first : last + 1] if not 1200 <= item[1] < 1300]


@pytest.mark.parametrize("name_format", ["none", "user", "hostname"])
def test_as_auditd(tmp_path: Path, name_format: str) -> None:
    extra: dict[str, Any] = {"name_format": name_format}
    if name_format == "user":
        extra["name"] = "web-1.example"
    watched = tmp_path / "watched"
    watched.mkdir()
    rule = ["-F", "arch=b64", "-S", "execve,connect,pipe2", "-F", f"auid={WORK_AUID}", "-k", "mixed"]
    auditctl("-a", "always,exit", *rule)
    auditctl("-w", str(watched), "-p", "wa", "-k", "watched")

    kept = {name: tmp_path / name for name in ("string-theirs", "string-ours", "binary-theirs", "binary-ours")}

    def children(whose: str) -> list[Child]:
        return [
            Child(form, sink(tmp_path, f"{form}-{whose}-sink", kept[f"{form}-{whose}"]), format=form)
            for form in ("string", "binary")
        ]

    theirs = Auditd(tmp_path / "auditd", children("theirs"), **extra)
    ours = Ours(tmp_path / "ours", "--source", "multicast", children=children("ours"), **extra)
    log = tmp_path / "ours.log"
    add_plugin(ours.folder, "log", plugin="log", log_file=log)
    with theirs, ours:
        auditctl("-m", "mark-of-begin")
        work("mixed", 12, watched)
        work("filling")
        auditctl("-m", "mark-of-end")
        # 3.0.9 writes its last binary record only when another one comes.
        wait_quiet(lambda: [size_of(path) for path in (theirs.log, log, *kept.values())])
        books = ours.source("multicast")
        assert (books["rejected"], books["counters"].get("missing_serials", 0)) == (0, 0)
        ours.assert_balanced()

    # The log: byte for byte.
    logged = between(lines_of(theirs.log))
    assert between(lines_of(log)) == logged
    assert len(logged) > 800
    types = {line.split(b"type=")[1].split()[0] for line in logged}
    assert types >= {
        *(b"SYSCALL", b"EXECVE", b"CWD", b"PATH", b"PROCTITLE", b"SOCKADDR", b"USER", b"USER_AUTH", b"USER_AVC"),
        *(b"USER_TTY", b"USER_LOGIN", b"USER_CMD", b"SERVICE_START", b"ANOM_LOGIN_FAILURES", b"UNKNOWN[1199]"),
    }
    if name_format != "none":
        assert all(line.startswith(b"node=") for line in logged)
    assert max(map(len, logged)) > 8_900

    # String form: byte for byte, but for one thing that 4.2 changed.
    expected = between(lines_of(kept["string-theirs"]))
    if name_format != "none":
        expected = [line.removesuffix(b" ") for line in expected]
    assert between(lines_of(kept["string-ours"])) == expected
    assert sum(b"type=EOE " in line for line in expected) > 200

    # Binary form: the same frames, in a slot each with 3.0.9.
    wanted, filled = [], 0
    for version, type_, payload in frames_between(slots(kept["binary-theirs"].read_bytes())):
        # 3.0.9 and 4.2 send a message's own LF, and whoever writes it as a line is deceived; ours are spaces.
        text = payload.replace(b"\n", b" ")
        if version:
            if len(payload) == MAX_PAYLOAD and text.endswith(b"\0"):
                # 3.0.9 counts the NUL behind a line that fills its buffer to the last byte.
                text, filled = text[:-1], filled + 1
            text = text.removesuffix(b" ")
        elif ENRICHMENT in text:
            # Who writes this byte into a message makes it look enriched, which frames of version 1 are for.
            version, text = 1, b"type=%b msg=%b" % (type_name(type_), text)
        wanted.append((version, type_, text))
    assert frames_between(frames(kept["binary-ours"].read_bytes())) == wanted
    # The work fills the buffer under this name; whether it does under another is up to how long the serials are.
    assert filled > 0 or name_format != "user"
    assert filled == 0 or name_format != "none"
    assert [version for version, _, _ in wanted].count(0 if name_format == "none" else 1) > 1_000


@pytest.mark.parametrize("node", [b"", b"node=web-1.example "])
def test_longer_than_a_record_may_be(tmp_path: Path, node: bytes) -> None:
    """Made by whoever has CAP_AUDIT_WRITE. auditd 3.0.9 aborts; ours keeps the head of each and counts."""
    kept = tmp_path / "kept"
    extra = {"name_format": "user", "name": "web-1.example"} if node else {}
    children = [Child("sink", sink(tmp_path, "sink", kept))]
    with Ours(tmp_path / "ours", children=children, **extra) as ours:
        auditctl("-m", "mark-of-begin")
        work("overlong")
        auditctl("-m", "mark-of-end")
        wait_for(lambda: kept.exists() and b"mark-of-end" in kept.read_bytes(), "all is there")
        books = ours.source("netlink")
        assert books["rejected"] == 0
        assert books["lost_ranges"] == []
        ours.assert_balanced()
        assert ours.stop() == 0
    lines = [line for line in lines_of(kept) if b"type=USER_TTY " in line[:60]]
    assert len(lines) == 47
    assert books["counters"]["cut"] >= 40
    longest = MAX_NODE_LINE if node else len(b"type=USER_TTY msg=") + MAX_PAYLOAD
    assert {len(line) for line in lines if len(line) > 8_975} <= {longest, *range(8_976, longest)}
    assert max(map(len, lines)) == longest
    assert all(re.match(rb"%btype=USER_TTY msg=audit\([0-9.:]+\): pid=" % re.escape(node), line) for line in lines)
    # Nothing was torn: every serial is there, each line is one record.
    serials = serials_of(ours.log)
    assert sorted(set(serials)) == list(range(min(serials), max(serials) + 1))


def test_what_auditd_does_with_them(tmp_path: Path) -> None:
    """Why the comparison stops short of them: if this fails, auditd has been mended and can be compared further."""
    auditd = Auditd(tmp_path / "auditd", [Child("sink", sink(tmp_path, "sink", tmp_path / "kept"))])
    with auditd:
        work("overlong")
        wait_for(lambda: auditd.ended() is not None, "auditd has aborted")
    assert auditd.ended() == -6
