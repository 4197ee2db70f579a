"""Events that the shapes are tried on, and what a document must have kept of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from audisp.event import Event
from audisp.parse import sockaddr
from audisp.parse.record import Record, arguments
from audisp.shapes import activity
from tests.needs import CORPUS
from tests.parse import nasty

SAMPLE = 6_000
"""Records of the large files that are looked at: enough for one round of all that their workload did."""


def hard() -> list[Event]:
    """The hard events that are in the checkout."""
    return nasty.events(nasty.NASTY.read_bytes())


def corpus() -> list[tuple[str, list[Event]]]:
    """The events of the logs beside the checkout, by file."""
    if not CORPUS.is_dir():
        pytest.skip(f"corpus: {CORPUS} is not there")
    found = []
    for path in sorted([*CORPUS.glob("public/*/*.log"), CORPUS / "nasty.log", CORPUS / "sigma_positive.log"]):
        found.append((path.name, nasty.events(_whole(path.read_bytes()))))
    for name in ("mixed.log", "mixed-enriched.log"):
        found.append((name, nasty.events(_head(CORPUS / f"{name}.xz"))))
    return found


def _whole(data: bytes) -> bytes:
    return data if data.endswith(b"\n") else data + b"\n"


def _head(path: Path) -> bytes:
    import lzma

    lines = []
    with lzma.open(path) as file:
        for line in file:
            lines.append(line)
            if len(lines) >= SAMPLE:
                break
    return b"".join(lines)


def events(text: str) -> list[Event]:
    """Events of records written one to a line."""
    return nasty.events(_whole(text.encode("latin-1")))


def one(text: str) -> Event:
    """The one event of these records."""
    (found,) = events(text)
    return found


def leaves(value: Any) -> list[str]:
    """All texts of a document, numbers as text, names of members too."""
    if isinstance(value, dict):
        return [text for name, each in value.items() for text in (str(name), *leaves(each))]
    if isinstance(value, list):
        return [text for each in value for text in leaves(each)]
    return [value if isinstance(value, str) else json.dumps(value)]


def kept(event: Event) -> list[tuple[str, tuple[str, ...]]]:
    """Fields and what a document of this event must hold of each, in a text of it: one of the values named (decoded).

    Left out is what documents say in other words: the machine, the call, what it returned, and how it went, which
    are looked for by their names; a socket's address where it can be read; a title, by its words; arguments, by
    themselves; ids that are none; how many PATH records there are, where that can be counted.
    """
    out: list[tuple[str, tuple[str, ...]]] = []
    records = [record for record in event.records if record.type != "EOE"]
    for record in records:
        for name, raw in record.outer_items() + record.inner_items():
            value = activity.value(record.type, name, raw)
            if value is None or value == "unset":
                continue
            out += [(f"{record.type}.{name}", each) for each in _said(record, name, raw, value)]
    for each in arguments([record for record in records if record.type == "EXECVE"])[0]:
        out.append(("EXECVE", (each,)))
    return out


def _said(record: Record, name: str, raw: str, value: str) -> list[tuple[str, ...]]:
    call = record.type in ("SYSCALL", "URINGOP", "SECCOMP")
    if record.type == "EXECVE":
        return []
    if name == "key":
        return [(each,) for each in value.split("\x01")]
    if name == "proctitle":
        return [(word,) for word in value.rstrip("\0").split("\0") if word]
    if name == "saddr" and record.type == "SOCKADDR":
        found = sockaddr.decode(raw)
        return [] if found.path is not None else [(found.address or raw, raw)]
    if name in activity.RESULTS and activity.outcome(record) != activity.UNKNOWN:
        went = activity.outcome(record)
        return [(value, *(("fail", "failure", "Failure") if went == activity.FAILURE else ("success", "Success")))]
    if call and name == "arch":
        return [(activity.arch_name(raw),)]
    if call and name in ("syscall", "uring_op"):
        return [(activity.call_name(record) or "",)]
    if call and name == "exit":
        return [(activity.exit_name(raw),)]
    if call and name == "items":
        return []
    if name == "subj" or (name == "obj" and record.type == "PATH"):
        return [(each,) for each in value.split(":", 4)]
    return [(value,)]


# ---- made-up records ----

_names = st.sampled_from(
    [
        "pid", "uid", "auid", "ses", "acct", "exe", "comm", "op", "res", "key", "a0", "a1", "argc", "name", "saddr",
        "cwd", "proctitle", "arch", "syscall", "exit", "success", "items", "mode", "nametype", "subj", "obj", "addr",
        "hostname", "terminal", "id", "grp", "unit", "msg", "old-auid", "apparmor", "inode", "ouid", "x.y", "é",
    ]
)  # fmt: skip
_values = st.one_of(
    st.sampled_from(
        ["0", "1000", "4294967295", "-1", "?", "(null)", "(none)", '"?"', "c000003e", "59", "-13", "yes", "no", "1",
         "99999999999999999999", "0100644", '"/bin/x y"', "2F62696E00FF", "02000050C0A80001", '"a\\x41"', "unset",
         "0A000050", "1" * 30, "\x1d", '"', "'"]
    ),
    st.text(st.characters(min_codepoint=1, max_codepoint=255, exclude_characters="\n\0"), max_size=12),
)  # fmt: skip
_types = st.sampled_from(
    [
        "SYSCALL", "PATH", "CWD", "EXECVE", "PROCTITLE", "SOCKADDR", "USER_LOGIN", "ADD_USER", "USER_CMD", "AVC",
        "LOGIN", "CONFIG_CHANGE", "EOE", "UNKNOWN[1999]", "ANOM_ABEND", "BPRM_FCAPS", "SECCOMP", "URINGOP", "KERNEL",
        "ADD_GROUP", "USER_AVC", "OBJ_PID", "DAEMON_START", "SERVICE_STOP", "TTY", "é", "CHUSER_ID", "GRP_MGMT",
    ]
)  # fmt: skip
_field = st.builds(lambda name, value: f"{name}={value}", _names, _values)
_body = st.one_of(
    st.lists(_field, max_size=8).map(" ".join),
    st.tuples(st.lists(_field, max_size=4), st.lists(_field, max_size=6)).map(
        lambda both: f"{' '.join(both[0])} msg='{' '.join(both[1])}'"
    ),
    st.text(st.characters(min_codepoint=1, max_codepoint=255, exclude_characters="\n\0"), max_size=60),
)
records = st.lists(st.tuples(_types, _body), min_size=1, max_size=5)
"""Records of one event, by type and text, sensible and not."""


def made(of: list[tuple[str, str]], stamp: str = "1700000000.123:7", node: str = "") -> list[Event]:
    """The events of made-up records, which have one stamp."""
    text = "".join(f"{node}type={type_} msg=audit({stamp}): {body}\n" for type_, body in of)
    return events(text)


tokens = st.lists(
    st.tuples(
        _types.filter(lambda type_: type_ not in ("EOE", "é")), st.lists(_names, min_size=1, max_size=6), st.booleans()
    ),
    min_size=1,
    max_size=4,
)
"""Types, names of fields and whether they stand inside of msg='': what `marked` makes records of."""


def marked(of: list[tuple[str, list[str], bool]]) -> tuple[list[Event], set[str]]:
    """Events all of whose values are different, and none a word that means something; and those values."""
    serial = 0
    out, values = [], set()
    for type_, names, inside in of:
        fields = []
        for name in names:
            serial += 1
            value = f"w{serial}q"
            fields.append(f"{name}={value}")
            values.add(value)
        text = " ".join(fields)
        out.append((type_, f"msg='{text}'" if inside else text))
    return made(out), values
