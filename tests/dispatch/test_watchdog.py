"""Who holds the loop is named, with the ways out."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from audisp.dispatch import roster as roster_module
from audisp.dispatch import watchdog
from audisp.plugin import PluginType
from audisp.record import Block
from tests.dispatch.voices import Said, until
from tests.dispatch.worlds import Feed, NoSettings, World


async def test_a_coroutine_plugin_that_holds_the_loop_is_named_with_the_ways_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "HELD", 0.1)

    def hold(one: Block) -> None:
        if b"type=SYSCALL" in one.data:
            time.sleep(0.15)

    world.recorder("bad", asynchronous=True, before=hold)
    world.recorder("good", asynchronous=True)
    world.recorder("thread", before=hold)
    feed = Feed()
    async with world.started(feed):
        await feed.send(1)
        await until(lambda: world.said.heard("held the loop"))
    held = [message for level, message in world.said.lines if "held the loop" in message]
    assert all(message.startswith("plugin bad: held the loop for 0.") for message in held)
    for way in ("plain function", "trio.to_thread.run_sync", "child program (path =)"):
        assert way in held[0]


async def test_a_task_that_the_plugin_started_is_the_plugins(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "HELD", 0.1)
    world.recorder("bad")

    async def background() -> None:
        await trio.sleep(0.01)
        time.sleep(0.15)  # noqa: ASYNC251 - holding the loop is what this is about

    @asynccontextmanager
    async def opener(settings: NoSettings, host: Any) -> AsyncIterator[Any]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(background)
            yield lambda one: None

    monkeypatch.setattr(roster_module, "load_type", lambda name: PluginType(name, NoSettings, opener))
    async with world.started(Feed()):
        await until(lambda: world.said.heard("plugin bad: held the loop for 0."))


async def test_who_does_not_let_go_is_named_by_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "STUCK", 0.05)
    said = Said()
    heard_while_held = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watchdog.watch_loop, lambda task: "bad", said)
        await trio.sleep(0.01)
        deadline = time.monotonic() + 20
        while not heard_while_held and time.monotonic() < deadline:
            time.sleep(0.01)  # noqa: ASYNC251 - holding the loop is what this is about
            heard_while_held = said.heard("and does not let go", "warning")
        time.sleep(0.1)  # noqa: ASYNC251 - said once, however long it lasts
        nursery.cancel_scope.cancel()
    assert heard_while_held
    assert said.count("does not let go") == 1


async def test_our_own_tasks_are_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "HELD", 0.0)
    said = Said()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watchdog.watch_loop, lambda task: None, said)
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert said.lines == []
