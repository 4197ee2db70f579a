"""What is taken from records, and what is not."""

from __future__ import annotations

import lzma
from typing import Final

import pytest

from audisp.enrich.enricher import Enricher
from audisp.enrich.events import facts_of
from audisp.enrich.facts import ALL, EnrichSettings, Facts, PathItem
from audisp.event import Batch, Event
from audisp.parse.record import RecordReader
from tests.needs import CORPUS, needs

STAMP: Final = 1_700_000_000_123
ID: Final = "1700000000.123:77"


def events(text: str) -> list[Event]:
    data = text.encode("latin-1")
    return Batch(data, data.count(b"\n"), "test", 0.0, RecordReader()).events


def only(*records: str) -> Facts | None:
    """The facts of one event, its records given without stamps."""
    found = events("".join(f"{one.replace(' ', f' msg=audit({ID}): ', 1)}\n" for one in records))
    assert len(found) == 1
    return facts_of(found[0])


CALL: Final = (
    "type=SYSCALL arch=c000003e syscall={} success={} exit={} a0={} a1=22 a2=0 a3=0 items=0 ppid=5 pid=6 auid=0 uid=0 "
    'tty=pts0 ses=1 comm="sh" exe="/bin/sh" subj=unconfined key={}'
)


def test_a_start() -> None:
    facts = only(
        CALL.format(59, "yes", 0, "1", '"exec"'),
        'type=EXECVE argc=2 a0="sh" a1=2D6320FF',
        'type=CWD cwd="/srv"',
        'type=PATH item=1 name="/lib/ld.so" inode=9 dev=fe:00 mode=0100755 nametype=NORMAL',
        'type=PATH item=0 name="./x.sh" inode=8 dev=fe:00 mode=0100755 nametype=NORMAL',
        "type=PROCTITLE proctitle=7368",
    )
    assert facts == Facts(
        pid=6,
        stamp=STAMP,
        event_id=ID,
        ppid=5,
        exe="/bin/sh",
        comm="sh",
        syscall="execve",
        success=True,
        exit=0,
        flags=None,
        keys=("exec",),
        argv=("sh", "-c \udcff"),
        cwd="/srv",
        paths=(PathItem("./x.sh", "fe:00", 8), PathItem("/lib/ld.so", "fe:00", 9)),
    )


def test_a_start_that_failed_or_whose_records_are_missing() -> None:
    facts = only(CALL.format(59, "no", -2, "1", "(null)"), 'type=EXECVE argc=1 a0="sh"', 'type=CWD cwd="/"')
    assert facts is not None
    assert (facts.success, facts.argv, facts.cwd, facts.exit, facts.keys) == (False, None, None, -2, ())
    facts = only(
        CALL.format(59, "yes", 0, "1", "(null)"),
        'type=PATH item=1 name="/lib/ld.so" inode=9 dev=fe:00 mode=0100755 nametype=NORMAL',
    )
    assert facts is not None
    assert (facts.argv, facts.paths) == (None, ())


@pytest.mark.parametrize(
    ("arch", "number", "call", "flags"),
    [
        ("c000003e", 56, "clone", 0x1200011),
        ("c000003e", 57, "fork", None),
        ("c000003e", 435, "clone3", None),
        ("c000003e", 231, "exit_group", None),
        ("c00000b7", 220, "clone", 0x1200011),
        ("80000016", 120, "clone", 0x22),
        ("40000003", 120, "clone", 0x1200011),
        ("c000003e", 99_999, None, None),
        ("ffffffff", 56, None, None),
    ],
)
def test_calls_by_machine(arch: str, number: int, call: str | None, flags: int | None) -> None:
    facts = only(CALL.format(number, "yes", 9, "1200011", "(null)").replace("c000003e", arch))
    assert facts is not None
    assert (facts.syscall, facts.flags, facts.exit) == (call, flags, 9)


def test_a_name_that_was_appended_does_not_count() -> None:
    facts = only(CALL.format(0, "yes", 0, "1", "(null)") + "\x1dARCH=x86_64 SYSCALL=execve")
    assert facts is not None
    assert facts.syscall == "read"


def test_a_user_space_message_is_known_by_its_number_alone() -> None:
    facts = only(
        'type=USER_LOGIN pid=9 uid=0 auid=1 ses=2 msg=\'op=login exe="/bin/fake" pid=1 comm="fake" res=success\''
    )
    assert facts == Facts(9, STAMP, ID)


def test_a_record_of_the_kernels_own_says_what_it_stamped() -> None:
    facts = only('type=ANOM_ABEND auid=1 uid=1 gid=1 ses=1 pid=9 comm="crash" exe="/bin/crash" sig=11 res=1')
    assert facts == Facts(9, STAMP, ID, exe="/bin/crash", comm="crash")


@pytest.mark.parametrize(
    "record", ["type=DAEMON_START op=start pid=9 res=success", "type=EOE x", "type=CONFIG_CHANGE op=set res=1"]
)
def test_events_that_name_no_process(record: str) -> None:
    assert only(record) is None


def test_lines_without_a_stamp_name_none() -> None:
    assert [facts_of(event) for event in events("garbage pid=5\n")] == [None]


def test_io_uring_is_a_call_without_a_name() -> None:
    facts = only("type=URINGOP uring_op=18 success=yes exit=5 items=1 ppid=5 pid=6 uid=0 key=(null)")
    assert facts is not None
    assert (facts.pid, facts.ppid, facts.syscall, facts.exe) == (6, 5, None, None)


@needs("corpus")
def test_a_whole_recording_goes_through() -> None:
    data = lzma.decompress((CORPUS / "mixed.log.xz").read_bytes())[: 4 << 20]
    data = data[: data.rindex(b"\n") + 1]
    enricher = Enricher(EnrichSettings(ALL, ("PATH",)), None)
    chains = starts = 0
    for event in Batch(data, data.count(b"\n"), "test", 0.0, RecordReader()):
        facts = facts_of(event)
        if facts is not None:
            found = enricher.enrich(facts)
            starts += facts.argv is not None
            chains += len(found.parents) > 1
    assert starts > 100
    assert chains > 10
