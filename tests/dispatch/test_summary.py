"""The ledger for people, and auditd's state file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from audisp.dispatch import statefile
from audisp.dispatch.summary import duration, ledger_table
from tests.dispatch.voices import until
from tests.dispatch.worlds import Feed, World


async def test_the_table_says_it_all_and_steers_no_terminal(world: World) -> None:
    world.recorder("a", state=lambda: {"peer": "\x1b[2Jevil"})
    feed = Feed(name="feed\x1b[31m")
    async with world.started(feed) as engine:
        feed.books.detail["peer"] = "\u202egnp.exe"
        feed.books.count("odd_things", 1234)
        await feed.send(2)
        await until(lambda: feed.books.routed == 20)
        engine.roster.entries["a"].intake.losses["overflow"] = 7
        text = ledger_table(engine.snapshot())
        lines = statefile.lines(engine.snapshot(), engine.plan)
        engine.roster.entries["a"].intake.losses.clear()
    assert text.replace("\n", "").isprintable()
    assert "odd things 1,234" in text
    assert "dropped for overflow 7" in text
    assert "plugin queue overflow detected = yes" in lines
    assert "plugin queue size = 2000" in lines or any(each.startswith("plugin queue size = ") for each in lines)
    assert any(each.startswith("plugin a = running offered 21 ") for each in lines)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (61, "1 min 1 s"), (3_600, "1 h 0 min"), (90_061, "1 d 1 h")],
)
def test_spans_of_time(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_state_file_is_whole_and_for_its_group(tmp_path: Path) -> None:
    path = tmp_path / statefile.NAME
    statefile.write(path, ["one = 1", "two = 2"], 0)
    assert path.read_text() == "one = 1\ntwo = 2\n"
    assert stat.S_IMODE(path.stat().st_mode) & 0o137 == 0
    statefile.write(path, ["three"], os.getegid())
    assert path.read_text() == "three\n"
    assert os.listdir(tmp_path) == [statefile.NAME]


def test_the_state_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / f"{statefile.NAME}.new").symlink_to(other)
    with pytest.raises(OSError, match="symbolic"):
        statefile.write(tmp_path / statefile.NAME, ["x"], 0)
    assert other.read_text() == "mine"
