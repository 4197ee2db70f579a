"""Records taken apart: the hard lines of tests/corpus/nasty-events.log, and what no sender may achieve."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.parse import values
from audisp.parse.record import Record, RecordReader, arguments, split_enrichment
from tests.parse.nasty import event, events, lines, read, record


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        (4, "name", '/tmp/x\x1dAUID="root"'),
        (6, "a2", "DEADBEEF"),
        (7, "a2", "\u07ad\udcbe\udcef"),
        (8, "a1", '"'),
        (9, "proctitle", "ls\0-la\0/tmp/a b"),
        (10, "proctitle", None),
        (13, "comm", "hi there"),
        (13, "exe", "/tmp/a b (deleted)"),
        (14, "acct", "root"),
        (14, "addr", "203.0.113.9"),
        (14, "auid", "4294967295"),
        (15, "acct", "(unknown user)"),
        (15, "hostname", None),
        (16, "acct", "root --help"),
        (16, "addr", "203.0.113.9;reboot"),
        (17, "acct", "-rf"),
        (17, "addr", "::ffff:203.0.113.10"),
        (18, "subj", "system_u:system_r:sshd_t:s0-s0:c0.c1023"),
        (20, "auid", "4294967295"),
        (20, "seresult", "denied"),
        (20, "seperms", "status"),
        (20, "res", None),
        (21, "comm", "systemd-update-utmp"),
        (21, "res", "success"),
        (22, "id", "1001"),
        (22, "op", "changing"),
        (23, "cmd", "echo 'c'lose'\""),
        (24, "data", "ls "),
        (25, "data", "exit\x04\x7f\x1b[A"),
        (25, "comm", "bash"),
        (26, "seresult", "denied"),
        (26, "seperms", "read,write"),
        (26, "name", "a b"),
        (26, "tcontext", "unconfined_u:object_r:user_home_t:s0:c1,c2"),
        (27, "seresult", "granted"),
        (27, "seperms", "null"),
        (28, "apparmor", "DENIED"),
        (28, "denied_mask", "r"),
        (28, "seresult", None),
        (29, "lsm", "SMACK"),
        (29, "subject", "_"),
        (30, "invalid_context", "unconfined_u:unconfined_r:x_t:s0"),
        (31, "auid", "4294967295"),
        (61, "SADDR", None),
        (70, "prog-id", "42"),
        (72, "seperms", "open"),
        (75, "op", "UNLOAD"),
        (76, "res", "0"),
        (77, "auid", "0"),
        (77, "ses", "1165"),
        (77, "old-auid", "4294967295"),
        (78, "auid", "0"),
        (78, "old-ses", "4294967295"),
        (81, "table", "filter:12;?:0"),
        (83, "ocomm", "systemd"),
        (84, "cap_pp", "000001ffffffffff"),
        (108, "arch", "c000003e"),
        (110, "name", "/a"),
        (120, "name", "/tmp/\udcff\udcfe\udcc3"),
        (123, "a1", "4142434"),
        (124, "a1", "\udcab\udccd\udcef"),
        (125, "arch", "c000003e"),
        (129, "pid", "1"),
        (129, "uid", "0"),
        (130, "uid", "1000"),
        (130, "auid", "1000"),
        (130, "res", "failed"),
    ],
)
def test_a_field(line: int, name: str, value: str | None) -> None:
    assert record(line).get(name) == value


def test_what_the_kernel_stamped_and_what_the_sender_wrote_are_kept_apart() -> None:
    session = record(19)
    assert session.fields["pid"] == "1298"
    assert "suid" not in session.fields
    assert session.inner["suid"] == "74"
    assert session.inner["mac"] == ""
    assert session.get("mac") is None
    assert session.inner["ksize"] == "512"


def test_enrichment() -> None:
    command = record(5)
    assert command.get("cwd") == "/home/a"
    assert (command.added("uid"), command.added("auid"), command.added("gid")) == ("alice", "alice", None)
    assert command.raw("UID") is None
    address = record(61)
    assert address.added("saddr") is not None
    assert "laddr" not in address.enriched
    # Written by the sender, inside msg='': no enrichment.
    forged = Record("USER", "pid=1 uid=1000 msg='op=x \x1dUID=\"root\"'")
    assert forged.enriched == {}
    assert forged.get("uid") == "1000"
    forged = Record("USER", "pid=1 uid=1000 msg='op=x'\x1dUID=\"root\"'")
    assert forged.enriched == {}
    both = Record("USER", 'pid=1 uid=1000 msg=\'op=x\'\x1dUID="root"\'\x1dUID="alice"')
    assert both.added("uid") == "alice"


@pytest.mark.parametrize(
    "path",
    [
        '/tmp/a msg=\'exe="/usr/bin/fail2ban-client" ',
        "/tmp/a msg='b'\x1dUID=\"root\"",
        '/tmp/x } UID="root"',
        '/tmp/x }\x1dUID="root" exe="/bin/true"',
        '\'\x1dAUID="root"',
        "SADDR={ saddr_fam=inet laddr=1.2.3.4 lport=1 }",
    ],
)
def test_a_socket_s_path_cannot_pass_for_fields_of_its_record(path: str) -> None:
    """Anybody can connect to a path that does not exist, and ENRICHED format shows it as it is."""
    raw = Record("SOCKADDR", "saddr=" + ("01002F" + path.encode().hex()).upper())
    shown = Record("SOCKADDR", f"{raw.body}\x1dSADDR={{ saddr_fam=local path=/{path} }}")
    assert shown.fields == raw.fields == {"saddr": raw.body.removeprefix("saddr=")}
    assert shown.inner == {}
    assert shown.enriched == {"SADDR": f"{{ saddr_fam=local path=/{path} }}"}
    assert [shown.get(name) for name in ("exe", "uid", "msg")] == [None] * 3
    assert shown.added("uid") is None


@pytest.mark.parametrize(
    ("first", "last", "argv", "wrong"),
    [
        (1, 2, ["cat", "my file.txt"], []),
        (3, 3, ["cat", "a\nb"], []),
        (6, 6, ["sh", "-c", "DEADBEEF"], []),
        (32, 34, ["sh", "-c", "A" * 6000 + "tail"], []),
        (35, 36, ["x", "AABB"], []),
        (37, 37, ["x", "y"], ["argc says 4, there are 2 arguments"]),
        (38, 38, [], []),
        (39, 39, ["cmd", "", ""], []),
        (40, 40, [f"v{number}" for number in range(12)], []),
    ],
)
def test_arguments(first: int, last: int, argv: list[str], wrong: list[str]) -> None:
    found = event(first, last)
    assert found.argv == argv
    assert arguments(found.of("EXECVE"))[1] == wrong


def test_pieces_that_are_missing_are_said() -> None:
    argv, wrong = arguments([Record("EXECVE", "argc=2 a0=78 a1_len=12 a1[0]=4141 a1[2]=4343")])
    assert argv == ["x", "AACC"]
    assert wrong == ["a1 has not all its pieces"]


def test_arguments_of_a_call_and_of_a_program_are_different_things() -> None:
    found = event(41, 42)
    assert found.get("SYSCALL", "a0") == "7ffd"
    assert found.get("EXECVE", "a0") == found.argv[0] != "7ffd"


def test_keys() -> None:
    assert event(11).keys == ("a b",)
    assert event(12).keys == ("key1", "key2")
    assert event(13).keys == ()


def test_unset_is_not_a_user() -> None:
    assert event(63).integer("auid") == 4_294_967_295
    assert event(64).integer("auid") == -1
    assert event(68).integer("uid") == 4_294_967_294
    assert event(69).integer("uid") is None
    assert event(66).integer("exit") == 18_446_744_073_709_551_603
    assert event(67).integer("exit") == -512


def test_what_is_refused() -> None:
    good, rejected = read(lines(111, 119))
    assert good == b""
    assert rejected >= 7
    assert read(lines(62)) == (b"", 1)
    assert read(lines(126, 128)) == (b"", 3)


def test_a_line_in_a_message_is_text() -> None:
    found = event(131)
    assert [each.type for each in found.records] == ["USER"]
    assert found.get("USER", "acct") is None
    assert found.get("USER", "uid") == "1000"


def test_unknown_types_keep_their_number() -> None:
    assert (record(70).type, record(70).number) == ("UNKNOWN[1334]", 1334)
    assert record(71).number == 1420
    assert record(72).number == 1400
    assert Record("NO_SUCH_THING", "").number == 0


def test_what_breaks_off_is_read_to_there() -> None:
    assert record(109).get("arch") == "c000003e"
    assert record(109).raw("comm") == '"unterminated exe="'


def test_nothing_raises_on_any_line_of_the_file() -> None:
    found = events(lines(1, 142))
    assert sum(len(each.records) for each in found) > 120
    for each in found:
        for one in each.records:
            for name in (*one.fields, *one.inner, *one.enriched):
                one.get(name)
        assert isinstance(each.problems, tuple)


@pytest.mark.parametrize(
    "body",
    [
        "x" * 60_000,
        "a=" * 30_000,
        'a="' * 20_000,
        "a={" * 20_000,
        "a={ b=" * 10_000,
        "=" * 60_000,
        "msg='" * 12_000,
        "avc:  denied  {" * 4_000,
        " " * 60_000,
        "a1[0]=41 " * 7_000,
        "old auid=1 new auid=2 " * 3_000,
        "(a=1, " * 10_000,
        "\x1d" * 60_000,
        "'\x1d" * 30_000,
    ],
    ids=lambda body: body[:8],
)
@pytest.mark.timeout(20)
def test_time_grows_with_length_alone(body: str) -> None:
    # A hundred times over: some 10 ms each if it is linear, minutes if it is quadratic.
    for _ in range(10):
        found = Record("USER_AVC", body * 10)
        assert isinstance(found.fields, dict)
        assert isinstance(found.inner, dict)
        assert isinstance(found.enriched, dict)
        arguments([found])


# Latin-1 text without LF: what any line can hold.
TEXT = st.text(st.characters(max_codepoint=255, exclude_characters="\n"), max_size=300)
TYPES = st.sampled_from(["SYSCALL", "EXECVE", "USER_AVC", "LOGIN", "PATH", "UNKNOWN[1999]", "1400"])


@given(TYPES, TEXT)
def test_nothing_raises_and_nothing_is_made_up(type_: str, body: str) -> None:
    found = Record(type_, body)
    own, added = split_enrichment(body)
    assert len(own) + len(added) <= len(body)
    for name, value in found.outer_items():
        assert name.removeprefix("old-") in body or name in ("seresult", "seperms")
        assert value in body or name == "seperms"
    for name in (*found.fields, *found.inner):
        found.get(name)
        found.integer(name)
    for name in found.enriched:
        found.added(name)
    argv, _ = arguments([found])
    assert sum(map(len, argv)) <= len(body)


@given(st.binary(max_size=200))
def test_a_string_comes_back_as_it_was(data: bytes) -> None:
    assert values.unquote(data.hex().upper()) == data or not data
    if data and all(0x21 <= byte <= 0x7E and byte != 0x22 for byte in data):
        assert values.unquote('"' + data.decode() + '"') == data


@given(TEXT)
def test_decoding_keeps_every_byte(text: str) -> None:
    data = text.encode("latin-1")
    assert values.from_text(text).encode("utf-8", "surrogateescape") == data
    if not values.is_hex(text) and not text.startswith('"'):
        assert values.unquote(text) == data


def test_equal_texts_are_one_record() -> None:
    reader = RecordReader()
    assert reader.read('type=CWD cwd="/"') is reader.read('type=CWD cwd="/"')
    assert reader.read("type=EOE ").type == "EOE"
    assert reader.read("type=EOE").body == ""
