"""The one grammar of every configuration file: auditd's ``key = value [value ...]``.

One setting per line. Words are separated by spaces, and by nothing else: a tab, a CR or an `=` without a space on both
sides is part of a word. A line whose first word begins with `#` is a comment; there are no comments behind a setting.
Facts: upstream.md sections 1.3 and 3, confirmed with auditd 3.0.9 (docs/compatibility.md lists where we say no and
auditd skips).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import attrs

from audisp.errors import ConfigError

LINE_BYTES: Final = 510
"""Longest line in bytes without its LF. auditd reads into 512 bytes: 511 with the LF, and the terminating NUL."""

SHOWN_CHARS: Final = 60
"""Longest piece of a file's text repeated in a message: enough to find it, too short to flood a log."""

MAX_ERRORS: Final = 100
"""Most errors reported for one file. A file that is no configuration at all would name each of its lines."""


class ConfigErrors(ConfigError):
    """Several settings that cannot be used. str() has one line per error."""

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        if not errors:
            raise ValueError("ConfigErrors needs at least one error")
        self.errors: tuple[ConfigError, ...] = tuple(errors)
        first = self.errors[0]
        super().__init__(first.message, path=first.path, line=first.line, key=first.key)

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


@attrs.frozen
class Setting:
    """One line that sets something.

    key: lower-cased. words: what follows `=`, never empty. line: counted from 1. text: the words as they stand in the
    file, inner runs of spaces kept, without leading and trailing spaces. Bytes that are no UTF-8 are surrogate escapes.
    file: where it stands, for messages; None if it was made up.
    """

    key: str
    words: tuple[str, ...]
    line: int
    text: str
    file: Path | None = None


def shown(text: str, limit: int = SHOWN_CHARS) -> str:
    """`text` in quotes for a message, with everything unprintable (control, bidi, broken UTF-8) escaped, and cut."""
    kept = text[:limit]
    safe = "".join(
        char if char.isprintable() and char not in "\\'" else char.encode("unicode_escape", "surrogatepass").decode()
        for char in kept
    ).replace("'", "\\'")
    return f"'{safe}'" + ("…" if len(text) > limit else "")


def nearest(word: str, choices: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the choice nearest to `word`, or nothing."""
    found = difflib.get_close_matches(word.lower(), sorted(choices), n=1, cutoff=0.6)
    return f" (did you mean '{found[0]}'?)" if found else ""


def parse(data: bytes, path: Path | str) -> tuple[list[Setting], list[ConfigError]]:
    """The settings of one file in order, and what is wrong with its lines. Raises nothing.

    Repeated keys are all returned; what repetition means is the schema's business. A line with an error gives no
    setting.
    """
    settings: list[Setting] = []
    errors: list[ConfigError] = []
    lines = data.split(b"\n")
    last_is_whole = lines[-1] == b""
    if last_is_whole:
        lines.pop()
    for number, raw in enumerate(lines, 1):
        if len(errors) >= MAX_ERRORS:
            errors.append(ConfigError("too many errors, the rest is not shown", path=path, line=number))
            break
        whole = last_is_whole or number < len(lines)
        found = _line(raw, number, path, whole=whole)
        if isinstance(found, ConfigError):
            errors.append(found)
        elif found is not None:
            settings.append(found)
    return settings, errors


def _line(raw: bytes, number: int, path: Path | str, *, whole: bool) -> Setting | ConfigError | None:
    content = raw.strip(b" ")
    if not content or content.startswith(b"#"):
        return None

    def error(message: str, key: str | None = None) -> ConfigError:
        return ConfigError(message, path=path, line=number, key=key)

    if len(raw) > LINE_BYTES:
        return error(f"the line is {len(raw)} bytes long, {LINE_BYTES} at most; auditd would leave it out")
    if b"\0" in raw:
        return error("the line holds a NUL byte")
    if raw.endswith(b"\r"):
        return error("the line ends with CR LF; auditd takes the CR for a part of the value: save with LF line ends")
    if not whole:
        return error("the last line has no line end, and auditd would leave it out: end it with a newline")
    text = content.decode("utf-8", "surrogateescape")
    words = [word for word in text.split(" ") if word]
    first = words[0]
    if len(words) == 1 or words[1] != "=":
        return error(_shape(first, words[1:]))
    if len(words) == 2:
        return error("there is no value after '='", first.lower() if first.isprintable() else None)
    rest = text[len(first) :].lstrip(" ")[1:].strip(" ")
    return Setting(first.lower(), tuple(words[2:]), number, rest, Path(path))


def _shape(first: str, others: Sequence[str]) -> str:
    """What is wrong with a line that is not `key = value`."""
    if "\t" in first or (others and "\t" in others[0]):
        return f"a tab does not separate words, use spaces: {shown(first)}"
    if first.startswith("="):
        return f"there is no key before {shown(first)}"
    if "=" in first.strip("="):
        key, _, value = first.partition("=")
        return f"spaces are missing around '=': write {shown(f'{key} = {value}')}"
    if first.endswith("="):
        return f"a space is missing before '=' in {shown(first)}"
    if others and others[0].startswith("="):
        return f"a space is missing after '=' in {shown(' '.join((first, others[0])))}"
    return f"'=' is missing after {shown(first)}"
