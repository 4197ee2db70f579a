"""The journal on disk: torn at every byte, damaged, rotated, full; and the books, cut at every entry."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import attrs
import pytest

from audisp.errors import StoreError
from audisp.react.books import HOUR, Act, Books, Now
from audisp.react.journal import NAME, NEW, OLD, Entry, Journal, decode, encode, look

NOW = Now(wall=1_000_000.0, boot=5000.0, boot_id="a")


def act(number: int, **given: Any) -> Act:
    parts: dict[str, Any] = {
        "id": number,
        "kind": "block_address",
        "step": "begun",
        "subject": f"address 192.0.2.{number}",
        "aim": {"address": f"192.0.2.{number}"},
        "saved": {"undo": True},
        "seconds": 600,
        "wall": NOW.wall,
        "boot": NOW.boot,
        "boot_id": NOW.boot_id,
        "event": "1.000:5",
        "rule": "r",
        "level": "high",
        "why": "",
    }
    return Act(**(parts | given))


ENTRIES: list[Entry] = [
    {"act": attrs.asdict(act(1))},
    {"step": "done", "id": 1},
    {"act": attrs.asdict(act(2, step="dry"))},
    {"act": attrs.asdict(act(3))},
    {"step": "failed", "id": 3},
    {"step": "breaker", "why": "too many", "wall": 1.0},
    {"act": attrs.asdict(act(4, kind="notify", saved={}, seconds=0))},
    {"step": "done", "id": 4},
    {"step": "resume", "wall": 2.0},
    {"step": "undone", "id": 1},
]


def _opened(folder: Path, kept: list[Entry] | None = None, **given: Any) -> Journal:
    return Journal(folder, lambda: kept or [], **given)


def test_what_is_appended_is_there_again(tmp_path: Path) -> None:
    journal = _opened(tmp_path / "r")
    for entry in ENTRIES:
        journal.append(entry)
    journal.close()
    assert stat.S_IMODE(os.stat(tmp_path / "r").st_mode) == 0o700
    assert stat.S_IMODE(os.stat(tmp_path / "r" / NAME).st_mode) == 0o600
    again = _opened(tmp_path / "r")
    assert (again.entries, again.damaged) == (ENTRIES, 0)
    again.close()
    assert list(look(tmp_path / "r")) == ENTRIES


def test_torn_at_every_byte(tmp_path: Path) -> None:
    """Whatever a crash leaves: the whole entries before it, nothing else, and the next one is appended cleanly."""
    lines = [encode(entry) for entry in ENTRIES[:4]]
    whole = b"".join(lines)
    ends = [sum(map(len, lines[:count])) for count in range(len(lines) + 1)]
    journal = _opened(tmp_path / "r")
    journal.close()
    path = tmp_path / "r" / NAME
    for cut in range(len(whole) + 1):
        expected = ENTRIES[: sum(1 for end in ends[1:] if end <= cut)]
        for tail in (b"", b"\0" * 5, b"\0" * 5 + b"\n"):
            entries, damaged, torn = decode(whole[:cut] + tail)
            assert (entries, damaged) == (expected, 0)
            assert cut + len(tail) - torn == max(end for end in ends if end <= cut)
        if cut % 37 == 0 or cut in ends:
            path.write_bytes(whole[:cut])
            journal = _opened(tmp_path / "r")
            assert journal.entries == expected
            journal.append(ENTRIES[5])
            journal.close()
            assert list(look(tmp_path / "r")) == [*expected, ENTRIES[5]]


def test_every_bit_counts() -> None:
    line = encode(ENTRIES[0])
    for place in range(len(line) - 1):
        for bit in range(8):
            bad = bytearray(line)
            bad[place] ^= 1 << bit
            assert ENTRIES[0] not in decode(bytes(bad) + line)[0][:-1]


def test_a_damaged_line_in_the_middle_costs_itself(tmp_path: Path) -> None:
    lines = [encode(entry) for entry in ENTRIES]
    lines[3] = lines[3].replace(b"block", b"blick")
    _opened(tmp_path / "r").close()
    (tmp_path / "r" / NAME).write_bytes(b"".join(lines))
    journal = _opened(tmp_path / "r")
    assert (len(journal.entries), journal.damaged) == (len(ENTRIES) - 1, 1)
    journal.close()


def test_a_full_disk_leaves_nothing_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = _opened(tmp_path / "r")
    journal.append(ENTRIES[0])
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:20]))
    with pytest.raises(StoreError, match="No space left"):
        journal.append(ENTRIES[1])
    monkeypatch.undo()
    journal.append(ENTRIES[2])
    journal.close()
    assert list(look(tmp_path / "r")) == [ENTRIES[0], ENTRIES[2]]


def test_rotation_carries_over_what_matters_and_stays_bounded(tmp_path: Path) -> None:
    books = Books()
    journal = Journal(tmp_path / "r", lambda: list(books.kept()), max_bytes=4096)
    for number in range(1, 60):
        entry: Entry = {"act": attrs.asdict(act(number, wall=NOW.wall + number * 60, boot=NOW.boot + number * 60))}
        ended: list[Entry] = [{"step": step, "id": number} for step in ("done", "undone")]
        for each in (entry, *(ended if number != 2 else ended[:1])):
            journal.append(each)
            books.take(each)
        books.forget(Now(wall=NOW.wall + number * 60, boot=NOW.boot + number * 60, boot_id="a"))
        books.acts = {key: value for key, value in books.acts.items() if value.undoable or key > number - 3}
    journal.close()
    assert (tmp_path / "r" / NAME).stat().st_size <= 4096
    assert (tmp_path / "r" / OLD).stat().st_size <= 4096
    again = Journal(tmp_path / "r", list, max_bytes=4096)
    found = Books()
    for entry in again.entries:
        found.take(entry)
    again.close()
    assert found.acts[2].undoable
    assert found.last == 59


@pytest.mark.parametrize("step", ["new", "linked", "replaced"])
def test_a_rotation_cut_short_is_taken_up(tmp_path: Path, step: str) -> None:
    folder = tmp_path / "r"
    _opened(folder).close()
    path = folder / NAME
    path.write_bytes(encode(ENTRIES[0]))
    new = folder / NEW
    new.write_bytes(encode(ENTRIES[0]) if step != "new" else b"half")
    new.chmod(0o600)
    if step != "new":
        os.link(path, folder / OLD)
    if step == "replaced":
        new.rename(path)
    journal = _opened(folder)
    assert journal.entries == [ENTRIES[0]]
    journal.append(ENTRIES[1])
    journal.close()
    assert not new.exists()


def test_what_others_could_have_a_hand_in_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    with pytest.raises(StoreError, match="chmod 0700"):
        _opened(folder)
    folder.chmod(0o700)
    (folder / NAME).symlink_to("/etc/passwd")
    with pytest.raises(StoreError, match="symbolic link"):
        _opened(folder)


def test_the_books_are_the_same_from_what_a_rotation_keeps() -> None:
    """Cut at every entry: the state of its entries is the state of what would have been carried over there."""
    for count in range(len(ENTRIES) + 1):
        books, carried = Books(), Books()
        for entry in ENTRIES[:count]:
            books.take(entry)
        for entry in list(books.kept()):
            carried.take(decode(encode(entry))[0][0])
        assert (carried.acts, carried.breaker, carried.last) == (books.acts, books.breaker, books.last)
        assert books.strange == carried.strange == 0


def test_senseless_entries_are_counted() -> None:
    books = Books()
    for entry in ({}, {"act": {"id": 1}}, {"act": 5}, {"step": 5}, {"act": attrs.asdict(act(1)) | {"more": 1}}):
        books.take(entry)
    assert (books.strange, books.acts) == (5, {})
    books.take({"act": attrs.asdict(act(9, kind="reboot"))})
    assert (books.strange, books.acts, books.last) == (6, {}, 9)


@pytest.mark.parametrize(
    ("now", "left"),
    [
        (Now(wall=NOW.wall + 100, boot=NOW.boot + 100, boot_id="a"), 500),
        (Now(wall=NOW.wall - 9e6, boot=NOW.boot + 100, boot_id="a"), 500),
        (Now(wall=NOW.wall + 9e6, boot=NOW.boot + 100, boot_id="a"), 500),
        (Now(wall=NOW.wall + 100, boot=3.0, boot_id="b"), 500),
        (Now(wall=NOW.wall - 9e6, boot=3.0, boot_id="b"), 600),
    ],
)
def test_time_left_whatever_the_clocks_do(now: Now, left: float) -> None:
    assert act(1).left(now) == left
    assert act(1).age(now) >= 0


def test_caps_count_the_last_hour() -> None:
    books = Books()
    for number in range(1, 11):
        books.take({"act": attrs.asdict(act(number, subject="address a" if number % 2 else "address b"))})
    assert (books.recent(NOW), books.recent(NOW, "address a")) == (10, 5)
    later = Now(wall=NOW.wall, boot=NOW.boot + HOUR, boot_id="a")
    assert books.recent(later) == 0
    # After a reboot with a clock that was set back, what was is as if just now: no cap is won by that.
    assert books.recent(Now(wall=0.0, boot=1.0, boot_id="b")) == 10
