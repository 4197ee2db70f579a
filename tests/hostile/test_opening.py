"""A plugin that never opens, while the audit stream is ours already."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from audisp.dispatch import inprocess
from audisp.dispatch import roster as roster_module
from audisp.plugin import Delivery, PluginType
from tests.dispatch.voices import until
from tests.dispatch.worlds import Feed, NoSettings, Recorder, World


@attrs.define
class NeverOpens(Recorder):
    """Waits in its open."""

    def type(self) -> PluginType:
        @asynccontextmanager
        async def opener(settings: NoSettings, host: Any) -> AsyncIterator[Delivery]:
            self.opened += 1
            await trio.sleep(86_400)
            yield Delivery(lambda one: None)

        return PluginType(self.name, NoSettings, opener)


async def test_the_end_can_be_asked_for_while_a_required_plugin_does_not_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    monkeypatch.setattr(inprocess, "CLOSE_GRACE", 0.05)
    world = World(tmp_path)
    monkeypatch.setattr(roster_module, "load_type", world.load_type)
    world.configure(own="drain_timeout = 0")
    world.recorder("stuck", "required = yes\n")
    stuck = world.recorders["stuck"] = NeverOpens("stuck")
    feed = Feed()
    engine = world.engine(feed)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            await until(lambda: stuck.opened)
            engine.ask("stop")
    assert feed.books.received == 0
    assert world.said.heard("does not end, and is left to itself")
    assert engine.roster.entries["stuck"].intake.books().imbalance == 0
