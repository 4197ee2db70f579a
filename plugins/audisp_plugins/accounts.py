"""Names of this host's accounts, as the C library gives them: for a plugin that has a thread of its own to wait in."""

from __future__ import annotations

import grp
import pwd
import time
from collections.abc import Callable
from typing import Final

KEPT_SECONDS: Final = 60.0
"""An account that is renamed or made is known by its new name after this."""
MOST: Final = 4_096
"""Ids remembered of each kind: they come from records, and there are four thousand million."""


class Accounts:
    """See audisp.shapes.shape.Names. May ask a directory over the network (nsswitch.conf(5)), and wait for it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._users: dict[int, str | None] = {}
        self._groups: dict[int, str | None] = {}

    def user(self, uid: int) -> str | None:
        """The account's name; None if there is none."""
        return self._name(self._users, uid, lambda number: pwd.getpwuid(number).pw_name)

    def group(self, gid: int) -> str | None:
        """The group's name; None if there is none."""
        return self._name(self._groups, gid, lambda number: grp.getgrgid(number).gr_name)

    def _name(self, known: dict[int, str | None], number: int, ask: Callable[[int], str]) -> str | None:
        now = self._clock()
        if now - self._since > KEPT_SECONDS:
            self._since = now
            self._users.clear()
            self._groups.clear()
        if number not in known:
            if len(known) >= MOST:
                known.clear()
            try:
                known[number] = ask(number)
            except (KeyError, OverflowError, OSError):
                known[number] = None
        return known[number]
