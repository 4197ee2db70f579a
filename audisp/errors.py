"""The errors of the whole project: one small tree.

Every error that a person sees carries where it is (file, line, key) and, where there is one, the nearest valid
choice. An error that is somebody else's fault (a peer, a plugin, a file) never ends the dispatcher by itself.
"""

from __future__ import annotations

from pathlib import Path


class AudispError(Exception):
    """Anything that this project raises on purpose."""


class ConfigError(AudispError):
    """A setting that cannot be used. str() is one line: ``FILE:LINE: KEY: MESSAGE``."""

    def __init__(
        self, message: str, *, path: Path | str | None = None, line: int | None = None, key: str | None = None
    ) -> None:
        self.message, self.path, self.line, self.key = message, path, line, key
        where = "" if path is None else f"{path}:{line}: " if line else f"{path}: "
        super().__init__(f"{where}{key + ': ' if key else ''}{message}")


class ParseError(AudispError):
    """Bytes that are not what the format says. Raised by decoders; sources count them and go on."""


class PluginError(AudispError):
    """A plugin could not be loaded, opened or fed."""


class SourceError(AudispError):
    """A source could not be opened, or ended for good."""


class NotPermitted(SourceError):
    """The kernel does not let this process have the source: a capability or the namespace is missing."""


class StoreError(AudispError):
    """Something on disk (a segment, a spool, a lock) cannot be used."""


class ProtocolError(AudispError):
    """A remote peer or we broke a wire protocol. The session is dead afterwards."""


class LocalProtocolError(ProtocolError):
    """Our own side asked for something the protocol does not allow."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something the protocol does not allow."""
