"""JSON written as text: from a record's text to a JSON string without a Python object in between.

Everything is a *latin-1 view* (`audisp.parse.values`): one character per byte, so that what comes out is encoded with
``latin-1`` and is UTF-8. A text is either known to need nothing (`PLAIN`), or every byte of it goes through a table.
"""

from __future__ import annotations

import re
from codecs import charmap_decode
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


PERCENT: Final = {byte: _encoded(byte) for byte in range(256)}
"""What stands in a JSON string for each byte that belongs to no character of UTF-8: the byte itself, ``\\\\"``, or
``%xx``. Below 0x20, 0x7F and above, ``%`` and ``+`` are percent-encoded (laurel-about(7))."""
_WITH_QUOTES: Final = re.compile(r"[^\x00-\x1f%+\\\x7f-\xff]*\Z")
_CHARACTER: Final = re.compile(
    rb"([\xc2-\xf4](?:(?<=[\xc2-\xdf])[\x80-\xbf]|(?<=[\xe1-\xec\xee\xef])[\x80-\xbf]{2}|(?<=[\xf1-\xf3])[\x80-\xbf]{3}"
    rb"|(?<=\xe0)[\xa0-\xbf][\x80-\xbf]|(?<=\xed)[\x80-\x9f][\x80-\xbf]|(?<=\xf0)[\x90-\xbf][\x80-\xbf]{2}"
    rb"|(?<=\xf4)[\x80-\x8f][\x80-\xbf]{2}))"
)
"""A character of UTF-8 above 0x7F (RFC 3629, section 4). It begins with a class, by which the search skips bytes."""


def percent(text: str) -> str:
    """A text (latin-1 view) as the inside of a JSON string, percent-encoded: characters of UTF-8 stay, bytes that are
    none become ``%xx``. Linear."""
    if PLAIN.match(text):
        return text
    if _WITH_QUOTES.match(text):
        return text.replace('"', '\\"')
    return percent_bytes(text.encode("latin-1"))


def percent_bytes(data: bytes) -> str:
    """The same of bytes."""
    if not data.isascii():
        parts = _CHARACTER.split(data)
        if len(parts) > 1:
            return "".join(
                [
                    part.decode("latin-1") if at % 2 else charmap_decode(part, "strict", PERCENT)[0]
                    for at, part in enumerate(parts)
                ]
            )
    return charmap_decode(data, "strict", PERCENT)[0]


def string(text: str) -> str:
    """A text (latin-1 view) as a JSON string, percent-encoded."""
    return f'"{percent(text)}"'
