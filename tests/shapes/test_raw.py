"""raw and enriched: the records of an event, not one byte different, or with what auditd's ENRICHED format appends."""

from __future__ import annotations

from hypothesis import given

from audisp.parse.enriched import STALE, enrich_lines
from audisp.shapes.raw import Enriched, Raw
from audisp.shapes.registry import make_shape
from audisp.shapes.shape import ShapeSettings
from tests.shapes import calls, documents
from tests.shapes.test_csv import CWD, FILE, OPEN, TITLE, People


def test_they_are_in_the_registry() -> None:
    assert isinstance(make_shape("raw", ShapeSettings()), Raw)
    assert isinstance(make_shape("enriched", ShapeSettings()), Enriched)


@given(records=documents.records)
def test_raw_is_what_came(records: list[tuple[str, str]]) -> None:
    made = Raw(ShapeSettings())
    for event in documents.made(records):
        assert made.render(event) == event.raw


def test_raw_has_all_lines_of_all_events() -> None:
    events = [*documents.hard(), calls.STRAY, calls.event([OPEN, TITLE, ("EOE", "")])]
    made = Raw(ShapeSettings())
    assert made.render_all(events) == [event.raw for event in events]
    assert b"type=EOE " in made.render(events[-1])


def test_enriched_is_what_the_format_appends() -> None:
    made = Enriched(ShapeSettings(names=People()))
    event = calls.event([OPEN, CWD, FILE, TITLE, ("EOE", "")])
    call, folder, file, title, end = made.render(event).split(b"\n")[:-1]
    assert call.partition(b"\x1d")[2] == (
        b'ARCH=x86_64 SYSCALL=openat AUID="alice" UID="root" GID="root" EUID="root" SUID="root" FSUID="root" '
        b'EGID="root" SGID="root" FSGID="root"'
    )
    assert file.partition(b"\x1d")[2] == b'OUID="root" OGID="root"'
    assert b"\x1d" not in folder + title + end
    assert end == b"type=EOE msg=audit(1700000000.123:7):"
    assert made.render_all([event]) == [made.render(event)] == [enrich_lines(event.raw, People())]


def test_names_are_asked_for_anew() -> None:
    people = People()
    made = Enriched(ShapeSettings(names=people))
    event = calls.event([OPEN])
    assert b'AUID="alice"' in made.render(event)
    people.names[1000] = "alina"
    assert b'AUID="alice"' in made.render(event)
    event.arrived = STALE + 1
    assert b'AUID="alina"' in made.render(event)
