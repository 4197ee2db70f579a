"""The states of the native protocol's two ends, in one table each.

A session is one connection and one stream. Whatever happens in it is a signal: a frame that came, or something that
its own end does. The row of a state holds the signals that may happen in it and the state that each leads to; what is
not in the row is a breach of the protocol if it came from the peer, and a mistake of the caller if it is our own.
Some signals are kinds of a TROUBLE frame, because they lead to different states.

A sender greets (in GREETED it waits to be told where the collector stands), looks that place up in its spool, resumes
there, and streams. PAUSED and STREAMING differ only in that nothing more is sent; what is under way may still be
acknowledged. ENDING (the collector goes) and LEAVING (the sender goes) are the two polite ends: acknowledgements still
come, data does not.

A receiver waits for the greeting, asks its caller what it has stored (ASKED), welcomes, and takes data. It has no
PAUSED: a frame that was under way when trouble was told of is as good as any, and the window bounds what its caller
has to hold until the disk is well. In ENDING it lets data that comes pass unseen; the sender still has it.

DEAD and CLOSED have no way out. After an error, whoever made it, the session is DEAD; the next one starts from what
is on the two disks, which is all that counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

from audisp.wire.native_frames import FrameType
from audisp.wire.peer import PAUSES, Trouble


class State(Enum):
    """Of either end."""

    FRESH = auto()
    GREETED = auto()
    RESUMING = auto()
    ASKED = auto()
    STREAMING = auto()
    PAUSED = auto()
    ENDING = auto()
    LEAVING = auto()
    CLOSED = auto()
    DEAD = auto()


class Signal(Enum):
    """What happens. HELLO to BYE are frames (LOW, PAUSE, CLEAR, ENDING: of TROUBLE), RESUME is the caller's."""

    HELLO = auto()
    WELCOME = auto()
    RESUME = auto()
    DATA = auto()
    ACK = auto()
    LOW = auto()
    PAUSE = auto()
    CLEAR = auto()
    ENDING = auto()
    PING = auto()
    REFUSE = auto()
    BYE = auto()


Table = Mapping[State, Mapping[Signal, State]]

_TAKES_ANSWERS: Final[Mapping[Signal, State]] = {Signal.REFUSE: State.DEAD, Signal.ENDING: State.ENDING}

SENDER: Final[Table] = {
    State.FRESH: {Signal.HELLO: State.GREETED},
    State.GREETED: {
        Signal.WELCOME: State.RESUMING,
        Signal.PING: State.GREETED,
        Signal.REFUSE: State.DEAD,
    },
    State.RESUMING: {Signal.RESUME: State.STREAMING},
    State.STREAMING: {
        **_TAKES_ANSWERS,
        Signal.DATA: State.STREAMING,
        Signal.ACK: State.STREAMING,
        Signal.LOW: State.STREAMING,
        Signal.PAUSE: State.PAUSED,
        Signal.CLEAR: State.STREAMING,
        Signal.PING: State.STREAMING,
        Signal.BYE: State.LEAVING,
    },
    State.PAUSED: {
        **_TAKES_ANSWERS,
        Signal.ACK: State.PAUSED,
        Signal.LOW: State.PAUSED,
        Signal.PAUSE: State.PAUSED,
        Signal.CLEAR: State.STREAMING,
        Signal.PING: State.PAUSED,
        Signal.BYE: State.LEAVING,
    },
    State.ENDING: {
        **_TAKES_ANSWERS,
        Signal.ACK: State.ENDING,
        Signal.LOW: State.ENDING,
        Signal.PAUSE: State.ENDING,
        Signal.CLEAR: State.ENDING,
        Signal.PING: State.ENDING,
        Signal.BYE: State.LEAVING,
    },
    State.LEAVING: {
        Signal.REFUSE: State.DEAD,
        Signal.ACK: State.LEAVING,
        Signal.LOW: State.LEAVING,
        Signal.PAUSE: State.LEAVING,
        Signal.CLEAR: State.LEAVING,
        Signal.ENDING: State.LEAVING,
        Signal.PING: State.LEAVING,
    },
    State.CLOSED: {},
    State.DEAD: {},
}
"""ACK, WELCOME, TROUBLE and REFUSE come from the peer; HELLO, RESUME, DATA and BYE are the caller's."""

RECEIVER: Final[Table] = {
    State.FRESH: {Signal.HELLO: State.ASKED, Signal.REFUSE: State.DEAD},
    State.ASKED: {Signal.WELCOME: State.STREAMING},
    State.STREAMING: {
        Signal.DATA: State.STREAMING,
        Signal.ACK: State.STREAMING,
        Signal.LOW: State.STREAMING,
        Signal.PAUSE: State.STREAMING,
        Signal.CLEAR: State.STREAMING,
        Signal.ENDING: State.ENDING,
        Signal.PING: State.STREAMING,
        Signal.REFUSE: State.DEAD,
        Signal.BYE: State.LEAVING,
    },
    State.ENDING: {
        Signal.DATA: State.ENDING,
        Signal.ACK: State.ENDING,
        Signal.PING: State.ENDING,
        Signal.REFUSE: State.DEAD,
        Signal.BYE: State.LEAVING,
    },
    State.LEAVING: {
        Signal.ACK: State.LEAVING,
        Signal.LOW: State.LEAVING,
        Signal.PAUSE: State.LEAVING,
        Signal.CLEAR: State.LEAVING,
        Signal.ENDING: State.LEAVING,
        Signal.PING: State.LEAVING,
        Signal.REFUSE: State.DEAD,
    },
    State.CLOSED: {},
    State.DEAD: {},
}
"""HELLO, DATA, PING, REFUSE and BYE come from the peer; WELCOME, ACK and TROUBLE are the caller's."""

SIGNALS: Final[Mapping[int, tuple[Signal, ...]]] = {
    FrameType.HELLO: (Signal.HELLO,),
    FrameType.WELCOME: (Signal.WELCOME,),
    FrameType.DATA: (Signal.DATA,),
    FrameType.ACK: (Signal.ACK,),
    FrameType.TROUBLE: (Signal.LOW, Signal.PAUSE, Signal.CLEAR, Signal.ENDING),
    FrameType.PING: (Signal.PING,),
    FrameType.REFUSE: (Signal.REFUSE,),
    FrameType.BYE: (Signal.BYE,),
}
"""What a frame of each type may mean."""

FROM_RECEIVER: Final = frozenset(
    {FrameType.WELCOME, FrameType.ACK, FrameType.TROUBLE, FrameType.PING, FrameType.REFUSE}
)
FROM_SENDER: Final = frozenset({FrameType.HELLO, FrameType.DATA, FrameType.PING, FrameType.REFUSE, FrameType.BYE})
"""Who sends what."""


def signal_of(trouble: Trouble | None) -> Signal:
    """What trouble means for the session; None: it is over."""
    if trouble is None:
        return Signal.CLEAR
    if trouble is Trouble.ENDING:
        return Signal.ENDING
    return Signal.PAUSE if trouble in PAUSES else Signal.LOW
