"""The files that one log became by rotation: audit.log.1 as auditd names them, audit.log-20240131 as logrotate can.

The order is that of the names, for it holds whatever a clock did: the larger number and the earlier date are older, and
the log itself is the newest. Some may be packed, by content and not by name; one that lies there both ways, because it
is being packed, counts once, as the plain file.
"""

from __future__ import annotations

import os
import re
import stat
from typing import Final, Literal

import attrs

from audisp.errors import AudispError
from audisp.sources.compressed import MAGIC_BYTES, form_of, open_regular
from audisp.sources.opened import Opened, PackedStore, PlainStore, Store, stamp_of
from audisp.sources.position import NO_STAMP, Position, Stamp

TRIES: Final = 5
"""Listings until two in a row agree. A rotation takes auditd a few system calls, so that the second does; one that goes
on longer is waited for."""

PROBE: Final = 1024
"""First bytes of a file in which a stamp is looked for. A record has it within its first 300."""

_ENDING: Final = re.compile(r"(?:\.(?P<number>[0-9]{1,9})|-(?P<date>[0-9]{8,14}))(?P<packed>\.(?:gz|xz|zst))?")

Kind = Literal["log", "number", "date"]


class Busy(AudispError):
    """The folder changes while it is looked at: what was found out is no longer so, and has to be found out anew."""


@attrs.frozen
class Sibling:
    """One file. kind: how its place is named; order: its place among those of its kind, ascending from the oldest."""

    name: str
    kind: Kind
    order: int
    packed: bool
    device: int
    inode: int
    size: int = attrs.field(eq=False)
    changed: int = attrs.field(eq=False)
    """When it was last written to, in nanoseconds."""

    @property
    def id(self) -> tuple[int, int]:
        """What it is as long as it exists."""
        return self.device, self.inode


def listing(path: str) -> list[Sibling]:
    """All regular files of that log, itself included, the oldest of each kind first. Raises Busy, or OSError.

    Names and inodes are of one moment: a rotation only ever moves a file to an older name, so that two listings that
    agree were true at the time between them.
    """
    before = _listing(path)
    for _ in range(TRIES):
        now = _listing(path)
        if now == before:
            return now
        before = now
    raise Busy(f"{path}: is being rotated")


def _listing(path: str) -> list[Sibling]:
    folder, log = os.path.split(path)
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(log)]
    found: dict[tuple[Kind, int], Sibling] = {}
    for name in sorted(names):  # so that a plain file comes before the same packed
        kind: Kind = "log"
        order, packed = 0, False
        if name != log:
            ending = _ENDING.fullmatch(name, len(log))
            if ending is None:
                continue
            kind = "number" if ending["number"] else "date"
            order = -int(ending["number"]) if ending["number"] else int(ending["date"].ljust(14, "0"))
            packed = ending["packed"] is not None
        if (kind, order) in found:
            continue
        try:
            facts = os.stat(os.path.join(folder, name), follow_symlinks=False)
        except FileNotFoundError:
            continue
        if stat.S_ISREG(facts.st_mode):
            found[kind, order] = Sibling(
                name, kind, order, packed, facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
            )
    return sorted(found.values(), key=lambda each: (each.kind, each.order))


def row(files: list[Sibling], kind: Kind | None = None) -> list[Sibling]:
    """The files of one row, the oldest first, the log itself last: those of the kind given, or of the kind that was
    written to last. Where somebody changed from numbers to dates, the old ones may lie about for ever."""
    if kind is None:
        rotated = [each for each in files if each.kind != "log"]
        kind = max(rotated, key=lambda each: each.changed).kind if rotated else "log"
    return [each for each in files if each.kind == kind != "log"] + [each for each in files if each.kind == "log"]


def written_since(files: list[Sibling], since: int, id_: tuple[int, int]) -> list[Sibling]:
    """The files of the row that were written to after that time (nanoseconds), that file, and the log itself.

    For a place in a file of which nothing was read: all that came after it is in these, whatever they are called and
    however they are packed by now. By its inode alone it would not be found, for that is soon another file's.
    """
    return [each for each in row(files) if each.changed > since or each.id == id_ or each.kind == "log"]


def open_sibling(folder: str, file: Sibling) -> Opened:
    """Open it, at its start. Raises OSError, or Busy if the name leads to another file by now, or to none."""
    path = os.path.join(folder, file.name)
    try:
        number, facts = open_regular(path, links=False)
    except FileNotFoundError as error:
        raise Busy(f"{path}: is gone") from error
    try:
        if (facts.st_dev, facts.st_ino) != file.id:
            raise Busy(f"{path}: is another file")
        plain = form_of(os.pread(number, MAGIC_BYTES, 0)) == "plain"
        store: Store = PlainStore(number) if plain else PackedStore(number)
    except BaseException:
        os.close(number)
        raise
    # Of one that holds something, that itself counts as written since.
    return Opened(path, facts.st_dev, facts.st_ino, store, facts.st_mtime_ns - bool(facts.st_size))


def begins_as(folder: str, file: Sibling, position: Position) -> bool:
    """Whether that file begins as the log of the position did. Raises Busy."""
    try:
        opened = open_sibling(folder, file)
    except OSError:
        return False
    try:
        return opened.match(position) != "other"
    except OSError:
        return False
    finally:
        opened.store.close()


def first_stamp(folder: str, file: Sibling) -> Stamp:
    """Stamp of the first record of that file; NO_STAMP if there is none, or it cannot be read. Raises Busy."""
    try:
        opened = open_sibling(folder, file)
    except OSError:
        return NO_STAMP
    try:
        return stamp_of(opened.store.read(0, PROBE))
    except OSError:
        return NO_STAMP
    finally:
        opened.store.close()
