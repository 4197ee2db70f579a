"""What was stored is known again by its place, whatever it comes with."""

from __future__ import annotations

from typing import Any

import pytest

from audisp.buffer.segment import ANCHOR, Frame
from audisp.record import Block, Place, join
from audisp.remote.books import SHIFT
from audisp.remote.places import KEY, MAX_BYTES, SOURCES, STRETCHES, Places
from audisp.wire.native import DataFrame
from tests.dispatch.intakes import block

LOG, NEXT = b"stretch1", b"stretch2"


def placed(first: int, count: int, stretch: bytes = LOG, source: str = "follow:/a") -> Block:
    """Records numbered in their stretch as by their serials."""
    made = block(first, count, source=source)
    return Block(made.data, count, source, made.arrived, place=Place(stretch, first + count - 1))


def after(*blocks: Block) -> Places:
    places = Places({})
    for each in blocks:
        places.add(each)
    return places


@pytest.mark.parametrize(
    ("again", "new"),
    [
        (placed(1, 10), None),
        (placed(5, 3), None),
        (placed(8, 5), [11, 12]),
        (placed(10, 2), [11]),
        (placed(11, 2), [11, 12]),
        (placed(15, 2), [15, 16]),
        (placed(1, 2, NEXT), [1, 2]),
        (placed(1, 2, source="follow:/b"), [1, 2]),
        (block(1, 2, source="follow:/a"), [1, 2]),
    ],
)
def test_what_is_new(again: Block, new: list[int] | None) -> None:
    found = after(placed(1, 10)).new_of(again)
    assert (None if found is None else found.serials()) == new
    if found is not None and again.place is not None:
        assert found.place == again.place


def test_it_is_kept_in_the_books_of_the_frame_that_has_the_block() -> None:
    places = after(placed(1, 10))
    books = {KEY: places.with_(placed(11, 5))}
    assert places.new_of(placed(11, 5)) is not None
    again = Places(books)
    assert again.new_of(placed(11, 5)) is None
    assert again.new_of(placed(16, 1)) is not None
    assert again.view() == books[KEY]


@pytest.mark.parametrize(
    "books",
    [{}, {KEY: None}, {KEY: []}, {KEY: {"follow:/a": 5}}, {KEY: {"follow:/a": [b"short", 5, LOG, "x", LOG]}}],
)
def test_books_that_say_nothing_of_it_make_everything_new(books: dict[str, Any]) -> None:
    assert Places(books).new_of(placed(1, 10)) is not None


def test_a_log_that_was_rotated_is_known_too_and_the_oldest_are_forgotten() -> None:
    names = [b"%08d" % number for number in range(STRETCHES + 1)]
    places = after(*(placed(1, 3, name) for name in names))
    assert places.new_of(placed(1, 3, names[0])) is not None
    assert all(places.new_of(placed(1, 3, name)) is None for name in names[1:])


def test_sources_are_bounded() -> None:
    places = after(*(placed(1, 3, source=f"follow:/{number}") for number in range(SOURCES + 1)))
    assert len(places.view()) == SOURCES
    assert places.new_of(placed(1, 3, source="follow:/0")) is not None
    assert places.new_of(placed(1, 3, source="follow:/1")) is None


@pytest.mark.parametrize("name", ["follow:/" + "n" * 92, "follow:/" + "n" * 4_088])
def test_a_frame_whose_books_hold_all_of_it_can_be_sent_and_stored(name: str) -> None:
    """Sources and stretches at their bounds, and numbers as long as they get."""
    last = (1 << 63) - 1_000
    places = after(
        *(
            Block(b"x\n", 1, f"{source:02d}{name[2:]}", 0.0, place=Place(b"%08d" % stretch, last))
            for source in range(SOURCES)
            for stretch in range(STRETCHES)
        )
    )
    view = places.view()
    assert len(view) == (SOURCES if len(name) == 100 else MAX_BYTES // (len(name) + 8 + STRETCHES * 19))
    books = {"lost": last, SHIFT: last, KEY: view}
    DataFrame.make(Frame(last, 1, name, books, ANCHOR, last, b"x\n"))  # refuses what no collector could store


def test_a_part_of_a_block_has_the_place_of_its_end() -> None:
    whole = placed(1, 10)
    head, rest = whole.split(60 * 4 + 5)
    assert head is not None
    assert rest is not None
    assert (head.records, head.place, rest.place) == (4, Place(LOG, 4), Place(LOG, 10))
    assert join([head, rest]).place == whole.place
    assert whole.without_first(9).serials() == [10]


def test_blocks_whose_places_would_be_lost_are_not_joined() -> None:
    assert placed(1, 2).joins(placed(3, 2))
    assert block(1).joins(block(2))
    assert not placed(1, 2).joins(block(3))
    assert not block(1).joins(placed(2, 1))
    assert not placed(1, 2).joins(placed(3, 2, NEXT))
    assert not placed(1, 2).joins(placed(3, 2, source="follow:/b"))
