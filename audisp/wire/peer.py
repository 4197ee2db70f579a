"""What a peer tells about itself, in the same words for both protocols: trouble at a collector, and the end."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import attrs


class Trouble(StrEnum):
    """What is wrong at the collector. The values are those of the native protocol (docs/formats/protocol.md)."""

    DISK_LOW = "disk-low"
    DISK_FULL = "disk-full"
    DISK_ERROR = "disk-error"
    SUSPENDED = "suspended"
    ENDING = "ending"
    WARNING = "warning"
    """Something that we have no word for; records are stored."""
    ERROR = "error"
    """Something that we have no word for; records are not stored. C programs only."""


STORES: Final = frozenset({Trouble.DISK_LOW, Trouble.WARNING})
"""Troubles under which a collector goes on storing."""

PAUSES: Final = frozenset({Trouble.DISK_FULL, Trouble.DISK_ERROR, Trouble.SUSPENDED})
"""Troubles under which it stores nothing and may be well again without a new connection."""


@attrs.frozen
class Closed:
    """The peer closed the connection. clean: no frame was cut, and nobody waits for anything: in the C programs'
    protocol no message was without its answer, in ours a goodbye was said."""

    clean: bool
