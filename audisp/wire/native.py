"""The native protocol: all that a sender's or a collector's shell imports. docs/formats/protocol.md."""

from __future__ import annotations

from audisp.wire.native_frames import (
    DATA_MARK,
    MAX_WEIGHT,
    Breach,
    DataFrame,
    Gap,
    Position,
    Reason,
    gap_frame,
    position_after,
)
from audisp.wire.native_messages import ALPN, FRAMES, IDLE, WINDOW, Bye, Hello, Ping, Refused, Troubled, Welcome
from audisp.wire.native_receiver import Accepted, Duplicate, Hole, Receiver
from audisp.wire.native_sender import Acknowledged, Sender
from audisp.wire.native_states import State
from audisp.wire.peer import Closed, Trouble

__all__ = [
    # The two ends, and where they are.
    "Sender",
    "Receiver",
    "State",
    # What either end may be told.
    "Ping",
    "Refused",
    "Closed",
    "Breach",
    "Reason",
    # What a sender is told.
    "Welcome",
    "Acknowledged",
    "Troubled",
    "Trouble",
    # What a receiver is told.
    "Hello",
    "Accepted",
    "Duplicate",
    "Hole",
    "Bye",
    # Frames and places in a stream.
    "DataFrame",
    "Gap",
    "Position",
    "gap_frame",
    "position_after",
    # Numbers.
    "ALPN",
    "DATA_MARK",
    "FRAMES",
    "IDLE",
    "MAX_WEIGHT",
    "WINDOW",
]
