"""What a person wants of the journal when no reactor runs: it is opened, asked, and closed again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import trio

from audisp.config.reactions import read
from audisp.errors import StoreError
from audisp.react.clock import Clock
from audisp.react.judge import Judge
from audisp.react.main import means_for
from audisp.react.reactor import Reactor
from audisp.react.request import Result

T = TypeVar("T")


def undo(config: Path, state: Path, number: int) -> Result:
    """Undo the act. Raises AudispError, FileNotFoundError (no configuration)."""
    return _with_reactor(config, state, lambda reactor: reactor.undo(number))


def resume(config: Path, state: Path) -> bool:
    """Close the breaker; whether it was open. Raises as `undo`."""

    async def closed(reactor: Reactor) -> bool:
        await trio.lowlevel.checkpoint()
        return reactor.resume()

    return _with_reactor(config, state, closed)


def _with_reactor(config: Path, state: Path, act: Callable[[Reactor], Awaitable[T]]) -> T:
    conf = read(config)
    if not state.is_dir():
        raise StoreError(f"{state}: there is no journal, so nothing was ever done")

    async def tell(result: Result) -> None:
        await trio.lowlevel.checkpoint()

    async def run() -> T:
        reactor = Reactor(
            conf, state, means_for(conf), Judge(conf), clock=Clock(), tell=tell, say=lambda severity, text: None
        )
        reactor.open()
        try:
            return await act(reactor)
        finally:
            reactor.close()

    return trio.run(run)
