"""An in-process plugin that counts the bytes it is given. Copied by part `netlink` to a folder that is root's alone."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs

from audisp.plugin import Block, Deliver, Host, PluginType, hookimpl

MARK = b" a2=61756469 "
"""What tests/native/gen.c puts into its system calls. A block of its records has it in the first or second of them, so
looking for it costs next to nothing; what the daemon and the kernel say at the start and the end is without it."""

REST = (b"type=PROCTITLE ", b"type=EOE ")
"""What a block begins with that has only the rest of an event."""


@attrs.frozen
class CountingConfig:
    """report: where the count is written at the end."""

    report: Path


@asynccontextmanager
async def open_counting(config: CountingConfig, host: Host) -> AsyncIterator[Deliver]:
    """Count until closed; then write it down."""
    del host
    records = size = calls = last = 0

    def deliver(block: Block) -> None:
        nonlocal records, size, calls, last
        size += len(block.data)
        if MARK in block.data or block.data.startswith(REST):
            records += block.records
            calls += 1
            last = time.monotonic_ns()

    yield deliver
    config.report.write_text(json.dumps({"records": records, "bytes": size, "calls": calls, "last_ns": last}))


@hookimpl
def audisp_plugins() -> list[PluginType]:
    """The one type."""
    return [PluginType("counting", CountingConfig, open_counting)]
