"""Plugins that want events, shapes and filters, in a running engine."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import pytest

from audisp.dispatch.host import load_type
from audisp.event import INCOMPLETE, TIMED_OUT
from audisp.plugin import PluginError
from tests.dispatch.voices import until
from tests.dispatch.worlds import Feed, World, entry

EXEC = ('SYSCALL 1 items=1 uid=0 exe="/bin/ls" key="exec"', "PATH 1 item=0", "EOE 1 ")
LOGIN = ("USER_LOGIN 2 pid=1 uid=0 msg='op=login res=success'",)
OPEN = ('SYSCALL 3 items=0 uid=1000 exe="/bin/cat" key="files"', "EOE 3 ")


READS_ONE = f"""#!{os.path.realpath(sys.executable)} -IS
import os, sys
out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
first = not os.path.exists(sys.argv[1] + ".again")
data = b""
while True:
    if first:
        byte = os.read(0, 1)
        data += byte
        if byte == b"\\n":
            os.write(out, data)
            data = b""
            if os.fstat(out).st_size > 400:
                open(sys.argv[1] + ".again", "w").close()
                os._exit(3)
        continue
    data = os.read(0, 65536)
    if not data:
        break
    os.write(out, data)
"""
"""A child that reads byte by byte, and dies after some lines; the next one writes down what it reads."""


async def test_a_plugin_that_wants_events_gets_whole_ones_and_the_others_records_as_they_come(world: World) -> None:
    events = world.recorder("events", wants="events")
    blocks = world.recorder("blocks")
    feed = Feed()
    async with world.started(feed) as engine:
        await feed.lines(EXEC[0], OPEN[0])
        await feed.lines(EXEC[1], OPEN[1], *LOGIN)
        await feed.lines(EXEC[2])
        await until(lambda: feed.books.routed == 6)
        await until(lambda: entry(engine, "events").intake.delivered == 7)
        assert engine.snapshot()["assembly"]["feed"]["open_records"] == 0
    assert [(each.stamp[-2:], [one.type for one in each.records]) for each in events.events[1:-1]] == [
        (":3", ["SYSCALL", "EOE"]),
        (":2", ["USER_LOGIN"]),
        (":1", ["SYSCALL", "PATH", "EOE"]),
    ]
    assert [each.records[0].type for each in (events.events[0], events.events[-1])] == ["DAEMON_START", "DAEMON_END"]
    assert not any(each.flags for each in events.events)
    assert {each.origin for each in events.events} == {"feed", "internal"}
    kinds = [one.split(b" ", 1)[0] for one in blocks.got.splitlines()]
    assert kinds[1:-1] == [b"type=SYSCALL", b"type=SYSCALL", b"type=PATH", b"type=EOE", b"type=USER_LOGIN", b"type=EOE"]


async def test_what_has_no_end_comes_by_the_clock_also_when_nothing_else_happens(world: World) -> None:
    world.configure(auditd="end_of_event_timeout = 1\n")
    events = world.recorder("events", wants="events")
    feed = Feed()
    async with world.started(feed):
        await feed.lines(EXEC[0])
        await until(lambda: any(each.flags == TIMED_OUT for each in events.events))


async def test_what_is_open_at_the_end_is_delivered_as_incomplete_before_the_last_record(world: World) -> None:
    events = world.recorder("events", wants="events")
    feed = Feed()
    async with world.started(feed) as engine:
        await feed.lines(EXEC[0])
        await until(lambda: feed.books.routed == 1)
        await until(lambda: not entry(engine, "events").intake.books().waiting)
        books = engine._at_risk("events", 5)
        assert (books["at_risk"], books["first_open"]) == (1, 1)
    assert [(each.records[0].type, each.flags) for each in events.events[1:]] == [
        ("SYSCALL", INCOMPLETE),
        ("DAEMON_END", 0),
    ]


async def test_a_filter_keeps_and_drops_whole_events_and_books_what_it_drops(world: World) -> None:
    kept = world.recorder("kept", "filter_keep = key i= exec\nfilter_keep = \\record_type == USER_LOGIN\n")
    dropped = world.recorder("dropped", "filter_drop = uid r= 0\n", wants="events")
    both = world.child("both", "filter_keep = uid r= 0\nfilter_drop = key i= exec\n")
    feed = Feed()
    async with world.started(feed) as engine:
        for _ in range(50):
            await feed.lines(*EXEC, *LOGIN, *OPEN)
        await until(lambda: feed.books.routed == 300)
        await until(
            lambda: all(entry(engine, name).intake.books().waiting == 0 for name in ("kept", "dropped", "both"))
        )
        books = {name: entry(engine, name).intake.books() for name in ("kept", "dropped", "both")}
    assert kept.got.count(b"\n") == 200
    assert b'key="files"' not in kept.got
    assert (books["kept"].filtered, books["kept"].imbalance) == (101, 0)  # and DAEMON_START
    assert {each.get("SYSCALL", "uid") for each in dropped.events if each.of("SYSCALL")} == {"1000"}
    assert books["dropped"].filtered == 201
    text = both.read_bytes()
    assert text.count(b"type=USER_LOGIN ") == 50
    assert b"type=SYSCALL" not in text
    assert all(each.imbalance == 0 for each in books.values())


async def test_a_loss_marker_passes_every_filter(world: World) -> None:
    held = threading.Event()
    hold = world.recorder(
        "hold", "filter_keep = key i= exec\nqueue_bytes = 64K\n", before=lambda _: held.wait(30) and None
    )
    feed = Feed()
    async with world.started(feed) as engine:
        try:
            for _ in range(20):
                await feed.lines(*(EXEC * 100))
            await until(lambda: entry(engine, "hold").intake.dropped > 0)
        finally:
            held.set()
        await until(lambda: b"op=lost plugin=hold" in hold.got)
        assert entry(engine, "hold").intake.books().imbalance == 0


async def test_a_child_gets_a_shape_and_what_it_had_not_read_comes_again_whole(world: World) -> None:
    out = world.child("json", "shape = ecs\nqueue_bytes = 1M\n", code=READS_ONE)
    shared = world.recorder("same", "shape = ecs\n")
    feed = Feed()
    async with world.started(feed) as engine:
        for number in range(1, 301):
            await feed.lines(f"USER_LOGIN {number} pid={number} uid=0 msg='op=login acct=\"a\" res=success'")
        await until(lambda: feed.books.routed == 300)
        await until(lambda: entry(engine, "json").intake.books().waiting == 0)
        assert entry(engine, "json").intake.books().redelivered > 0
    documents = [json.loads(each) for each in out.read_bytes().splitlines()]
    assert [each["auditd"]["sequence"] for each in documents if each["auditd"]["sequence"] <= 300][:300] == [
        *range(1, 301)
    ]
    assert shared.got == out.read_bytes()


async def test_records_a_shape_has_no_text_for_count_as_delivered(world: World) -> None:
    shaped = world.recorder("shaped", "shape = text\n")
    out = world.child("child", "shape = text\n")
    feed = Feed()
    async with world.started(feed) as engine:
        await feed.lines(*EXEC)
        await feed.lines("EOE 1 ")
        await until(lambda: all(entry(engine, name).intake.delivered == 5 for name in ("shaped", "child")))
    assert shaped.got == out.read_bytes()
    assert shaped.got.count(b"\n") == 3


async def test_a_shape_for_one_that_wants_events_is_refused(world: World) -> None:
    world.recorder("events", "shape = ecs\nrequired = yes\n", wants="events")
    with pytest.RaisesGroup(PluginError, flatten_subgroups=True, allow_unwrapped=True):
        async with world.started(Feed()):
            raise AssertionError("it must not start")


def test_one_function_is_a_plugin(safe: Path) -> None:
    path = safe / "door.py"
    path.write_text("from audisp.plugin import hookimpl\n\n@hookimpl\ndef audisp_events(events):\n    list(events)\n")
    path.chmod(0o600)
    found = load_type(str(path))
    assert (found.name, found.wants) == (str(path), "events")


async def test_a_reload_turns_filters_and_shapes_on_and_off_and_loses_nothing(world: World) -> None:
    recorder = world.recorder("a", "filter_drop = key i= files\n")
    feed = Feed()
    async with world.started(feed) as engine:
        await feed.lines(*EXEC, *OPEN)
        await until(lambda: feed.books.routed == 5)
        for extra in ("", "shape = text\n", "filter_drop = uid r= 0\n", ""):
            world.recorder("a", extra)
            engine.ask("reload")
            wanted = ("text" if "shape" in extra else None, ("uid r= 0",) if "filter" in extra else ())
            await until(
                lambda: (
                    (entry(engine, "a").conf.shape, entry(engine, "a").conf.filter_drop) == wanted  # noqa: B023
                    and entry(engine, "a").runner.state == "running"
                )
            )
            await feed.lines(*EXEC, *OPEN)
        await until(lambda: feed.books.routed == 25)
        await until(lambda: entry(engine, "a").intake.books().waiting == 0)
        books = entry(engine, "a").intake.books()
        assert books.imbalance == 0
        assert books.dropped == books.quarantined == 0
        assert books.filtered >= 5
    assert recorder.got.count(b"type=SYSCALL") >= 6
