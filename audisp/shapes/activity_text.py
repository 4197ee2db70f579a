r"""Text of documents in JSON: quoting, and what becomes of bytes that are not UTF-8.

The rule, of ecs and ocsf: a byte that is no part of valid UTF-8 is written ``\xNN``, in lower case; a backslash in the
data that stands before ``xNN`` is written ``\x5c``, so that it is not taken for one. So replacing each ``\xNN`` by its
byte gives back what was there. All else is written as JSON writes it, everything outside printable ASCII as ``\uNNNN``,
so that no document holds a control character, and none a bidirectional one either.
"""

from __future__ import annotations

import re
from json.encoder import JSONEncoder, encode_basestring_ascii
from typing import Any, Final

_BYTE: Final = re.compile("[\udc80-\udcff]")
_LIKE_ONE: Final = re.compile(r"\\(?=x[0-9A-Fa-f]{2})")
_WRITTEN: Final = re.compile(rb"\\x([0-9A-Fa-f]{2})")


def visible(text: str) -> str:
    r"""A decoded value with its bytes that are not UTF-8 written ``\xNN``."""
    if "\\x" in text:
        text = _LIKE_ONE.sub(r"\\x5c", text)
    if not text.isascii():
        text = _BYTE.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
    return text


def original(text: str) -> bytes:
    """The bytes that `visible` was given."""
    return _WRITTEN.sub(lambda found: bytes((int(found[1], 16),)), text.encode("utf-8"))


def quoted(text: str) -> str:
    """A JSON string, in ASCII."""
    return encode_basestring_ascii(visible(text) if "\\" in text or not text.isascii() else text)


def written(value: object) -> str:
    """A document, or a part of one, as JSON: of dict, list, tuple, str, int, bool and None, in the order they have."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict):
        return "{" + ",".join([f"{quoted(name)}:{written(each)}" for name, each in value.items()]) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join([written(each) for each in value]) + "]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    raise TypeError(f"a document has no {type(value).__name__}")


_ENCODE: Final = JSONEncoder(ensure_ascii=True, separators=(",", ":"), check_circular=False).encode


def encoded(document: dict[str, Any]) -> str:
    """The same as `written`, for a whole document: by the standard encoder where no text needs the rule."""
    text = _ENCODE(document)
    # What may be a surrogate, or a backslash before an x, as JSON writes them; a false alarm costs time alone.
    return written(document) if "\\udc" in text or "\\\\x" in text else text
