"""Records that the dispatcher makes itself: DAEMON_*, loss markers, what plugins emit.

Numbered as auditd numbers its own (upstream.md 2.3): from random below 10,000 upwards, apart from the kernel's serials.
"""

from __future__ import annotations

import random
import threading
import time

from audisp.buffer.queue import Gap
from audisp.parse.enriched import enrich_lines
from audisp.parse.interpret import Names
from audisp.parse.types import type_name
from audisp.record import Block

DAEMON_START, DAEMON_END, DAEMON_ABORT, DAEMON_CONFIG = 1200, 1201, 1202, 1203
DAEMON_ROTATE, DAEMON_RESUME, DAEMON_ERR = 1205, 1206, 1209
FIRST_SERIAL_BELOW = 10_000
"""auditd starts its own serials at random() % 10000."""


class Internal:
    """Maker of the dispatcher's own records. node: as name_format says, None without."""

    def __init__(self, node: bytes | None = None) -> None:
        self.names: Names | None = None
        """Of this host's accounts, if records are to be in ENRICHED format; None: RAW."""
        self._lock = threading.Lock()
        self._serial = random.randrange(FIRST_SERIAL_BELOW)  # noqa: S311 - a starting number, not a secret
        self.node = node

    def record(self, type_: int, fields: str, *, own: int = 0) -> Block:
        """One record, stamped now. fields is what follows the stamp; LF and NUL in it become spaces."""
        with self._lock:
            self._serial += 1
            serial = self._serial
        now = time.time()
        seconds, millis = int(now), int(now * 1000) % 1000
        body = fields.encode("utf-8", "surrogateescape").replace(b"\n", b" ").replace(b"\0", b" ")
        line = b"type=%b msg=audit(%d.%03d:%d): %b\n" % (type_name(type_), seconds, millis, serial, body)
        if self.names is not None:
            line = enrich_lines(line, self.names)
        if self.node:
            line = b"node=%b %b" % (self.node, line)
        return Block(line, 1, "internal", time.monotonic(), own=own)

    def loss(self, plugin: str, gap: Gap) -> Block:
        """The marker of a loss in one plugin's stream."""
        first = "?" if gap.first is None else gap.first
        last = "?" if gap.last is None else gap.last
        return self.record(
            DAEMON_ERR,
            f"op=lost plugin={plugin} count={gap.count} first={first} last={last} reason={gap.reason} res=failed",
            own=1,
        )
