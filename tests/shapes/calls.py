"""System calls as the kernel writes them, with values that nobody would: for both ways of normalising."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

from audisp.event import NO_STAMP, Event
from audisp.parse.record import RecordReader

UNKNOWN: Final = "type=UNKNOWN[1999] msg={head} x=1\n"
"""A record that says nothing, and sends its event the long way."""

_word = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='"'), min_size=1, max_size=12)
_string = st.one_of(
    _word.map(lambda text: f'"{text}"'),
    st.binary(min_size=1, max_size=12).map(lambda data: data.hex().upper()),
    st.sampled_from(["(null)", '"/usr/bin/python3"', '"/bin/sh"', '"=1+1"', '"a,b"', "2F2E2E2F78"]),
)
_id = st.sampled_from(["0", "33", "1000", "65534", "4294967295", "4294967294", "12345"])
_call = st.sampled_from(
    ["2", "9", "42", "43", "44", "49", "59", "62", "82", "83", "87", "88", "90", "105", "165", "175", "257", "999", "4"]
)
_result = st.sampled_from(["success=yes exit=3", "success=no exit=-13", "success=no exit=-512", "success=yes exit=0"])
_arch = st.sampled_from(["c000003e", "40000003", "c00000b7", "80000016", "dead"])
_syscall = st.builds(
    lambda arch, call, result, auid, uid, ses, comm, exe, key: (
        f"arch={arch} syscall={call} {result} a0=3 a1=7ffe a2=3c a3=0 items=2 ppid=23 pid=24 auid={auid} uid={uid} "
        f"gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=(none) ses={ses} comm={comm} exe={exe} key={key}"
    ),
    _arch, _call, _result, _id, _id, _id, _string, _string, _string,
)  # fmt: skip
_nametype = st.sampled_from(["NORMAL", "PARENT", "CREATE", "DELETE", "UNKNOWN"])
_mode = st.sampled_from(["0100644", "040755", "0140777", "020666", "0120777"])
_path = st.builds(
    lambda name, mode, type_, inode: (
        f"item=0 name={name} inode={inode} dev=fe:00 mode={mode} ouid=0 ogid=0 rdev=00:00 nametype={type_} cap_fp=0"
    ),
    _string, _mode, _nametype, st.integers(1, 10**6),
)  # fmt: skip
_address = st.one_of(
    st.binary(min_size=1, max_size=30).map(lambda data: f"saddr={data.hex().upper()}"),
    st.binary(max_size=30).map(lambda data: f"saddr=0100{data.hex().upper()}"),
    st.sampled_from(["saddr=02000050170203040000000000000000", "saddr=01002F72756E2F7800FFFF", "saddr=0100002F78"]),
)
_execve = st.lists(_string, max_size=4).map(
    lambda argv: " ".join([f"argc={len(argv)}", *(f"a{at}={text}" for at, text in enumerate(argv))])
)
beside = st.one_of(
    st.tuples(st.just("PATH"), _path),
    st.tuples(st.just("CWD"), _string.map(lambda text: f"cwd={text}")),
    st.tuples(st.just("SOCKADDR"), _address),
    st.tuples(st.just("EXECVE"), _execve),
    st.tuples(st.just("PATH"), st.sampled_from(['item=0 name="/x" nametype=UNKNOWN', "item=0", 'name="x" mode=9'])),
    st.just(("BPRM_FCAPS", "fver=0 fp=0")),
)
"""A record that stands beside a system call, by type and text."""
plain = st.tuples(st.tuples(st.just("SYSCALL"), _syscall), st.lists(beside, max_size=6)).map(
    lambda both: [both[0], *both[1], ("PROCTITLE", "proctitle=6C73")]
)
"""The records of a system call, the SYSCALL first."""


def event(records: list[tuple[str, str]], node: str = "", stamp: str = "1700000000.123:7") -> Event:
    """One event. node: as it stands before each line, with its blank."""
    head = f"audit({stamp}):"
    text = "".join(f"{node}type={type_} msg={head} {body}\n" for type_, body in records)
    return Event(text.encode("latin-1"), node.encode(), head.encode(), 0, "made", 0.0, RecordReader())


def the_long_way(event: Event) -> Event:
    """The same event with a record beside it that says nothing."""
    node, head = event.same
    line = node + UNKNOWN.format(head=head.decode()).encode()
    return Event(event.raw + line, node, head, event.flags, event.origin, event.arrived, event._reader)


STRAY: Final = Event(b"no record at all\n", b"", b"", NO_STAMP, "made", 0.0, RecordReader())
"""A line that belongs to no event."""
