"""Accounts: which may be locked, what their state is, and giving exactly that back.

Only what stands in /etc/passwd and /etc/shadow is an account here: one of LDAP's cannot be locked on this host. The
files are read, never written: that is usermod's work, which has the locks, the labels and the backups right.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Final

import attrs

from audisp.errors import AudispError

MAX_FILE: Final = 16 << 20
"""Bytes of passwd, shadow, group, login.defs: some hundred thousand accounts."""
NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\$?")
"""An account's name that can be an argument: what useradd lets through, never with a dash before it."""
UID_MIN: Final = 1000
UID_MAX: Final = 60000
"""Where login.defs does not say (login.defs(5))."""
NO_LOGIN: Final = frozenset({"nologin", "false", "sync", "shutdown", "halt", "git-shell"})
"""Shells, by their last part, of accounts that are services."""
NOBODY: Final = 65534
EXPIRED: Final = 1
"""Days since 1970 at which a locked account has expired. 0 would be understood as never by some."""


class Unreadable(AudispError):
    """The files do not say."""


@attrs.frozen
class Entry:
    """A line of passwd."""

    name: str
    uid: int
    gid: int
    shell: str


@attrs.frozen
class Saved:
    """What an account's line in shadow was: enough to know it again and to give it back, and nothing to crack.

    password: BLAKE2 of the field. locked: the field began with ``!`` already. empty: there was no password at all.
    expires: the eighth field as it stood.
    """

    password: str
    locked: bool
    empty: bool
    expires: str


class Accounts:
    """The accounts of the folder `etc`."""

    def __init__(self, etc: Path = Path("/etc")) -> None:
        self._etc = etc

    def find(self, name: str) -> Entry | None:
        """The account of this very name; None if there is none. Unreadable."""
        return next((entry for entry in self._entries() if entry.name == name), None)

    def of_uid(self, uid: int) -> Entry | None:
        """The first account of this uid; None if there is none. Unreadable."""
        return next((entry for entry in self._entries() if entry.uid == uid), None)

    def why_not(self, entry: Entry) -> str | None:
        """Why the account may not be locked nor its session ended; None if it may. Unreadable."""
        low, high = self.span()
        if entry.uid == 0:
            return "is root"
        if entry.uid == os.geteuid():
            return "is the account that we run as"
        if not low <= entry.uid <= high or entry.uid == NOBODY:
            return f"has uid {entry.uid}, a service's: those of people are {low} to {high} (login.defs)"
        if entry.shell.rpartition("/")[2] in NO_LOGIN:
            return f"has the shell {entry.shell}, a service's"
        return None

    def span(self) -> tuple[int, int]:
        """UID_MIN and UID_MAX of login.defs. Unreadable."""
        found = {"UID_MIN": UID_MIN, "UID_MAX": UID_MAX}
        try:
            text = self._read("login.defs")
        except FileNotFoundError:
            return UID_MIN, UID_MAX
        for line in text.splitlines():
            words = line.split()
            if len(words) >= 2 and words[0] in found and words[1].isascii() and words[1].isdigit():
                found[words[0]] = int(words[1])
        # A login.defs that calls root a person is not believed.
        return max(1, found["UID_MIN"]), found["UID_MAX"]

    def admins(self, groups: frozenset[str]) -> frozenset[str]:
        """Names of root's accounts and of the members of these groups. Unreadable."""
        gids: set[int] = set()
        names: set[str] = set()
        try:
            for line in self._read("group").splitlines():
                fields = line.split(":")
                if len(fields) == 4 and fields[0] in groups and fields[2].isdigit():
                    gids.add(int(fields[2]))
                    names.update(filter(None, fields[3].split(",")))
        except FileNotFoundError:
            gids.clear()
        return frozenset(names | {entry.name for entry in self._entries() if entry.uid == 0 or entry.gid in gids})

    def state(self, name: str) -> Saved:
        """What shadow says of the account. Unreadable if it says nothing."""
        for line in self._text("shadow").splitlines():
            fields = line.split(":")
            if fields[0] == name and len(fields) >= 8:
                return _saved(fields[1], fields[7])
        raise Unreadable(f"{name} is not in {self._etc}/shadow")

    def locked_by_us(self, name: str, before: Saved) -> tuple[bool, bool]:
        """Whether the password is as we left it, and whether the expiry is. Unreadable."""
        for line in self._text("shadow").splitlines():
            fields = line.split(":")
            if fields[0] == name and len(fields) >= 8:
                ours = fields[1].startswith("!") and _digest(fields[1][1:]) == before.password
                return ours and not before.locked and not before.empty, fields[7] == str(EXPIRED)
        raise Unreadable(f"{name} is not in {self._etc}/shadow")

    def _entries(self) -> list[Entry]:
        found = []
        for line in self._text("passwd").splitlines():
            fields = line.split(":")
            if len(fields) == 7 and fields[2].isdigit() and fields[3].isdigit():
                found.append(Entry(fields[0], int(fields[2]), int(fields[3]), fields[6]))
        return found

    def _text(self, name: str) -> str:
        try:
            return self._read(name)
        except FileNotFoundError:
            raise Unreadable(f"{self._etc}/{name} is missing") from None

    def _read(self, name: str) -> str:
        try:
            with open(self._etc / name, "rb") as file:
                data = file.read(MAX_FILE + 1)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Unreadable(f"{self._etc}/{name}: {error.strerror}") from error
        if len(data) > MAX_FILE:
            raise Unreadable(f"{self._etc}/{name} is longer than {MAX_FILE} bytes")
        return data.decode("utf-8", "surrogateescape")


def lock_words(name: str, before: Saved) -> list[str]:
    """usermod's arguments that lock the account."""
    password = [] if before.locked or before.empty else ["-L"]
    return [*password, "-e", str(EXPIRED), "--", name]


def restore_words(name: str, before: Saved, *, password: bool, expires: bool) -> list[str]:
    """usermod's arguments that give back what is still as we left it; empty if nothing is."""
    words = ["-U"] if password else []
    if expires and before.expires != str(EXPIRED):
        words += ["-e", before.expires]
    return [*words, "--", name] if words else []


def _saved(password: str, expires: str) -> Saved:
    return Saved(_digest(password), password.startswith("!"), not password, expires)


def _digest(password: str) -> str:
    return hashlib.blake2b(password.encode("utf-8", "surrogateescape"), digest_size=32).hexdigest()
