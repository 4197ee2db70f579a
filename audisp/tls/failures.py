"""What goes wrong with TLS: whose fault it was, a word for logs, and a sentence for people."""

from __future__ import annotations

import trio

from audisp.errors import LocalProtocolError, ProtocolError, RemoteProtocolError


class TLSError(ProtocolError, trio.BrokenResourceError):
    """The connection is dead. Also a trio.BrokenResourceError, which is what any stream raises then.

    reason: one word for logs and counters, in upstream's spelling where upstream has one (docs/keys.md lists them).
    """

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class LocalTLSError(TLSError, LocalProtocolError):
    """Our side: libssl is missing, a call out of order, a stream used after it was torn."""


class RemoteTLSError(TLSError, RemoteProtocolError):
    """The peer, or the network between: no key, no TLS, cut off."""
