"""The list of clients that may connect: upstream's ``tls_allowed_clients``, and our one addition to it.

A line is ``IDENTITY enabled|disabled [notes]``, or with a key of its own ``IDENTITY STATUS key=/path``. Ours:
``*SUFFIX STATUS match=suffix`` stands for every identity with that ending. Upstream takes the last word for a note
and the first for an identity of that very name, so its files mean here what they mean there
(``docs/decisions/0011-tls-psk-on-the-systems-openssl.md``). Facts: upstream.md section 6. What is wrong with any line
is wrong with the file: nobody is let in by half a list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from audisp.errors import ConfigError, ParseError
from audisp.parse.form import terminal_safe
from audisp.parse.psk import check_identity, split_epoch

ACL_LINE: Final = 510
"""Longest line in bytes, upstream's bound."""
MAX_ACL_FILE: Final = 16 << 20
"""Longest list in bytes: 30,000 of the longest lines, and bounds what a reload can be made to read."""
MAX_ACL_ERRORS: Final = 100
"""Most errors reported for one list: a file that is no list at all would name each of its lines."""
SEPARATORS: Final = b".-_:@/+"
"""What a suffix begins with, so that ``*.example.com`` cannot be mistyped into admitting ``badexample.com``."""
SHOWN: Final = 80
"""Columns of an identity or a word that a message repeats."""

_WORDS: Final = re.compile(rb"[^ \t]+")
_BOUNDARY: Final = re.compile(rb"[%s]" % re.escape(SEPARATORS))
_PATTERN: Final = b"match=suffix"


@attrs.frozen
class Entry:
    """One line. name: an identity, or the suffix without its ``*``. key: absolute path of a key of its own."""

    name: bytes
    enabled: bool
    line: int
    key: bytes | None = None
    suffix: bool = False


@attrs.frozen
class Access:
    """What the list says of an identity that it knows.

    host: whose identity it is, without an epoch. epoch: 0 if none was stated. key: path of the key that a line names
    for just this identity and epoch; None where the shared key or a derived one is meant.
    """

    host: bytes
    epoch: int
    enabled: bool
    key: bytes | None


@attrs.frozen
class AccessList:
    """The lines of a list, by name."""

    exact: Mapping[bytes, Entry]
    suffixes: Mapping[bytes, Entry]

    def find(self, identity: bytes) -> Access | None:
        """What the list says of an identity as offered; None: it is not in it. Looks at each byte once.

        ``web1#2`` belongs to ``web1`` where a line or a suffix knows ``web1``, else it is a name like any other, as it
        is upstream. Any line that says disabled wins, over those that are nearer too.
        """
        own = self.exact.get(identity)
        host, epoch = split_epoch(identity)
        lines = self._lines(host)
        if not lines:
            if own is None:
                return None
            host, epoch = identity, 0
        if own is not None:
            lines.append(own)
        return Access(host, epoch, all(line.enabled for line in lines), own.key if own is not None else None)

    def _lines(self, host: bytes) -> list[Entry]:
        found = [self.exact[host]] if host in self.exact else []
        if self.suffixes:
            for at in _BOUNDARY.finditer(host):
                # A suffix stands for something before it: `.example.com` itself is no host of `*.example.com`.
                entry = self.suffixes.get(host[at.start() :]) if at.start() else None
                if entry is not None:
                    found.append(entry)
        return found

    @property
    def entries(self) -> list[Entry]:
        """All lines, in the order of the file."""
        return sorted((*self.exact.values(), *self.suffixes.values()), key=lambda entry: entry.line)


def parse_acl(data: bytes, path: Path | str) -> tuple[AccessList, list[ConfigError], list[str]]:
    """The list, what is wrong with it, and what is only worth a notice. Raises nothing. With an error, use nothing."""
    found: dict[bool, dict[bytes, Entry]] = {False: {}, True: {}}
    keys: dict[bytes, int] = {}
    errors: list[ConfigError] = []
    notices: list[str] = []
    for number, raw in enumerate(data.split(b"\n"), 1):
        if len(errors) >= MAX_ACL_ERRORS:
            errors.append(ConfigError("too many errors, the rest is not shown", path=path, line=number))
            break
        try:
            entry = _entry(raw, number)
            if entry is None:
                continue
            _once(entry, found[entry.suffix], keys)
        except ParseError as error:
            errors.append(ConfigError(str(error), path=path, line=number))
            continue
        found[entry.suffix][entry.name] = entry
        if entry.name.startswith(b"*") and not entry.suffix:
            name = terminal_safe(entry.name, SHOWN)
            notices.append(
                f"{path}:{number}: '{name}' is one identity of that name; for all with this ending add match=suffix"
            )
    return AccessList(found[False], found[True]), errors, notices


def _entry(raw: bytes, number: int) -> Entry | None:
    """Raises ParseError."""
    if raw.startswith(b"#"):
        return None
    if len(raw) > ACL_LINE:
        raise ParseError(f"the line is {len(raw)} bytes long, {ACL_LINE} at most")
    if raw.endswith(b"\r"):
        raise ParseError("the line ends with CR LF: save with LF line ends")
    words = _WORDS.findall(raw)
    if not words:
        return None
    name = check_identity(words[0])
    if len(words) == 1:
        raise ParseError(f"the status of '{terminal_safe(name, SHOWN)}' is missing: enabled or disabled")
    status = words[1].lower()
    if status not in (b"enabled", b"disabled"):
        raise ParseError(f"'{terminal_safe(words[1], SHOWN)}' is no status: enabled or disabled")
    special = words[2] if len(words) > 2 else b""
    is_key, is_suffix = special.startswith(b"key=/"), special == _PATTERN
    if (is_key or is_suffix) and len(words) > 3:
        after = terminal_safe(words[3], SHOWN)
        raise ParseError(f"nothing may follow '{'key=' if is_key else 'match=suffix'}' on the line, but '{after}' does")
    if is_suffix:
        return Entry(_suffix(name), status == b"enabled", number, suffix=True)
    return Entry(name, status == b"enabled", number, special.removeprefix(b"key=") if is_key else None)


def _suffix(name: bytes) -> bytes:
    """The suffix that a pattern stands for. Raises ParseError."""
    shown = terminal_safe(name, SHOWN)
    suffix = name[1:]
    if not name.startswith(b"*"):
        raise ParseError(f"'{shown}' has match=suffix, and so must begin with '*'")
    if len(suffix) < 2 or suffix[0] not in SEPARATORS:
        raise ParseError(
            f"'{shown}': behind the '*' there must be one of {' '.join(map(chr, SEPARATORS))} and then at least one "
            "character, as in *.dmz.example.com"
        )
    if split_epoch(name)[1]:
        raise ParseError(f"'{shown}': a suffix stands for hosts, and has no epoch")
    return suffix


def _once(entry: Entry, known: Mapping[bytes, Entry], keys: dict[bytes, int]) -> None:
    """Raises ParseError if the name or the key file stands in an earlier line."""
    earlier = known.get(entry.name)
    if earlier is not None:
        shown = f"'{'*' * entry.suffix}{terminal_safe(entry.name, SHOWN)}'"
        raise ParseError(
            f"{shown} is in line {earlier.line} already; for a second key of the same host write NAME#1, NAME#2, ..."
        )
    if entry.key is not None and keys.setdefault(entry.key, entry.line) != entry.line:
        raise ParseError(f"its key file is that of line {keys[entry.key]}: each identity needs a key of its own")
