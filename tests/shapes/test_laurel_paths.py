"""The shape ``laurel``: the fast path says what the exact one says, whatever stands in a record; no byte of a record
comes to stand where it would be read as structure; and memories stay within their bounds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.event import NO_STAMP, Batch
from audisp.parse.record import RecordReader
from audisp.shapes.json_text import percent, percent_bytes, string
from audisp.shapes.laurel import Laurel
from audisp.shapes.laurel_recall import ENTRIES, LONGEST, OVERHEAD, SLEEP, TRIAL, Recall
from audisp.shapes.shape import ShapeSettings
from tests.needs import CORPUS, needs
from tests.shapes.laurels import OURS, SYSCALL, batches, blocks, event_of, exact, parsed, rendered

LOGS: Final = [OURS / "mixed.log", OURS / "nasty-events.log", OURS / "nasty.log"]


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.name)
def test_both_paths_agree_on_our_logs(path: Path) -> None:
    _compare(blocks(path))


@needs("corpus")
@pytest.mark.parametrize("name", ["nasty.log", "sigma_positive.log"])
def test_both_paths_agree_on_the_corpus(name: str) -> None:
    _compare(blocks(CORPUS / name))


def _compare(pieces: Iterator[bytes]) -> None:
    shape, single = Laurel(ShapeSettings()), Laurel(ShapeSettings())
    seen = 0
    for batch in batches(pieces):
        found = shape.render_batch(batch)
        assert found == shape.render_all(batch.events)
        for event, line in zip(batch.events, found, strict=True):
            assert single.render(event) == line
            if not event.flags & NO_STAMP:
                assert line == exact(event)
            if line:
                parsed(line)
                seen += 1
    assert seen > 15


VALUES: Final = st.one_of(
    st.from_regex(r"[0-9]{1,25}", fullmatch=True),
    st.from_regex(r"-?[0-9]{1,20}", fullmatch=True),
    st.from_regex(r"[0-9A-Fa-f]{0,24}", fullmatch=True),
    st.from_regex(r"(?:[0-9A-F]{2}){0,12}", fullmatch=True),
    st.sampled_from(["(null)", "?", "(none)", "", '""', "''", "{ a=1 b=2 }", "{a b}", "'x'y'", "a=b", "+1", "%41"]),
    st.text(st.characters(max_codepoint=255, blacklist_characters="\n"), max_size=12).map(lambda text: f'"{text}"'),
    st.text(st.characters(max_codepoint=255, blacklist_characters="\n"), max_size=12),
)
FIELD_NAMES: Final = """arch syscall success exit a0 a1 a2 a3 a17 items ppid pid auid uid gid tty ses comm exe key subj
item name inode mode cwd proctitle saddr argc a1[0] a1[1] a1_len msg ARGV raw PID type UID SADDR cap_fp x.y \xe4 ="""
TYPE_NAMES: Final = (
    "SYSCALL PATH CWD PROCTITLE EXECVE SOCKADDR USER_LOGIN USER AVC LOGIN BPF EOE 1300 UNKNOWN[1302] ID x["
)
NAMES: Final = st.sampled_from(FIELD_NAMES.split())
TYPES: Final = st.sampled_from(TYPE_NAMES.split())
FIELD: Final = st.tuples(NAMES, VALUES).map("=".join)
BODY: Final = st.lists(st.one_of(FIELD, VALUES), max_size=6).flatmap(
    lambda parts: st.sampled_from([" ", "  ", "\x1d", " \x1d"]).map(lambda blank: blank.join(parts))
)
START: Final = st.sampled_from(
    [
        SYSCALL,
        SYSCALL.partition(" comm=")[0],
        'item=0 name="/x" inode=5 dev=fe:00 mode=040755',
        "pid=1 uid=0 auid=0 ses=1 msg='",
        "avc:  denied  { read } for  pid=1",
        'argc=2 a0="x" a1=6162',
        "saddr=0100",
        'cwd="/x"',
        "proctitle=6162",
    ]
)
MIXED: Final = st.one_of(BODY, START, st.tuples(START, st.sampled_from([" ", "", "\x1d"]), BODY).map("".join))
LINE: Final = st.tuples(TYPES, MIXED)


EVENT: Final = st.tuples(st.lists(LINE, min_size=1, max_size=5), st.sampled_from(["", "web"]))


@given(st.lists(EVENT, min_size=1, max_size=5))
def test_both_paths_agree_on_anything(events: list[tuple[list[tuple[str, str]], str]]) -> None:
    shape = Laurel(ShapeSettings())  # one for all: what it remembers of one event must not show in another
    for lines, node in [*events, *events]:
        made = [f"{type_} ".encode() + body.replace("\n", " ").encode("latin-1") for type_, body in lines]
        event = event_of(*made, node=node)
        expected = exact(event)
        assert shape.render_batch(Batch(event.raw, len(lines), "test", 0.0, RecordReader())) == [expected]
        assert shape.render(event) == expected
        if expected:
            parsed(expected)


@pytest.mark.parametrize("at", [b'exe="', b'comm="ch', b"tty=(no", b"success=", b"key=(nu"])
def test_both_paths_agree_on_a_separator_inside_of_a_value(at: bytes) -> None:
    text = b"\n".join((OURS / "mixed.log").read_bytes().split(b"\n")[:40]) + b"\n"
    assert at in text
    text = text.replace(at, at + b"\x1d")
    batch = Batch(text, text.count(b"\n"), "test", 0.0, RecordReader())
    assert Laurel(ShapeSettings()).render_batch(batch) == [exact(event) for event in batch.events]


@given(st.data())
def test_both_paths_agree_on_real_records_that_were_damaged(data: st.DataObject) -> None:
    lines = (OURS / "mixed.log").read_bytes().split(b"\n")[:40]
    text = b"\n".join(lines) + b"\n"
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        to = at + data.draw(st.sampled_from([0, 0, 1, 3]))
        text = text[:at] + data.draw(st.binary(max_size=3)) + text[to:]
    text = text.rstrip(b"\n") + b"\n"
    batch = Batch(text, text.count(b"\n"), "test", 0.0, RecordReader())
    found = Laurel(ShapeSettings()).render_batch(batch)
    assert len(found) == len(batch.events)
    for event, line in zip(batch.events, found, strict=True):
        if not event.flags & NO_STAMP:
            assert line == exact(event)
        if line:
            parsed(line)


ANY_TEXT: Final = st.text(st.characters(max_codepoint=255, blacklist_characters="\n"), max_size=60)
SHARP: Final = st.lists(
    st.sampled_from(
        ['"', "\\", "'", " ", "=", "}", "{", ",", ":", "pid=0", "\x1d", "]", "%", "\xff", "uid=0", 'msg="']
    ),
    max_size=12,
).map("".join)


@given(st.one_of(ANY_TEXT, SHARP))
def test_a_sender_s_text_makes_no_key(text: str) -> None:
    line = b"USER_LOGIN pid=1 uid=2 auid=3 ses=4 msg='" + text.encode("latin-1") + b"'"
    found = rendered(line)
    assert [*found] == ["USER_LOGIN"]
    assert [*found["USER_LOGIN"]] == ["pid", "uid", "auid", "ses", "msg"]
    assert [*found["USER_LOGIN"].values()][:4] == [1, 2, 3, 4]
    expected = json.loads(string(text).encode("latin-1"))
    assert found["USER_LOGIN"]["msg"] == expected


@given(st.one_of(ANY_TEXT, SHARP))
def test_a_file_name_makes_no_key(text: str) -> None:
    hexed = text.encode("latin-1").hex().upper() or "00"
    found = rendered(
        f"SYSCALL {SYSCALL}", f"CWD cwd={hexed}", f"PATH item=0 name={hexed} inode=1", f"PROCTITLE proctitle={hexed}00"
    )
    assert [*found] == ["SYSCALL", "CWD", "PATH", "PROCTITLE"]
    assert ([*found["CWD"]], [*found["PATH"][0]]) == (["cwd"], ["item", "name", "inode"])
    assert [*found["PROCTITLE"]] == ["ARGV"]
    assert found["CWD"]["cwd"] == found["PATH"][0]["name"]


# ---- text ----


@given(st.binary(max_size=40))
def test_percent_encoding(data: bytes) -> None:
    expected = ""
    for char in data.decode("utf-8", "surrogateescape"):
        code = ord(char)
        if 0xDC80 <= code <= 0xDCFF:
            expected += f"%{code - 0xDC00:02x}"
        elif code < 0x20 or char in "\x7f%+":
            expected += f"%{code:02x}"
        else:
            expected += char
    for found in (percent(data.decode("latin-1")), percent_bytes(data)):
        assert json.loads(f'"{found}"'.encode("latin-1")) == expected
    assert json.loads(string(data.decode("latin-1")).encode("latin-1")) == expected


@pytest.mark.parametrize(
    "data",
    [b"\xc3\xa4", b"\xc0\x80", b"\xe0\x80\x80", b"\xe0\xa0\x80", b"\xed\xa0\x80", b"\xed\x9f\xbf", b"\xf0\x8f\xbf\xbf",
     b"\xf0\x9f\x98\x80", b"\xf4\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xe2\x82\xc3\xa4",
     b"\xc3\xa4\xa4", b"\xf1\x80\x80", b"\xef\xbf\xbf"],
)  # fmt: skip
def test_characters_and_bytes_that_are_none(data: bytes) -> None:
    try:
        data.decode()
        whole = True
    except UnicodeDecodeError:
        whole = False
    assert ("%" not in percent_bytes(data)) is whole


# ---- memory ----


def test_a_recall_keeps_two_generations_and_its_bounds() -> None:
    recall: Recall[str] = Recall(100 * (OVERHEAD + 20))
    get = recall.young.get
    for at in range(1_000):
        recall.put(f"text {at:05}", "value 1234", 20)
        assert len(recall) <= 202
    assert get("text 00999") == "value 1234"
    assert recall.find("text 00500") is None
    old = next(iter(recall._old))
    assert recall.find(old) == "value 1234"
    assert get(old) == "value 1234"  # it was asked for: it is young again
    recall.put("x" * (LONGEST + 1), "long", 5_000)
    assert get("x" * (LONGEST + 1)) is None


def test_a_recall_keeps_no_more_than_so_many_entries() -> None:
    recall: Recall[str] = Recall(1 << 40)
    for at in range(3 * ENTRIES):
        recall.put(f"{at}", "", 0)
    assert len(recall) <= 2 * ENTRIES


def test_a_recall_sleeps_while_asking_is_in_vain() -> None:
    recall: Recall[str] = Recall()
    recall.put("known", "value", 10)
    for at in range(TRIAL):
        recall.find(f"{at}")
    recall.asked(TRIAL)
    assert not recall.awake
    assert len(recall) == 0
    states = []
    for count in (SLEEP - 1, 1, TRIAL):  # in the last trial nothing is missed: all of it was there
        recall.asked(count)
        states.append(recall.awake)
    assert states == [False, True, True]


def test_memories_stay_within_their_bounds_and_what_is_said_stays_right() -> None:
    shape = Laurel(ShapeSettings())
    memories = [each for each in vars(shape._fragments).values() if isinstance(each, Recall)]
    assert len(memories) > 5
    for turn in range(60):
        lines = []
        for at in range(100):
            number = turn * 100 + at
            head = f"msg=audit(1700000000.123:{number + 1}):"
            call = re.sub(r"/usr/bin/ls", f"/usr/bin/{number}", SYSCALL).replace("pid=22", f"pid={number}")
            lines.append(f"type=SYSCALL {head} {call}\ntype=SOCKADDR {head} saddr=0200{number:08X}\n")
            lines.append(f'type=PATH {head} item=0 name="/{"x" * 500}{number}" inode={number} dev=fe:{at:02}\n')
            lines.append(f"type=BPF {head} prog-id={number} op=LOAD\n")
        (batch,) = batches(iter(["".join(lines).encode()]))
        for event, line in zip(batch.events, shape.render_batch(batch), strict=True):
            if event.id.serial % 97 == 0:
                assert line == exact(event)
    for memory in memories:
        held = sum(len(text) for text in [*memory.young, *memory._old])
        assert held <= 2 * (memory._max_bytes + LONGEST)
    assert not shape._fragments.lines.awake
