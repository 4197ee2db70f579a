"""What the tests of `syslog` to a server share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from audisp.plugin import Block, Retry
from audisp_plugins.syslog import SyslogConfig
from audisp_plugins.syslog_network import Transport, transport
from tests.plugins.booking import BookingHost, record

WAIT: Final = 20.0
"""Seconds after which a test gives up. Nothing takes as long."""


class Sender(Protocol):
    """What delivers blocks in a thread of its own."""

    def deliver(self, block: Block) -> None: ...


def to(port: int, host: BookingHost, kind: str = "tcp", **keys: Any) -> Transport:
    """A sender to this machine."""
    return transport(SyslogConfig(transport=kind, port=port, **{"server": "127.0.0.1", **keys}), host)  # type: ignore[arg-type]


def until_taken(sender: Sender, block: Block, between: Callable[[], None] = lambda: None) -> int:
    """Offer a block as the host does, until it is taken. Returns how often it was not."""
    end = time.monotonic() + WAIT
    refused = 0
    while time.monotonic() < end:
        try:
            sender.deliver(block)
        except Retry:
            refused += 1
            between()
            time.sleep(0.002)
        else:
            return refused
    raise TimeoutError(f"not taken in {WAIT} s")


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def lines_of(first: int, count: int, size: int = 100) -> list[bytes]:
    """Records with serials from `first`, no two alike."""
    return [record(serial, b"a=%d " % serial + b"x" * size) for serial in range(first, first + count)]


def texts(lines: Sequence[bytes]) -> list[bytes]:
    """Without LF."""
    return [line[:-1] for line in lines]


def refuses(sender: Sender, block: Block) -> bool:
    """Whether it asks for the block to be offered again."""
    try:
        sender.deliver(block)
    except Retry:
        return True
    return False
