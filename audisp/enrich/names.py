"""Names of this host's accounts: uid and gid to name, from /etc/passwd and /etc/group, without ever waiting.

The two files are read by ourselves, because the C library's way (nsswitch.conf(5)) may ask a directory over the network
and wait for it, in the thread that the audit stream comes through. An id that is not in the files is looked up that way
only if `nss` is on, and then in a worker of its own: whoever asks waits for at most `DEADLINE`, a late answer is there
for the next who asks, and one that never comes switches this off (`worker`).

When the files change they are read again: asked for a name, at most once a second it is looked whether their time, size
or inode is another; and `flush` says that an account was changed (`ACCOUNT_RECORDS`), so that the next name is the new
one. A file that cannot be read has no names; what it had before is forgotten, because an old name would be wrong.
"""

from __future__ import annotations

import grp
import os
import pwd
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import attrs

from audisp.enrich.worker import DEADLINE, Job, Outcome, Say, Worker
from audisp.parse.values import to_str

CHECK: Final = 1.0
"""Seconds between two looks at whether the files changed; a look is two stat calls."""
MAX_FILE: Final = 16 << 20
"""Bytes of a file read: some 200,000 accounts. What is behind is not known."""
MAX_LOOKED_UP: Final = 4_096
"""Ids asked of NSS that are remembered, known or not."""
LOOKED_UP_FOR: Final = 300.0
"""Seconds for which such an answer counts (nscd's default is 600 for what is known, 20 for what is not)."""
MAX_GROUPS: Final = 256
"""Groups named for one user."""
ID_DIGITS: Final = 10
"""Of the largest id, 4294967295; longer ones would be none."""

ACCOUNT_RECORDS: Final = frozenset(
    {"ADD_USER", "DEL_USER", "USER_MGMT", "ADD_GROUP", "DEL_GROUP", "GRP_MGMT", "USER_CHAUTHTOK"}
)
"""Types of records after which `flush` is due."""


@attrs.frozen
class _Accounts:
    # What one reading of both files gave.
    users: dict[int, str]
    groups: dict[int, str]
    first_group: dict[int, int]
    """gid of a uid's account."""
    members: dict[str, list[int]]
    """gids of the groups that list a user's name."""


def parse_passwd(data: bytes) -> tuple[dict[int, str], dict[int, int]]:
    """Names and gids by uid (passwd(5)). The first line of an id counts; what is no account is left out, so are the
    ``+`` and ``-`` lines of NIS."""
    users: dict[int, str] = {}
    gids: dict[int, int] = {}
    for line in data.split(b"\n"):
        fields = line.split(b":")
        if len(fields) < 4 or not _is_account(fields[0]):
            continue
        uid, gid = _number(fields[2]), _number(fields[3])
        if uid is not None and gid is not None and uid not in users:
            users[uid], gids[uid] = to_str(fields[0]), gid
    return users, gids


def parse_group(data: bytes) -> tuple[dict[int, str], dict[str, list[int]]]:
    """Names by gid, and gids by member's name (group(5))."""
    groups: dict[int, str] = {}
    members: dict[str, list[int]] = {}
    for line in data.split(b"\n"):
        fields = line.split(b":")
        if len(fields) < 3 or not _is_account(fields[0]):
            continue
        gid = _number(fields[2])
        if gid is None:
            continue
        groups.setdefault(gid, to_str(fields[0]))
        for member in fields[3].split(b",") if len(fields) > 3 else ():
            if member:
                members.setdefault(to_str(member.strip()), []).append(gid)
    return groups, members


def _is_account(name: bytes) -> bool:
    return bool(name) and name[0] not in b"+-#"


def _number(field: bytes) -> int | None:
    return int(field) if field.isdigit() and len(field) <= ID_DIGITS else None


class _Lookup(Job):
    # One id asked of NSS. The answer goes into the cache whether somebody still waits or not.
    def __init__(self, kind: str, number: int, keep: Callable[[str, int, str | None], None]) -> None:
        super().__init__()
        self._kind, self._number, self._keep = kind, number, keep

    def run(self) -> None:
        self.doing = f"looking up {self._kind} {self._number}"
        try:
            name = pwd.getpwuid(self._number)[0] if self._kind == "uid" else grp.getgrgid(self._number)[0]
        except (KeyError, OSError, OverflowError):
            self._keep(self._kind, self._number, None)
        else:
            self._keep(self._kind, self._number, name)


def _silent(level: str, message: str) -> None:
    """Where nobody wants to know."""


class UserNames:
    """Names by number. May be used from any thread.

    folder: where passwd and group are. nss: ask the C library for what is not in them. say: told once when that hangs.
    """

    def __init__(
        self,
        *,
        folder: str = "/etc",
        nss: bool = False,
        say: Say = _silent,
        clock: Callable[[], float] = time.monotonic,
        deadline: float = DEADLINE,
    ) -> None:
        self._passwd, self._group = f"{folder}/passwd", f"{folder}/group"
        self._clock, self._deadline = clock, deadline
        self._worker = Worker("audisp-nss", say, clock=clock) if nss else None
        self._looked_up: OrderedDict[tuple[str, int], tuple[str | None, float]] = OrderedDict()
        self._state: tuple[object, ...] | None = None
        self._check_from = float("-inf")
        self._accounts = _Accounts({}, {}, {}, {})

    def user(self, uid: int) -> str | None:
        """The account's name; None if there is none, or it cannot be known now."""
        name = self._now().users.get(uid)
        return name if name is not None or self._worker is None else self._ask("uid", uid)

    def group(self, gid: int) -> str | None:
        """The group's name; None if there is none, or it cannot be known now."""
        name = self._now().groups.get(gid)
        return name if name is not None or self._worker is None else self._ask("gid", gid)

    def groups(self, uid: int) -> tuple[str, ...]:
        """Names of the groups of an account of /etc/passwd: its own first, then those that list it, in the file's
        order, at most MAX_GROUPS. Empty for who is not in the file."""
        accounts = self._now()
        gid, name = accounts.first_group.get(uid), accounts.users.get(uid)
        if gid is None or name is None:
            return ()
        gids = dict.fromkeys([gid, *accounts.members.get(name, ())[:MAX_GROUPS]])
        names = [self.group(gid) for gid in gids]
        return tuple(name for name in names if name is not None)[:MAX_GROUPS]

    def flush(self) -> None:
        """An account was changed: the next name is looked up anew."""
        self._state = None
        self._check_from = float("-inf")
        self._looked_up.clear()

    def close(self) -> None:
        """No more look-ups by NSS."""
        if self._worker is not None:
            self._worker.close()

    def _now(self) -> _Accounts:
        # The accounts as the files have them, or had them within the last second.
        now = self._clock()
        if now < self._check_from:
            return self._accounts
        self._check_from = now + CHECK
        state = (_state(self._passwd), _state(self._group))
        if state != self._state:
            users, gids = parse_passwd(_content(self._passwd))
            groups, members = parse_group(_content(self._group))
            self._accounts = _Accounts(users, groups, gids, members)
            self._state = state
        return self._accounts

    def _ask(self, kind: str, number: int) -> str | None:
        known = self._looked_up.get((kind, number))
        if known is not None and self._clock() < known[1]:
            return known[0]
        worker = self._worker
        if worker is None or worker.run(_Lookup(kind, number, self._keep), self._deadline) is not Outcome.DONE:
            return None if known is None else known[0]
        answer = self._looked_up.get((kind, number))
        return None if answer is None else answer[0]

    def _keep(self, kind: str, number: int, name: str | None) -> None:
        # In the worker's thread; each step by itself leaves the cache whole.
        self._looked_up[kind, number] = (name, self._clock() + LOOKED_UP_FOR)
        while len(self._looked_up) > MAX_LOOKED_UP:
            try:
                self._looked_up.popitem(last=False)
            except KeyError:  # flushed in between
                return


def _state(path: str) -> tuple[int, int, int, int] | None:
    # What changes when a file does: useradd(8) writes a new one and renames it.
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_ctime_ns


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_FILE)
    except OSError:
        return b""
