"""JSON written as text: from a record's text to a JSON string without a Python object in between.

Everything is a *latin-1 view* (`audisp.parse.values`): one character per byte, so that what comes out is encoded with
``latin-1`` and is UTF-8. A text is either known to need nothing (`PLAIN`), or every byte of it goes through a table.
"""

from __future__ import annotations

import re
from typing import Final

PLAIN_CLASS: Final = r'[^\x00-\x1f"%+\\\x7f-\xff]'
"""One character that stands for itself in a JSON string, and that percent-encoding leaves alone."""
PLAIN: Final = re.compile(PLAIN_CLASS + r"*\Z")
"""A text of nothing else."""


def _encoded(byte: int) -> str:
    char = chr(byte)
    if char in '"\\':
        return "\\" + char
    return char if PLAIN.match(char) else f"%{byte:02x}"


PERCENT: Final = tuple(_encoded(byte) for byte in range(256))
"""What stands in a JSON string for each byte that belongs to no character of UTF-8: the byte itself, ``\\\\"``, or
``%xx``. Below 0x20, 0x7F and above, ``%`` and ``+`` are percent-encoded (laurel-about(7))."""
_SPECIAL: Final = re.compile(r'[\x00-\x1f"%+\\\x7f]')
_ESCAPES: Final = {chr(byte): text for byte, text in enumerate(PERCENT)}
_LOST: Final = re.compile("[\udc80-\udcff]")


def percent(text: str) -> str:
    """A text (latin-1 view) as the inside of a JSON string, percent-encoded: characters of UTF-8 stay, bytes that are
    none become ``%xx``. Linear."""
    if PLAIN.match(text):
        return text
    text = _SPECIAL.sub(lambda found: _ESCAPES[found[0]], text)
    if text.isascii():
        return text
    decoded = text.encode("latin-1").decode("utf-8", "surrogateescape")
    known = _LOST.sub(lambda found: f"%{ord(found[0]) - 0xDC00:02x}", decoded)
    return known.encode("utf-8").decode("latin-1")


def percent_bytes(data: bytes) -> str:
    """The same of bytes; quicker where most of them are no letters, such as addresses."""
    return "".join([PERCENT[byte] for byte in data]) if data.isascii() else percent(data.decode("latin-1"))


def string(text: str) -> str:
    """A text (latin-1 view) as a JSON string, percent-encoded."""
    return f'"{percent(text)}"'
