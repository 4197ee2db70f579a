"""Where a position is among the files of a log: told by its hashes, whatever a file is called by now, packed or not."""

from __future__ import annotations

from audisp.sources.opened import Match, Opened
from audisp.sources.position import NO_STAMP, Position, Stamp
from audisp.sources.siblings import Sibling, open_sibling


def place_of(folder: str, files: list[Sibling], position: Position) -> tuple[Opened | None, str]:
    """The file that has the position, opened there (None: no file does), and what is no longer as it was, if anything.

    The newest, if several do. Raises Busy.
    """
    opened = exact_place(folder, files, position)
    if opened is not None:
        return opened, ""
    for each in _newest_first(files):
        opened, _ = open_at(folder, each, position)
        if opened is not None:
            return opened, truncated(opened.name, position)
    return None, ""


def exact_place(folder: str, files: list[Sibling], position: Position) -> Opened | None:
    """The newest file in which everything up to the position is as it was, opened there. Raises Busy."""
    for each in _newest_first(files):
        opened, match = open_at(folder, each, position)
        if match == "here":
            return opened
        if opened is not None:
            opened.store.close()
    return None


def open_at(folder: str, file: Sibling, position: Position) -> tuple[Opened | None, Match]:
    """Open a file if it begins as the log of the position did: there if all before is as it was, else at its start.

    Raises Busy.
    """
    try:
        opened = open_sibling(folder, file)
    except OSError:
        return None, "other"  # what that means is said when its turn comes
    match: Match = "other"
    try:
        match = opened.match(position)
        if match == "here":
            opened.go_to(position.offset, position.last)
    except OSError:
        match = "other"
    if match != "other":
        return opened, match
    opened.store.close()
    return None, match


def truncated(name: str, position: Position) -> str:
    """What there is to say of a log that has not what it had, and so is read again: what was cut off it, and written to
    it before anybody looked, cannot be told apart."""
    return (
        f"{name} was truncated or written anew, and is read from its beginning; {read_to(position.last)}, and more may "
        "be missing"
    )


def read_to(last: Stamp) -> str:
    """How far was read, for a person."""
    return f"the last record read was {shown(last)}" if last != NO_STAMP else "nothing had been read"


def shown(stamp: Stamp) -> str:
    """A stamp as it stands in a record."""
    return f"audit({stamp[0]}.{stamp[1]:03}:{stamp[2]})"


def _newest_first(files: list[Sibling]) -> list[Sibling]:
    return sorted(files, key=lambda each: (each.kind == "log", each.changed), reverse=True)
