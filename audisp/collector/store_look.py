"""What a frame's records say of themselves, as far as the store keeps it beside them: the seconds of their stamps, and
the nodes that they name. Pure.

Both are looked at once for each frame on its way in, so they are made to cost a tenth of packing it: where all records
of a frame are alike, as they nearly always are, nothing is done for each record.
"""

from __future__ import annotations

import re
from typing import Final

from audisp.buffer.segment import MAX_NUMBER
from audisp.record import STAMP

MAX_NODES: Final = 8
"""Node names kept of one frame, and of one stream. A host has one; what more than one means is said after two."""

MAX_NODE: Final = 64
"""Columns of a node name that are kept: HOST_NAME_MAX. A longer one is cut."""

_SECONDS: Final = re.compile(rb"^(?:node=[^ \n]+ )?type=[^ \n]+ msg=audit\((\d{1,20})\.\d{1,3}:\d", re.M)
_NODE: Final = re.compile(rb"\nnode=([^ \n]+) type=")
_NODE_BEGINS: Final = b"\nnode="
_FIRST_NODE: Final = re.compile(rb"node=([^ \n]+) type=")
_BEFORE: Final = b" msg=audit("


def seconds(data: bytes, records: int) -> tuple[int, int]:
    """First and last second, since the epoch, that stamps of these records can have; it may be a longer time than they
    do have, never a shorter one. 0 and MAX_NUMBER if a record has no stamp.

    A record that spells out a stamp in its text can only make the answer slower, with one exception: where another one
    has no stamp, or one far from all others, and the first spells out the very beginning that this lacks. Whoever can
    write both could as well write what stamps they like.
    """
    first = STAMP.match(data)
    if records == 1 and first is not None:
        only = min(int(first[1]), MAX_NUMBER)
        return only, only
    last = STAMP.match(data, data.rfind(b"\n", 0, len(data) - 1) + 1)
    if first is None or last is None:
        return 0, MAX_NUMBER
    begin, end = first[1], last[1]
    shared = 0
    if len(begin) == len(end):
        while shared < len(begin) and begin[shared] == end[shared]:
            shared += 1
    if shared and data.count(_BEFORE + begin[:shared]) == records:
        rest = len(begin) - shared
        return _bounded(begin[:shared] + b"0" * rest, begin[:shared] + b"9" * rest)
    found = _SECONDS.findall(data)
    if len(found) < records:
        return 0, MAX_NUMBER
    numbers = {*map(int, set(found))}
    return min(min(numbers), MAX_NUMBER), min(max(numbers), MAX_NUMBER)


def _bounded(low: bytes, high: bytes) -> tuple[int, int]:
    return min(int(low), MAX_NUMBER), min(int(high), MAX_NUMBER)


def nodes(data: bytes, records: int) -> tuple[str, ...]:
    """The different nodes that these records name, in order; more than MAX_NODES are not looked for. Text that is no
    ASCII is escaped, and each is cut to MAX_NODE columns."""
    first = _FIRST_NODE.match(data)
    if first is None:
        if _NODE_BEGINS not in data:
            return ()
        found = []
    elif records == 1 or data.count(b"\nnode=" + first[1] + b" ") == records - 1:
        return (_name(first[1]),)
    else:
        found = [first[1]]
    found += _NODE.findall(data)
    if not found:
        return ()
    return tuple(dict.fromkeys(_name(each) for each in dict.fromkeys(found)))[:MAX_NODES]


def _name(found: bytes) -> str:
    return found[:MAX_NODE].decode("ascii", "backslashreplace")[:MAX_NODE]
