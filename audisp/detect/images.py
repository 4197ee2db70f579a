"""Which program an event is about, read off its bytes, and which rules ask for it.

Most rules name a program's file. There are few of those on a host, so what a rule's questions say of one is worked out
once and remembered: per event there is one regular expression, and one look-up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from audisp.detect.condition import compile_condition
from audisp.detect.form import Is, Or

MAX_IMAGES: Final = 4_096
"""Files remembered. Who starts ever new ones has us work it out each time, in some 50 microseconds."""
LONGEST: Final = 4_096
"""Bytes of a file's name that is remembered (PATH_MAX)."""

# The record as the kernel writes it: nothing before comm is in quotes or brackets, or called exe. Whatever looks
# otherwise is left to who takes the record apart.
_WRITTEN: Final = re.compile(
    rb"^(?:node=[^ \n]++ )?type=syscall msg=audit\([^)\n]++\): "
    rb"(?:(?!exe=|[(])[^ \"'{\x1d\n]++ )*?comm=(?:\"[^\"\n]*+\"|[0-9a-f]++|\(null\)) "
    rb"exe=(?:\"([^\"\n]*+)\"|([0-9a-f]++)(?=[ \n\x1d]))",
    re.M,
)


def image_of(low: bytes, start: int, end: int) -> bytes | None:
    """The file (lower case) of the first SYSCALL record of the event between two places of a batch in lower case; None
    if that is not seen at a glance."""
    found = _WRITTEN.search(low, start, end)
    if found is None:
        return None
    if found[2] is None:
        return found[1]
    return None if len(found[2]) & 1 else bytes.fromhex(found[2].decode("ascii")).lower()


class _Files:
    """A view with the names of files alone, and the arguments with which the parent was started."""

    def __init__(self, image: bytes, arguments: bytes | None) -> None:
        self._image, self._arguments = image, arguments

    def get(self, field: str) -> bytes | None:
        """The file, whoever's it is; or the arguments."""
        return self._arguments if field == "ParentCommandLine" else self._image

    def low(self, field: str) -> bytes | None:
        """The same in lower case."""
        found = self.get(field)
        return None if found is None else found.lower()

    def text(self) -> bytes:
        """Nothing: there are no keywords for files."""
        return b""

    def low_text(self) -> bytes:
        """Nothing."""
        return b""


class Images:
    """Questions, by the place of their rule, about a program's file (of a parent also about its arguments): which
    rules, as bits, have one that is answered with yes."""

    def __init__(self, questions: Sequence[tuple[int, Sequence[Is]]]) -> None:
        self.all = 0
        """All rules that ask."""
        self._asks = []
        for place, asked in questions:
            if asked:
                self.all |= 1 << place
                self._asks.append((1 << place, compile_condition(Or(tuple(asked)))))
        self._known: dict[tuple[bytes, bytes | None], int] = {}

    def meant(self, image: bytes, arguments: bytes | None = None) -> int:
        """The rules that may mean this program. image: in lower case."""
        key = (image, arguments)
        found = self._known.get(key)
        if found is None:
            view = _Files(image, arguments)
            found = 0
            for bit, ask in self._asks:
                if ask(view):
                    found |= bit
            if len(image) + len(arguments or b"") <= LONGEST:
                if len(self._known) >= MAX_IMAGES:
                    self._known.clear()
                self._known[key] = found
        return found
