"""What a child says on its stderr, line by line, into our log. A child that floods it is slowed down, not we."""

from __future__ import annotations

from typing import Final

import trio

from audisp.dispatch.runner import Say

STDERR_LINE: Final = 1024
"""Longest piece of a child's stderr that becomes one line in our log."""
STDERR_LINES: Final = 20
"""Lines of one piece that are looked at; the others are counted. The log's own limit lets fewer pass."""
STDERR_READ: Final = 65_536
"""A pipe's capacity: one piece is all that there is."""
STDERR_PAUSE: Final = 0.01
"""Seconds between two pieces: at most 6.5 MB/s are read from a child that writes to stderr without end."""
LAST_WORDS: Final = 0.03
"""Seconds after a child's end in which its last words are read. A grandchild may hold its stderr open for ever."""


async def capture(name: str, say: Say, stream: trio.lowlevel.FdStream) -> None:
    """Until the end of the stream, which is closed then. name: the plugin's."""
    pending = b""
    async with stream:
        while True:
            try:
                data = await stream.receive_some(STDERR_READ)
            except (OSError, trio.BrokenResourceError):
                data = b""
            *lines, pending = (pending + data).split(b"\n")
            if pending and (not data or len(pending) > STDERR_LINE):
                lines, pending = [*lines, pending], b""
            for line in lines[:STDERR_LINES]:
                text = line[:STDERR_LINE].decode("utf-8", "backslashreplace")
                say("info", f"plugin {name} says: {text}", limit=f"stderr-{name}")
            if len(lines) > STDERR_LINES:
                more = len(lines) - STDERR_LINES
                say("info", f"plugin {name} says {more} lines more", limit=f"stderr-{name}")
            if not data:
                return
            await trio.sleep(STDERR_PAUSE)
