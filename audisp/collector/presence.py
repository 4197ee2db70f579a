"""Who came and who went, as the records that auditd writes of it: DAEMON_ACCEPT and DAEMON_CLOSE (upstream.md 6).

They go to the plugins as all of the daemon's own records, and not into the store, which holds what hosts have sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import attrs

from audisp.collector.hosts import Connection

DAEMON_ACCEPT: Final = 1207
DAEMON_CLOSE: Final = 1208

REFUSALS: Final = 10
"""Records of refused connections in a second; further ones are counted in the next. Whoever reaches the port can be
refused as often as they like, and it is no use to them to have every plugin told."""


def _nowhere(type_: int, fields: str) -> None:
    """As long as there are no plugins."""


@attrs.define(eq=False)
class Presence:
    """emit: takes the type and what follows the stamp. profile: `tls_crypto_profile`."""

    emit: Callable[[int, str], None] = _nowhere
    profile: str = ""
    clock: Callable[[], float] = time.monotonic
    _second: float = 0.0
    _refused: int = 0
    _more: int = 0

    def accepted(self, connection: Connection, identity: str) -> None:
        """A sender has come in. Its identity is printable ASCII without blanks, as the store demands."""
        where = f"addr={connection.address} port={connection.port}"
        if not connection.cipher:
            self.emit(DAEMON_ACCEPT, f"{where} res=success")
            return
        cipher, _, group = connection.cipher.partition(" ")
        self.emit(
            DAEMON_ACCEPT,
            f"op=tls-accept res=success role=collector {where} id={identity} profile={self.profile or '?'} reason=? "
            f"auth=psk tls_version=TLSv1.3 cipher={cipher} group={group or '?'}",
        )

    def closed(self, connection: Connection) -> None:
        """One that was accepted has gone."""
        self.emit(DAEMON_CLOSE, f"addr={connection.address} port={connection.port} res=success")

    def refused(self, connection: Connection, reason: str) -> None:
        """A connection was refused, for a reason in one word."""
        now = self.clock()
        if now - self._second >= 1.0:
            self._second, self._refused = now, 0
        if self._refused >= REFUSALS:
            self._more += 1
            return
        self._refused += 1
        more, self._more = self._more, 0
        fields = f"op=accept res=no role=collector addr={connection.address} port={connection.port} reason={reason}"
        self.emit(DAEMON_ACCEPT, fields + (f" more={more}" if more else ""))
