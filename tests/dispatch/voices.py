"""A log that remembers, and waiting for what is bound to happen."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import attrs
import trio

PATIENCE = 30.0
"""Seconds after which what is waited for counts as never happening. Bounds a defect, asserts no timing."""


@attrs.define
class Said:
    """Implements `runner.Say`."""

    lines: list[tuple[str, str]] = attrs.field(factory=list)

    def __call__(self, level: str, message: str, *, limit: str | None = None) -> None:
        self.lines.append((level, message))

    def heard(self, text: str, level: str | None = None) -> bool:
        return any(text in message and level in (None, each) for each, message in self.lines)

    def count(self, text: str) -> int:
        return sum(text in message for _, message in self.lines)


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait for something that will be so in a moment."""
    with trio.move_on_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - most of what is waited for has no event
            await trio.sleep(0.005)
        return
    raise AssertionError(f"never: {what or condition}")


class Stoppable(Protocol):
    """A runner, for `running`."""

    async def run(self) -> None: ...

    async def stop(self, deadline: float) -> None: ...


@asynccontextmanager
async def running(runner: Stoppable, drain: float = 0.0) -> AsyncIterator[None]:
    """The runner runs inside the block and is stopped at its end."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runner.run)
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                await runner.stop(trio.current_time() + drain)
