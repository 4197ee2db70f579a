"""What every session of a collector has in common."""

from __future__ import annotations

from typing import Final

import attrs
import trio

from audisp import __version__
from audisp.collector.committer import Committer, Say
from audisp.collector.flight import Flight
from audisp.collector.hosts import Hosts
from audisp.collector.presence import Presence
from audisp.config.collector import ListenConf

SOFTWARE: Final = f"audisp {__version__}"
"""What senders are told."""

FRAME_SECONDS: Final = 60.0
"""From the first byte of a frame to its last: 1 MiB at 150 kbit/s. Who is slower holds memory."""

SEND_SECONDS: Final = 60.0
"""For answers to be taken: they are small, and whoever does not read them for so long does not live."""

RECEIVE_BYTES: Final = 65_536
"""Read at once."""


@attrs.define(eq=False)
class Services:
    """conf: as it is now; exchanged by a reload."""

    conf: ListenConf
    committer: Committer
    flight: Flight
    hosts: Hosts
    say: Say
    presence: Presence = attrs.field(factory=Presence)


Stream = trio.abc.HalfCloseableStream
"""TLS or plain."""
