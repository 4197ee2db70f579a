"""ENRICHED format: what is added to which record, byte by byte, and what nobody can make it add.

auditd's own bytes: tests/e2e/test_enriched_form.py, and the recordings of the corpus.
"""

from __future__ import annotations

import itertools
import lzma
import re

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.parse import enriched
from audisp.parse.enriched import ENTRIES, STALE, Enricher, enrich_lines, local_address
from audisp.parse.form import MAX_LOG_LINE, MAX_NODE_LINE
from audisp.parse.record import split_enrichment
from tests.needs import CORPUS, needs

HEAD = "msg=audit(1700000000.123:7):"
CALL = (
    "arch=c000003e syscall=257 success=yes exit=3 a0=1 a1=2 a2=3 a3=4 items=1 ppid=11 pid=12 auid=1000 uid=0 gid=5 "
    'euid=0 suid=0 fsuid=0 egid=5 sgid=5 fsgid=5 tty=pts0 ses=3 comm="cat" exe="/usr/bin/cat" key="k"'
)


@attrs.frozen
class People:
    """Names of accounts that can change."""

    names: dict[int, str] = attrs.field(factory=lambda: {1000: "alice", 1001: 'a "b"', 1002: "zoë", 5: "tty"})

    def user(self, uid: int) -> str | None:
        return self.names.get(uid)

    def group(self, gid: int) -> str | None:
        return self.names.get(gid)


@attrs.frozen
class Named:
    """Names of users and groups."""

    users: dict[int, str]
    groups: dict[int, str]

    def user(self, uid: int) -> str | None:
        return self.users.get(uid)

    def group(self, gid: int) -> str | None:
        return self.groups.get(gid)


def added(type_: str, body: str, node: str = "") -> str:
    """What is added to one record, after the 0x1D; "" for nothing."""
    line = f"{node}type={type_} {HEAD} {body}".encode("latin-1")
    out = enrich_lines(line + b"\n", People())
    assert out.startswith(line.removesuffix(b" "))
    assert out.endswith(b"\n")
    rest = out[len(line.removesuffix(b" ")) : -1]
    assert rest[:1] in (b"", b"\x1d")
    return rest[1:].decode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("type_", "body", "items"),
    [
        (
            "SYSCALL",
            CALL,
            'ARCH=x86_64 SYSCALL=openat AUID="alice" UID="root" GID="tty" EUID="root" SUID="root" FSUID="root" '
            'EGID="tty" SGID="tty" FSGID="tty"',
        ),
        ("SYSCALL", "arch=dead syscall=1", "ARCH=unknown-elf-type(dead) SYSCALL=1"),
        ("SYSCALL", "arch=c000003e syscall=99999", "ARCH=x86_64 SYSCALL=unknown-syscall(99999)"),
        ("PATH", 'item=0 name="/x" inode=1 dev=fe:00 mode=0100600 ouid=0 ogid=5 rdev=00:00', 'OUID="root" OGID="tty"'),
        ("PATH", 'item=0 name="/x" nametype=UNKNOWN', ""),
        ("CWD", 'cwd="/"', ""),
        ("PROCTITLE", "proctitle=61", ""),
        ("EXECVE", 'argc=1 a0="x"', ""),
        ("EOE", "", ""),
        ("SOCKADDR", "saddr=02000050C00002010000000000000000", "SADDR={ saddr_fam=inet laddr=192.0.2.1 lport=80 }"),
        ("SOCKADDR", "saddr=01002F72756E2F7800FFFF", "SADDR={ saddr_fam=local path=/run/x }"),
        ("SOCKADDR", "saddr=0100006162", "SADDR={ saddr_fam=local path=@ab }"),
        ("LOGIN", "pid=1 uid=0 old-auid=4294967295 auid=1000 ses=3", 'UID="root" OLD-AUID="unset" AUID="alice"'),
        ("USER_AUTH", "pid=1 uid=0 auid=1000 msg='op=x id=1001 res=1'", 'UID="root" AUID="alice" ID=6120226222'),
        ("USER_AUTH", "pid=1 msg='uid=1002'", 'UID=7A6FC3AB'),
        ("USER", "pid=1 msg='(uid=0 uid=0) uid=0, uid=0:'", 'UID="root" UID="root" UID="root" UID="root"'),
        ("USER", "uid=77 auid=4294967294 gid=-1", 'UID="unknown(77)" AUID="unknown(4294967294)" GID="unset"'),
        ("USER", "uid=zz gid= euid=+1 suid=4294967296 fsuid=-2", ""),
        ("ADD_GROUP", "uid=0 msg='id=5'", 'UID="root" ID="tty"'),
        ("ADD_USER", "uid=0 msg='id=5'", 'UID="root" ID="tty"'),
        ("SECCOMP", "auid=0 sig=31 arch=c000003e syscall=41", 'AUID="root" ARCH=x86_64 SYSCALL=socket'),
        ("URINGOP", "uring_op=18 uid=0", 'URING_OP=openat UID="root"'),
        ("DAEMON_START", "op=start auid=1000 pid=1 uid=0 res=success", 'AUID="alice" UID="root"'),
        ("OBJ_PID", "opid=1 oauid=-1 ouid=0 oses=-1", 'OAUID="unset" OUID="root"'),
        ("BPRM_FCAPS", "fver=0 fp=0 frootid=0", ""),
        ("USER", "d=\"x uid=0 y\" e='uid=5'", 'UID="root"'),
    ],
)  # fmt: skip
def test_what_is_added(type_: str, body: str, items: str) -> None:
    assert added(type_, body) == items
    assert added(type_, body, "node=web1 ") == items


def test_a_blank_at_the_end_is_left_out() -> None:
    assert enrich_lines(f"type=EOE {HEAD} \n".encode(), People()) == f"type=EOE {HEAD}\n".encode()
    assert enrich_lines(f"type=USER {HEAD} uid=0  \n".encode(), People()).endswith(b'uid=0 \x1dUID="root"\n')


def test_what_is_enriched_stays() -> None:
    line = f'type=SYSCALL {HEAD} uid=0\x1dUID="bob"\n'.encode()
    assert enrich_lines(line, People()) == line
    once = enrich_lines(f"type=SYSCALL {HEAD} {CALL}\n".encode(), People())
    assert enrich_lines(once, People()) == once
    message = enrich_lines(f"type=USER_AUTH {HEAD} uid=0 msg='op=x id=1000 res=1'\n".encode(), People())
    assert enrich_lines(message, People()) == message


def test_nobody_can_keep_a_record_from_being_enriched() -> None:
    line = f"type=USER {HEAD} pid=1 uid=0 msg='op=x\x1dUID=\"bob\"'"
    out = enrich_lines(line.encode() + b"\n", People())
    assert out.startswith(line.encode() + b'\x1dUID="root"')
    body = out.decode().split(": ", 1)[1].rstrip("\n")
    assert split_enrichment(body)[1] == 'UID="root"'


def test_no_path_of_a_socket_ends_the_line() -> None:
    out = enrich_lines(f"type=SOCKADDR {HEAD} saddr=01002F610A74797065\n".encode(), People())
    assert out.count(b"\n") == 1
    assert out.endswith(b"path=/a type }\n")


@pytest.mark.parametrize("node", ["", "node=web1 "])
@pytest.mark.parametrize("size", [100, 8_800, 8_900, 8_937, 8_938, 8_960, 9_100])
def test_lengths(node: str, size: int) -> None:
    line = f"{node}type=USER {HEAD} uid=0 x="
    line += "x" * (size - len(line))
    out = enrich_lines(line.encode() + b"\n", People())
    kept = line[: MAX_NODE_LINE if node else MAX_LOG_LINE]
    assert out == f'{kept}\x1dUID="root"'[:MAX_NODE_LINE].encode() + b"\n"
    many = enrich_lines(f"type=USER {HEAD} {'uid=0 ' * 700}x\n".encode(), People())
    assert len(many) == MAX_NODE_LINE + 1


def test_lines_that_are_no_records_stay() -> None:
    data = b"\nhello\nnode=x\ntype=PATH\ntype=SYSCALL msg=audit(1.2:3)\n\x1d\n"
    assert enrich_lines(data, People()) == data
    assert enrich_lines(b"", People()) == b""
    assert enrich_lines(f"type=USER {HEAD} uid=0".encode(), People()).endswith(b'\x1dUID="root"')


_texts = st.lists(
    st.one_of(
        st.sampled_from([CALL, "uid=0", "saddr=0100", "msg='uid=1'", "arch=c000003e", "syscall=59", "\x1dUID=", "'"]),
        st.text(st.characters(min_codepoint=1, max_codepoint=255, exclude_characters="\n"), max_size=12),
    ),
    max_size=8,
).map(" ".join)
_types = st.sampled_from(["SYSCALL", "PATH", "SOCKADDR", "USER", "CWD", "ADD_USER", "TRUSTED_APP", "é", "EXECVE"])


@given(records=st.lists(st.tuples(_types, _texts), max_size=5), node=st.sampled_from(["", "node=a "]))
def test_any_text(records: list[tuple[str, str]], node: str) -> None:
    lines = [f"{node}type={type_} {HEAD} {text}".encode("latin-1") for type_, text in records]
    enricher = Enricher(People())
    data = b"".join(line + b"\n" for line in lines)
    out = enricher.enrich(data)
    assert out == enricher.enrich(data)  # from memory
    assert out == b"".join(enrich_lines(line + b"\n", People()) for line in lines)
    for line, got in zip(lines, out.split(b"\n"), strict=False):
        assert got.startswith(line[:-1] if line.endswith(b" ") else line)
        assert len(got) <= MAX_NODE_LINE


def test_names_are_asked_for_anew() -> None:
    people = People()
    enricher = Enricher(people)
    line = f"type=SYSCALL {HEAD} {CALL}\n".encode()
    assert b'AUID="alice"' in enricher.enrich(line, 1.0)
    people.names[1000] = "alina"
    assert b'AUID="alice"' in enricher.enrich(line, STALE)
    assert b'AUID="alina"' in enricher.enrich(line, STALE + 1)
    people.names[1000] = "alma"
    out = enricher.enrich(f"type=USER_MGMT {HEAD} uid=0 msg='id=1000'\n".encode() + line, STALE + 1)
    assert out.count(b'ID="alma"') == 2


def test_memories_are_bounded() -> None:
    enricher = Enricher(People())
    for number in range(ENTRIES + 10):
        enricher.enrich(
            f"type=USER {HEAD} uid={number}\ntype=PATH {HEAD} item={number}\n"
            f"type=SYSCALL {HEAD} {CALL.replace('auid=1000', f'auid={number}')}\n".encode()
        )
    for memory in (enricher._others, enricher._paths, enricher._calls):
        assert len(memory) <= ENTRIES
    before = len(enricher._others)
    enricher.enrich(f"type=USER {HEAD} uid=0 x={'x' * enriched.LONGEST}\n".encode())
    assert len(enricher._others) == before


@given(path=st.binary(max_size=40), rest=st.binary(max_size=10))
def test_what_is_behind_a_path_is_no_part_of_it(path: bytes, rest: bytes) -> None:
    path = path.replace(b"\0", b"x")
    body = b"saddr=0100" + (path + b"\0" + rest).hex().upper().encode()
    cut = local_address(body)
    if path:
        assert cut == b"saddr=0100" + path.hex().upper().encode()
    assert body.startswith(cut)
    assert added("SOCKADDR", body.decode()) == added("SOCKADDR", body.decode() + "00")


@needs("corpus")
def test_auditds_own() -> None:
    """What auditd 4.2.2 wrote, without what it appended, gives what it appended."""
    with lzma.open(CORPUS / "mixed-enriched.log.xz") as file:
        lines = [line.rstrip(b"\n") for line in itertools.islice(file, 30_000)]
    people = Named({}, {})
    for line in lines:
        own, _, items = line.partition(b"\x1d")
        for field, name in re.findall(rb'([A-Z-]+ID)="([^"]+)"', items):
            number = re.search(rb" (?:msg=')?%b=(\d+)" % field.lower(), own)
            assert number is not None
            (people.groups if field.endswith(b"GID") else people.users)[int(number[1])] = name.decode()
    raw = b"\n".join([line.partition(b"\x1d")[0] for line in lines])
    assert enrich_lines(raw, people).split(b"\n") == lines
