"""Row by row and cell by cell against `ausearch --format csv`: recorded logs, hand-made ones, and one event for each
system call and each record type. Where we differ a rule says why (tests/e2e/ausearch_csv_rules.py), and
docs/shapes/csv.md lists the rules.

Of the large recordings some 20,000 records are drawn; AUDISP_WHOLE=1 in the environment compares all of them.
"""

from __future__ import annotations

import csv
import io
import lzma
import os
import random
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import attrs
import pytest
from _pytest.mark import ParameterSet

from audisp.event import Event
from audisp.parse.arch import syscalls
from audisp.parse.assemble import Assembler
from audisp.parse.lines import LineReader
from audisp.parse.record import RecordReader
from audisp.parse.types import NAME
from audisp.record import Block
from audisp.shapes.csv_columns import COLUMNS, Csv
from audisp.shapes.normal import compounds, rules
from audisp.shapes.normal_tables import TYPES
from audisp.shapes.shape import ShapeSettings
from tests.e2e.ausearch_csv_rules import RULES, Difference, Row, as_ausearch, explain
from tests.e2e.ausearch_rules import HostNames, another_version
from tests.needs import CORPUS, ROOT, needs

pytestmark = needs("ausearch")

DRAWN: Final = 20_000
"""Records compared of a large recording: some two seconds."""
ROW_RULES: Final = ("login and its call", "decisions without avc", "cut short", "rejected lines")
"""Why one side has a row that the other has not; in docs/shapes/csv.md too."""

Key = tuple[str, str, str, str]
"""Node, date, time, serial."""


@pytest.fixture(autouse=True, scope="module")
def _version() -> None:
    if reason := another_version():
        pytest.skip(reason)


def let_in(data: bytes) -> bytes:
    """The records of a log, as a source takes them."""
    reader = LineReader(1 << 20)
    reader.feed(data)
    reader.close()
    return reader.take()[0]


def events(good: bytes) -> list[Event]:
    """The events of a recorded log."""
    assembler = Assembler("log", RecordReader(), recorded=True)
    found = []
    for batch in (assembler.feed(Block(good, good.count(b"\n"), "log", 0.0), 0.0), assembler.flush(0.0)):
        found += [] if batch is None else batch.events
    return found


def drawn(data: bytes) -> bytes:
    """Whole events of a large log, the same ones each time."""
    lines = data.split(b"\n")[:-1]
    if len(lines) <= DRAWN or os.environ.get("AUDISP_WHOLE"):
        return data
    stamps: dict[bytes, list[bytes]] = defaultdict(list)
    for line in lines:
        stamps[line[line.find(b"audit(") : line.find(b")")]].append(line)
    chosen = set(random.Random(1).sample(sorted(stamps), len(stamps) * DRAWN // len(lines)))
    return b"".join([b"".join([line + b"\n" for line in each]) for stamp, each in stamps.items() if stamp in chosen])


def ausearch(path: Path) -> list[str]:
    """The rows that ausearch prints, without its header."""
    environment = {**os.environ, "TZ": "UTC", "LC_ALL": "C"}
    argv = ["ausearch", "--format", "csv", "-if", str(path)]
    done = subprocess.run(argv, env=environment, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    header, *rows = done.stdout.decode("utf-8", "backslashreplace").split("\n")
    assert header == ",".join(COLUMNS)
    return rows[:-1]


def row(line: bytes) -> dict[str, str]:
    """A row of ours by column, the cells as they are."""
    (cells,) = csv.reader(io.StringIO(line.decode()), strict=True)
    return dict(zip(COLUMNS, cells, strict=True))


def key(cells: Row) -> Key:
    """What the rows of one event have in common."""
    return cells["NODE"], cells["DATE"], cells["TIME"], cells["SERIAL_NUM"]


@attrs.define
class Comparison:
    """What came of one log. equal: rows that do not differ. rules: how often each was needed. wrong: the rest."""

    rows: int = 0
    equal: int = 0
    rules: Counter[str] = attrs.field(factory=Counter)
    wrong: list[str] = attrs.field(factory=list)


def cells_of(line: str, ours: Row) -> dict[str, str] | None:
    """A row of ausearch's by column: it quotes nothing, so commas in values are told by what ours has there."""
    parts = line.split(",")
    if len(parts) == len(COLUMNS):
        return dict(zip(COLUMNS, parts, strict=True))
    if len(parts) < len(COLUMNS):
        return dict.fromkeys(COLUMNS, "") | dict(zip(COLUMNS, parts, strict=False))
    found: dict[str, str] = {}
    for name in COLUMNS:
        size = as_ausearch(ours[name]).count(",") + 1
        found[name] = ",".join(parts[:size])
        parts = parts[size:]
    return None if parts else found


def compare(data: bytes, folder: Path) -> Comparison:
    """Ours beside ausearch's."""
    path = folder / "compared.log"
    path.write_bytes(data)
    result = Comparison()
    waiting: dict[Key, list[str]] = defaultdict(list)
    for line in ausearch(path):
        parts = line.split(",")
        waiting[parts[0], parts[2], parts[3], parts[4]].append(line)
    shape = Csv(ShapeSettings(names=HostNames()))
    logins = set()
    good = let_in(data)
    for event in events(good):
        rendered = shape.render(event)
        if not rendered:
            continue
        ours = row(rendered)
        result.rows += 1
        types = {record.type for record in event.records}
        if {"LOGIN", "SYSCALL"} <= types:
            logins.add(key(ours))
        candidates = waiting.get(key(ours))
        if not candidates:
            reason = missing_row(event)
            result.rules[reason or ""] += 1
            if reason is None:
                result.wrong.append(f"only ours: {rendered!r}\n{event.raw[:300]!r}")
            continue
        # Of two rows with one stamp the one of our type: ausearch sorts what has one serial its own way.
        at = next((at for at, line in enumerate(candidates) if line.split(",")[1] == ours["EVENT"]), 0)
        one(event, ours, candidates.pop(at), result)
    for stamp, lines in waiting.items():
        for line in lines:
            reason = "login and its call" if stamp in logins else surplus(line, data)
            result.rules[reason or ""] += 1
            if reason is None:
                result.wrong.append(f"only theirs: {line}")
    return result


def one(event: Event, ours: Row, line: str, result: Comparison) -> None:
    """One event's two rows."""
    mine = {name: as_ausearch(cell) for name, cell in ours.items()}
    if ",".join(mine.values()) == line:
        result.equal += 1
        return
    theirs = cells_of(line, ours)
    if theirs is None:
        result.wrong.append(f"commas: {line}\nours: {mine}")
        return
    for name in COLUMNS:
        if mine[name] != theirs[name]:
            rule = explain(Difference(name, mine[name], theirs[name], event, mine, theirs))
            result.rules[rule or ""] += 1
            if rule is None:
                result.wrong.append(f"{name}: theirs {theirs[name]!r} ours {mine[name]!r}\n{line}\n{event.raw[:600]!r}")


def missing_row(event: Event) -> str | None:
    """Why ausearch has no row for an event."""
    if any(record.number in (1400, 1107) and "avc:" not in record.body for record in event.records):
        return "decisions without avc"
    record = event.first("SYSCALL")
    if record is not None and record.raw("ppid") is None:
        return "cut short"
    return None


def surplus(line: str, data: bytes) -> str | None:
    """Why ausearch has a row that we have not: our sources do not let in what has no type, no stamp or no ``msg=``."""
    serial = line.split(",")[4].encode()
    record = re.compile(rb"(?:node=\S+ )?type=\S+ msg=audit\([0-9]+\.[0-9]+:[0-9]+\):")
    bad = [each for each in data.split(b"\n") if each and not record.match(each)]
    return "rejected lines" if serial == b"0" or any(b":%b)" % serial in each for each in bad) else None


# ---- what is compared ----


def _sources() -> Iterator[ParameterSet]:
    yield pytest.param(ROOT / "tests" / "corpus" / "mixed.log", id="mixed-part")
    yield pytest.param(ROOT / "tests" / "corpus" / "nasty-events.log", id="nasty-events")
    names = ["mixed.log.xz", "mixed-enriched.log.xz", "sigma_positive.log"]
    public = sorted(CORPUS.glob("public/*/*.log"))
    for path in [*(CORPUS / name for name in names), *public]:
        yield pytest.param(path, id=path.name, marks=needs("corpus"))


_CALL: Final = (
    "arch={arch} syscall={number} success={success} exit={exit} a0=1 a1=2 a2=3 a3=4 items=0 ppid=11 pid=12 auid=1000 "
    'uid={uid} gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts5 ses=77 comm="c" exe="{exe}" key={key}'
)
_PATH: Final = 'item={item} name="{name}" inode=9{item} dev=fe:00 mode={mode} ouid=0 ogid=0 rdev=00:00 nametype={type}'


def call(number: int, arch: str = "c000003e", **changed: str) -> tuple[str, str]:
    """A SYSCALL record."""
    values = {"success": "yes", "exit": "0", "uid": "33", "exe": "/bin/e", "key": '"k"', **changed}
    return "SYSCALL", _CALL.format(arch=arch, number=number, **values)


def path(item: int, name: str, type_: str = "NORMAL", mode: str = "0100644") -> tuple[str, str]:
    """A PATH record."""
    return "PATH", _PATH.format(item=item, name=name, mode=mode, type=type_)


CWD: Final = ("CWD", 'cwd="/w"')
TITLE: Final = ("PROCTITLE", 'proctitle="title"')
EXECVE: Final = ("EXECVE", 'argc=2 a0="c" a1="x"')
ADDRESS: Final = ("SOCKADDR", "saddr=02000050170203040000000000000000")
PARENT: Final = path(0, "/d/", "PARENT", "040755")
BESIDE: Final = (
    (),
    (CWD, path(0, "/f"), TITLE),
    (CWD, path(0, "f"), TITLE),
    (CWD, path(0, "../f", mode="040755"), TITLE),
    (CWD, PARENT, path(1, "/d/f", "CREATE"), TITLE),
    (CWD, PARENT, PARENT, path(2, "old", "DELETE"), path(3, "new", "CREATE"), TITLE),
    (EXECVE, CWD, path(0, "/bin/e"), path(1, "/lib/ld.so"), TITLE),
    (ADDRESS, TITLE),
    (("SOCKADDR", "saddr=01002F72756E2F7800FFFF"), CWD, path(0, "/run/x", mode="0140777"), TITLE),
    (("OBJ_PID", 'opid=55 oauid=-1 ouid=0 oses=-1 ocomm="o"'), TITLE),
    (("OBJ_PID", "opid=55 oauid=-1 ouid=0 oses=-1"), ("OBJ_PID", "opid=56 oauid=-1 ouid=0 oses=-1"), TITLE),
)
"""What stands beside a system call."""


def by_call() -> Iterator[list[tuple[str, str]]]:
    """Every system call of which something is said, and some of which nothing is, with everything beside it."""
    for machine, arch in (("x86_64", "c000003e"), ("i386", "40000003"), ("aarch64", "c00000b7")):
        for number, name in syscalls(machine).items():
            if name in rules() or number % 60 == 0:
                yield from ([call(number, arch), *beside] for beside in BESIDE)
    for success, exit_ in (("yes", "3"), ("no", "-13"), ("no", "-512")):
        yield [call(257, success=success, exit=exit_), CWD, path(0, "/f"), TITLE]
    for uid in (0, 1, 999, 1000, 59_999, 60_000, 65_534, 4_294_967_295):
        yield [call(257, uid=str(uid)), CWD, path(0, "/f"), TITLE]
    for exe in ("/usr/bin/python3.11", "/usr/bin/perl", "/usr/bin/bash", "/bin/bash", "/usr/bin/ruby"):
        yield [call(59, exe=exe), EXECVE, CWD, path(0, "/f"), TITLE]
    yield [call(257), CWD, ("PATH", "item=0 name=(null) inode=5 dev=fe:00 mode=0100644 nametype=NORMAL"), TITLE]
    yield [call(257), CWD, ("PATH", "item=0 name=2F7F1BC285FF inode=5 dev=fe:00 mode=0100644 nametype=NORMAL"), TITLE]
    yield [call(42), ("SOCKADDR", "saddr=010000616263"), TITLE]
    for key_ in ("(null)", '"k"', "6B31016B32"):
        yield [call(0, key=key_), TITLE]
    for kind in ("020666", "060666", "010666", "0140666", "0120777", "040755"):
        yield [call(90), CWD, path(0, "/f", mode=kind), TITLE]


_USER: Final = (
    'pid=7 uid=33 auid=1000 ses=4 msg=\'op={op} acct="bob" id=1001 exe="/usr/sbin/x" hostname=h addr=192.0.2.1 '
    'terminal=pts/1 unit=u cmd="ls" data=6C730D device=d sw="s" sw_type=rpm vm="v" resrc=disk fp=aa rport=22 '
    "printer=p new-level=5 selected-context=c res={res}'"
)
_LOGIN: Final = 'exe="/usr/sbin/sshd" hostname=? addr=192.0.2.1 terminal=ssh res=failed'
BODIES: Final = (
    ("CONFIG_CHANGE", 'auid=1000 ses=3 op=add_rule key="k" list=4 res=1'),
    ("CONFIG_CHANGE", "auid=1000 ses=3 op=remove_rule key=(null) list=4 res=1"),
    ("CONFIG_CHANGE", "op=set audit_enabled=1 old=0 auid=4294967295 ses=4294967295 res=0"),
    ("CONFIG_CHANGE", "audit_backlog_limit=8192 old=64 auid=0 ses=1 res=1"),
    ("BPF", "prog-id=10 op=LOAD"),
    ("BPF", "prog-id=10 op=UNLOAD"),
    ("EVENT_LISTENER", 'pid=1 uid=0 auid=1000 tty=(none) ses=3 comm="j" exe="/j" nl-mcgrp=1 op=connect res=1'),
    ("EVENT_LISTENER", 'pid=1 uid=0 auid=1000 tty=(none) ses=3 comm="j" exe="/j" nl-mcgrp=1 op=disconnect res=1'),
    ("ANOM_PROMISCUOUS", "dev=eth0 prom=256 old_prom=0 auid=1000 uid=0 gid=0 ses=3"),
    ("ANOM_PROMISCUOUS", "dev=eth0 prom=0 old_prom=256 auid=1000 uid=0 gid=0 ses=3"),
    ("NETFILTER_CFG", 'table=filter:3 family=2 entries=4 op=nft_register_chain pid=33 comm="nft"'),
    ("SECCOMP", 'auid=1000 uid=33 ses=3 pid=4 comm="c" exe="/e" sig=31 arch=c000003e syscall=41 code=0x80000000'),
    ("ANOM_ABEND", 'auid=1000 uid=33 gid=1 ses=3 pid=4 comm="c" exe="/e" sig=11 res=1'),
    ("TTY", 'tty pid=4 uid=0 auid=1000 ses=3 major=4 minor=5 comm="bash" data=6C730D'),
    ("FEATURE_CHANGE", 'pid=1 uid=0 auid=0 ses=1 comm="a" exe="/a" feature=only_unset_loginuid old=0 new=1 res=1'),
    ("ANOM_LINK", 'op=follow_link ppid=1 pid=2 auid=1000 uid=33 gid=0 tty=pts0 ses=3 comm="c" exe="/e" res=0'),
    ("INTEGRITY_DATA", 'pid=1 uid=33 auid=1000 ses=3 op=appraise_data cause=invalid-hash comm="c" name="/n" res=0'),
    ("KERNEL", "state=initialized audit_enabled=0 res=1"),
    ("MAC_POLICY_LOAD", "auid=1000 ses=3 lsm=selinux res=1"),
    ("MAC_STATUS", "enforcing=0 old_enforcing=1 auid=1000 ses=3 enabled=1 old-enabled=1 lsm=selinux res=1"),
    ("MAC_CONFIG_CHANGE", "bool=httpd_x val=1 old_val=0 auid=1000 ses=3"),
    ("MAC_UNLBL_ALLOW", "netlabel: auid=1000 ses=3 unlbl_accept=1 old=0"),
    ("MAC_MAP_ADD", "netlabel: auid=1000 ses=3 nlbl_domain=(default) nlbl_protocol=unlbl res=1"),
    ("SELINUX_ERR", 'op=security_compute_sid invalid_context="u:r:t" scontext=u:a:b tcontext=u:c:d tclass=process'),
    ("FANOTIFY", "resp=2"),
    ("KERN_MODULE", 'name="xfs"'),
    ("TIME_ADJNTPVAL", "op=offset old=0 new=1"),
    ("AVC", 'avc:  denied  { read write } for  pid=1 comm="c1" name="n" scontext=u:r:s tcontext=u:r:t tclass=file'),
    ("AVC", 'apparmor="DENIED" operation="open" profile="/p" name="/etc/x" pid=77 comm="cupsd" requested_mask="r"'),
    ("LOGIN", "pid=24 uid=0 old-auid=4294967295 auid=1000 tty=(none) old-ses=4294967295 ses=5 res=1"),
    ("DAEMON_START", "op=start ver=4.2 format=raw kernel=6.1 auid=4294967295 pid=24 uid=0 ses=4294967295 res=success"),
    ("DAEMON_END", "op=terminate auid=0 uid=0 ses=4294967295 pid=23 res=success"),
    ("URINGOP", 'uring_op=18 success=yes exit=0 items=1 ppid=1 pid=2 uid=33 gid=0 key="k"'),
)  # fmt: skip
"""Records of the kernel's and of auditd's as they are written."""


def by_type() -> Iterator[list[tuple[str, str]]]:
    """Every type alone, those of user space twice, and the kernel's beside a system call."""
    for number, name in NAME.items():
        if 1100 <= number < 1200 or number >= 2100 or number == 1005:
            yield [(name.decode(), _USER.format(op="start", res="success"))]
            yield [(name.decode(), _USER.format(op="add-user", res="failed"))]
    yield [("USER_LOGIN", f"pid=1 uid=0 auid=4294967295 ses=4294967295 msg='op=login acct=\"daemon\" {_LOGIN}'")]
    yield [("USER_CMD", f"pid=1 uid=0 auid=0 ses=1 msg='cwd=\"/\" cmd={'41' * 4_100} terminal=? res=success'")]
    for record in BODIES:
        yield [record]
        if record[0] not in {*compounds(), "LOGIN", "INTEGRITY_DATA"}:
            continue
        for number in (257, 42, 59, 105):
            for beside in (BESIDE[1], BESIDE[7]):
                yield [record, call(number), *beside]
                yield [call(number), record, *beside]


def log(made: Iterable[list[tuple[str, str]]]) -> bytes:
    """Events as a log, three seconds apart."""
    out = []
    for at, records in enumerate(made):
        out += [f"type={type_} msg=audit({1_700_000_000 + 3 * at}.000:{at + 1}): {body}\n" for type_, body in records]
    return "".join(out).encode()


def data_of(source: Path) -> bytes:
    """A log as it is, or unpacked."""
    data = lzma.decompress(source.read_bytes()) if source.suffix == ".xz" else source.read_bytes()
    return drawn(data if data.endswith(b"\n") else data + b"\n")


@pytest.mark.parametrize("source", [*_sources()])
def test_a_log(source: Path, tmp_path: Path) -> None:
    result = compare(data_of(source), tmp_path)
    assert not result.wrong, "\n".join(result.wrong[:10])
    assert result.rows
    if result.rows > 100 and "nasty" not in source.name:
        assert result.equal > 0.99 * result.rows


@pytest.mark.parametrize("made", [by_call, by_type])
def test_made_up_events(made: object, tmp_path: Path) -> None:
    assert callable(made)
    result = compare(log(made()), tmp_path)
    assert not result.wrong, f"{len(result.wrong)}\n" + "\n".join(result.wrong[:10])
    assert result.equal > result.rows // 2


def test_every_rule_is_needed_and_documented(tmp_path: Path) -> None:
    used: Counter[str] = Counter()
    sources = [by_call, by_type]
    for made in sources:
        used += compare(log(made()), tmp_path).rules
    used += compare(data_of(ROOT / "tests" / "corpus" / "nasty-events.log"), tmp_path).rules
    used += compare(data_of(ROOT / "tests" / "corpus" / "mixed.log"), tmp_path).rules
    assert set(used) - {""} == {*RULES, *ROW_RULES}
    text = (ROOT / "docs" / "shapes" / "csv.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| ([a-z][^|]*?) +\|", text, re.M)
    assert set(documented) >= {*RULES, *ROW_RULES}
    assert len(TYPES) > 50
