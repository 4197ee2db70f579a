"""How values are written in records, and back: quotes, hexadecimal digits, ``(null)`` (upstream.md section 9).

Everything works on *text*: the bytes of a record decoded as latin-1, one character per byte, so that nothing is lost,
ASCII methods are fast, and ``text.encode("latin-1")`` gives the bytes back. What is decoded for a person or a
programme is a `str` in which bytes that are not UTF-8 are surrogates (``os.fsdecode``'s rule), or `bytes`.
"""

from __future__ import annotations

import re
from typing import Final

_HEX: Final = re.compile(r"(?:[0-9A-Fa-f]{2})+\Z")
_NOTHING: Final = frozenset({"(null)", "(none)", "?", ""})

KEY_SEPARATOR: Final = "\x01"
"""Between two keys of one record (AUDIT_KEY_SEPARATOR, linux/audit.h)."""

# fmt: off
STRINGS: Final = frozenset({
    "path", "comm", "exe", "file", "name", "watch", "cwd", "cmd", "acct", "dir", "vm", "key", "data", "proctitle",
    "old-chardev", "new-chardev", "old-disk", "new-disk", "old-fs", "new-fs", "old-net", "new-net", "old-rng",
    "new-rng", "device", "cgroup", "ocomm", "grp", "new_group", "sw", "root_dir", "invalid_context", "profile",
    "info", "operation", "apparmor", "target", "peer", "peer_profile", "label", "requested_mask", "denied_mask",
    "srcname", "namespace",
})
# fmt: on
"""Fields whose value the sender encodes as an untrusted string: in quotes, or as hexadecimal digits where it holds a
blank, a quote or anything else outside 0x21 to 0x7E (audit_log_untrustedstring in the kernel, audit_encode_value in
libaudit). Only in these, and in EXECVE's arguments, are digits without quotes decoded: a pid is no string, nor is the
``unit=cafe`` of a service manager, which writes names as they are. auparse's table (`audisp.parse.fieldtypes`) has the
same names but those of AppArmor."""


def is_hex(value: str) -> bool:
    """Whether a value without quotes is an encoded string: pairs of hexadecimal digits. The kernel writes upper case;
    lower case is decoded as well, as auparse does."""
    return _HEX.match(value) is not None


def unquote(value: str) -> bytes:
    """The bytes that an untrusted string stands for.

    ``"text"`` is the text, whatever it looks like; an even number of hexadecimal digits are bytes; anything else
    (``(null)``, odd digits, digits with something behind them) is kept literally. Linear; never raises on latin-1.
    """
    if value[:1] == '"':
        return value[1 : -1 if value[-1] == '"' and len(value) > 1 else None].encode("latin-1")
    if _HEX.match(value):
        return bytes.fromhex(value)
    return value.encode("latin-1")


def to_str(data: bytes) -> str:
    """UTF-8; a byte that is none becomes a surrogate (U+DC80 to U+DCFF), and comes back with ``surrogateescape``."""
    return data.decode("utf-8", "surrogateescape")


def from_text(text: str) -> str:
    """The string that a piece of text (latin-1 view) is in UTF-8, surrogates for what is not."""
    return text if text.isascii() else text.encode("latin-1").decode("utf-8", "surrogateescape")


def string(value: str) -> str | None:
    """An untrusted string decoded; None for ``(null)``, ``(none)``, ``?`` and nothing, written without quotes."""
    if value[:1] == '"':
        return from_text(value[1 : -1 if value[-1] == '"' and len(value) > 1 else None])
    if value in _NOTHING:
        return None
    if _HEX.match(value):
        return to_str(bytes.fromhex(value))
    return from_text(value)


def argument(value: str) -> str:
    """One of EXECVE's arguments decoded. ``(null)`` without quotes is text here: the kernel would have quoted it, but
    an argument that is nothing is still one, and counts."""
    if value[:1] == '"':
        return from_text(value[1 : -1 if value[-1] == '"' and len(value) > 1 else None])
    return to_str(bytes.fromhex(value)) if _HEX.match(value) else from_text(value)


def keys(value: str) -> tuple[str, ...]:
    """The keys of a ``key`` field: one in quotes, or several joined by 0x01 in hexadecimal; () for ``(null)``."""
    found = string(value)
    return () if found is None else tuple(found.split(KEY_SEPARATOR))


def number(value: str | None, base: int = 10) -> int | None:
    """A whole number as the kernel prints it, or None. At most 24 characters: a u64 has 20 digits."""
    if value is None or len(value) > 24 or not value.isascii() or "_" in value:
        return None
    try:
        return int(value, base)
    except ValueError:
        return None
