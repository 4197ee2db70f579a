"""Locking an account and ending a session: of people of this host, never root's, ours or a service's."""

from __future__ import annotations

import os
from typing import Final

import attrs
import trio

from audisp.config.reactions import ReactionsConf
from audisp.react.accounts import NAME, Accounts, Entry, Saved, Unreadable, lock_words, restore_words
from audisp.react.books import Act, Now
from audisp.react.judge import Refused
from audisp.react.means import Failed, Left, Prepared, lasting
from audisp.react.programs import run
from audisp.react.request import Account, Request, Session

USERMOD: Final = "/usr/sbin/usermod"
LOGINCTL: Final = "/usr/bin/loginctl"
UNSET: Final = 4294967295
"""A session or uid that is none (linux/audit.h)."""


def spare(entry: Entry, accounts: Accounts, conf: ReactionsConf) -> None:
    """Raises Refused if this account is never touched."""
    try:
        reason = accounts.why_not(entry)
    except Unreadable as error:
        raise Refused("unreadable", str(error)) from error
    if reason is not None:
        raise Refused("spared", f"{entry.name} {reason}")
    if entry.name in conf.spare_accounts:
        raise Refused("spared", f"{entry.name} is named in spare_accounts")


class Lock:
    """The password is locked and the account has expired: the first alone leaves keys of ssh, which the second does
    not. What either was before is given back, and only where it is still as we left it."""

    def __init__(self, conf: ReactionsConf, *, accounts: Accounts | None = None, usermod: str = USERMOD) -> None:
        self._conf = conf
        self._accounts = accounts or Accounts()
        self._usermod = usermod

    def prepare(self, request: Request, now: Now) -> Prepared:
        """See Means."""
        assert isinstance(request.target, Account)
        name = request.target.name
        if not NAME.fullmatch(name):
            raise Refused("target", "no name of an account")
        try:
            entry = self._accounts.find(name)
            if entry is None:
                raise Refused("target", f"there is no account {name} on this host")
            spare(entry, self._accounts, self._conf)
            before = self._accounts.state(name)
        except Unreadable as error:
            raise Refused("unreadable", str(error)) from error
        if before.expires == "1":
            raise Refused("in_force", f"{name} has expired already, and not by us")
        saved = {"undo": True, **attrs.asdict(before)}
        return Prepared(
            f"account {name}", {"name": name, "uid": entry.uid}, saved, lasting(request, self._conf.lock_time)
        )

    async def carry_out(self, act: Act, request: Request) -> str:
        """See Means."""
        name, before = _saved(act)
        await self._usermod_does(lock_words(name, before))
        password, expires = self._locked(name, before)
        if not expires or not (password or before.locked or before.empty):
            raise Failed(f"usermod ended well, and {name} is not locked")
        return f"locked the account {name} for {act.seconds} s"

    async def undo(self, act: Act) -> str:
        """See Means."""
        name, before = _saved(act)
        entry = self._accounts.find(name)
        if entry is None or entry.uid != act.aim["uid"]:
            raise Left(f"the account {name} is gone, or another one")
        password, expires = self._locked(name, before)
        words = restore_words(name, before, password=password, expires=expires)
        if words:
            await self._usermod_does(words)
        elif self._accounts.state(name) != before:
            raise Left(f"{name} has been changed by somebody else meanwhile")
        if self._accounts.state(name) != before:
            raise Left(f"{name}: a part has been changed by somebody else meanwhile, the rest is as it was")
        return f"unlocked the account {name}: it is as it was"

    async def in_force(self, act: Act, now: Now) -> bool:
        """See Means."""
        await trio.lowlevel.checkpoint()
        name, before = _saved(act)
        password, expires = self._locked(name, before)
        return expires and (password or before.locked or before.empty)

    def _locked(self, name: str, before: Saved) -> tuple[bool, bool]:
        try:
            return self._accounts.locked_by_us(name, before)
        except Unreadable as error:
            raise Failed(str(error)) from error

    async def _usermod_does(self, words: list[str]) -> None:
        ran = await run((self._usermod, *words), deadline=self._conf.deadline, hear=True)
        if not ran.ok:
            raise Failed(f"{ran.text}: {ran.said}" if ran.said else ran.text)


class EndSession:
    """logind ends the session, after it has said the same as the request about whose it is and who leads it."""

    def __init__(self, conf: ReactionsConf, *, accounts: Accounts | None = None, loginctl: str = LOGINCTL) -> None:
        self._conf = conf
        self._accounts = accounts or Accounts()
        self._loginctl = loginctl

    def prepare(self, request: Request, now: Now) -> Prepared:
        """See Means."""
        assert isinstance(request.target, Session)
        session = request.target
        if session.ses == UNSET or session.ses == 0:
            raise Refused("target", "the session is unset")
        if session.ses == own_session():
            raise Refused("spared", "the session is our own")
        try:
            entry = self._accounts.of_uid(session.uid)
        except Unreadable as error:
            raise Refused("unreadable", str(error)) from error
        if entry is None:
            raise Refused("target", f"there is no account of uid {session.uid} on this host")
        spare(entry, self._accounts, self._conf)
        return Prepared(request.subject, attrs.asdict(session))

    async def carry_out(self, act: Act, request: Request) -> str:
        """See Means."""
        ses = str(int(act.aim["ses"]))
        shown = await run(
            (self._loginctl, "show-session", "-p", "Audit", "-p", "User", "-p", "Leader", "--", ses),
            deadline=self._conf.deadline,
            hear=True,
        )
        if not shown.ok:
            raise Failed(f"logind knows no session {ses}: {shown.said or shown.text}", gone=True)
        given = dict(line.split("=", 1) for line in shown.output.decode("ascii", "replace").splitlines() if "=" in line)
        for name, wanted in (("Audit", "ses"), ("User", "uid"), ("Leader", "leader")):
            if given.get(name) != str(act.aim[wanted]):
                raise Failed(
                    f"logind's session {ses} is another one: {name} is {given.get(name, 'unknown')}", gone=True
                )
        ran = await run((self._loginctl, "terminate-session", "--", ses), deadline=self._conf.deadline, hear=True)
        if not ran.ok:
            raise Failed(f"{ran.text}: {ran.said}" if ran.said else ran.text)
        return f"ended session {ses} of uid {act.aim['uid']}"

    async def undo(self, act: Act) -> str:
        """See Means."""
        await trio.lowlevel.checkpoint()
        raise Left("a session that was ended stays so")

    async def in_force(self, act: Act, now: Now) -> bool:
        """See Means."""
        shown = await run(
            (self._loginctl, "show-session", "--", str(int(act.aim["ses"]))), deadline=self._conf.deadline, hear=True
        )
        return not shown.ok


def own_session() -> int:
    """The audit session we are in; UNSET if in none."""
    try:
        with open("/proc/self/sessionid", "rb") as file:
            return int(file.read(16))
    except (OSError, ValueError):
        return UNSET


def _saved(act: Act) -> tuple[str, Saved]:
    """Name and saved state out of the journal. Raises Failed if it is none that we could have written."""
    name = str(act.aim["name"])
    if not NAME.fullmatch(name) or name.startswith("-") or os.sep in name:
        raise Failed("the journal names no account")
    expires = str(act.saved["expires"])
    if expires and not expires.lstrip("-").isdigit():
        raise Failed("the journal has no time at which the account expired")
    return name, Saved(str(act.saved["password"]), bool(act.saved["locked"]), bool(act.saved["empty"]), expires)
