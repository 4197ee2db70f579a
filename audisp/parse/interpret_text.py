"""Strings in records as text for people: encoded strings, keys, titles, what was typed, and the ways to escape them."""

from __future__ import annotations

import functools
import re
from types import MappingProxyType
from typing import Final, Literal

from audisp.parse.tables_errors import TTY_KEYS
from audisp.parse.values import KEY_SEPARATOR, is_hex, to_str, unquote

Escape = Literal["raw", "tty", "shell", "shell_quote"]
"""Ways to escape, by the names that ausearch has for them (--escape)."""


def text(value: str) -> str:
    """An encoded string decoded; a byte that is not UTF-8 is a surrogate. ``(null)`` and the like stay as they are."""
    return to_str(unquote(value))


def title(value: str) -> str:
    """A command line: between two arguments stands a NUL, and a blank is shown."""
    return text(value).replace("\0", " ")


def keys(value: str) -> str:
    """The keys of a rule, comma joined if there are several."""
    return text(value).replace(KEY_SEPARATOR, ",")


@functools.cache
def _sequences() -> tuple[re.Pattern[bytes], MappingProxyType[bytes, str]]:
    words = TTY_KEYS.split()
    known = {bytes.fromhex(code): f"<{name}>" for code, name in zip(words[::2], words[1::2], strict=True)}
    # The longest first: a sequence that begins as another one is not cut in two.
    choices = b"|".join(re.escape(code) for code in sorted(known, key=len, reverse=True))
    return re.compile(b"(" + choices + b")"), MappingProxyType(known)


def typed(value: str) -> str:
    """What was typed at a terminal: text in quotes, keys by their names: ``"ls -la",<ret>``. Hexadecimal digits only;
    anything else is as it is."""
    if not is_hex(value):
        return to_str(value.encode("latin-1"))
    pattern, known = _sequences()
    shown = [known.get(part) or f'"{_quoted(part)}"' for part in pattern.split(bytes.fromhex(value)) if part]
    return ",".join(shown)


_IN_QUOTES: Final = MappingProxyType(
    {byte: chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}" for byte in range(256)}
    | {ord('"'): '\\"', ord("\\"): "\\\\"}
)


def _quoted(data: bytes) -> str:
    return "".join(map(_IN_QUOTES.__getitem__, data))


def _octal(code: int) -> str:
    return "".join([f"\\{byte:03o}" for byte in chr(code).encode("utf-8", "surrogateescape")])


# Beyond auparse's, which stop at 0x1F: DEL, the C1 controls, in UTF-8 and as single bytes, and NUL.
_CONTROLS: Final = MappingProxyType(
    {code: _octal(code) for code in (*range(0x20), *range(0x7F, 0xA0), *range(0xDC80, 0xDCA0))}
)
_SHELL: Final = MappingProxyType(_CONTROLS | {ord(each): f"\\{each}" for each in " !\"$'()\\`|"})
_SHELL_QUOTE: Final = MappingProxyType(_SHELL | {ord(each): f"\\{each}" for each in "#&*;<>?[]{}"})
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\udc80-\udc9f]")
_UNSAFE_SHELL: Final = re.compile("[\x00-\x1f\x7f-\x9f\udc80-\udc9f !\"$'()\\\\`|]")
_UNSAFE_QUOTE: Final = re.compile("[\x00-\x1f\x7f-\x9f\udc80-\udc9f !\"$'()\\\\`|#&*;<>?\\[\\]{}]")


def escape(shown: str, mode: Escape) -> str:
    """Interpreted text as ausearch prints it in one of its modes.

    ``tty`` makes control characters ``\\ooo``, so that text cannot move a cursor; ``shell`` and ``shell_quote`` also
    put a backslash before what a shell would take for its own. Text that hides or reorders other text is not looked
    for: see ``terminal_safe``.
    """
    if mode == "raw":
        return shown
    if mode == "tty":
        return _UNSAFE.sub(lambda found: _CONTROLS[ord(found[0])], shown)
    if mode == "shell":
        return _UNSAFE_SHELL.sub(lambda found: _SHELL[ord(found[0])], shown)
    return _UNSAFE_QUOTE.sub(lambda found: _SHELL_QUOTE[ord(found[0])], shown)
