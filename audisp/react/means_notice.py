"""Telling somebody: mail, a program, a webhook; and running the administrator's own command.

Nothing of an event is an argument or a header anywhere: a mail has it in its text, a program on its standard input, a
webhook in the JSON that it is sent.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Final

import trio

from audisp.config.grammar import shown
from audisp.config.reactions import ReactionsConf
from audisp.react.books import Act, Now
from audisp.react.judge import Refused
from audisp.react.means import Failed, Left, Prepared
from audisp.react.programs import Ran, run
from audisp.react.request import MAX_TEXT, Request

WEBHOOK: Final = "audisp.react.webhook"
"""The module that speaks HTTPS, in a process of its own with no privileges: what a server answers is read there."""


class Notify:
    """Mail, program, webhook: all that are set, at the same time. One that came through is enough."""

    def __init__(self, conf: ReactionsConf, *, python: str = sys.executable) -> None:
        self._conf = conf
        self._python = python

    def prepare(self, request: Request, now: Now) -> Prepared:
        """See Means."""
        conf = self._conf
        ways = [name for name in ("mail_to", "notify_command", "webhook") if getattr(conf, name)]
        if not ways:
            raise Refused("nowhere", "neither mail_to nor notify_command nor webhook is set")
        return Prepared(f"event {request.event_id}", {"ways": ways})

    async def carry_out(self, act: Act, request: Request) -> str:
        """See Means."""
        done: list[tuple[str, Ran]] = []
        async with trio.open_nursery() as nursery:
            for way in act.aim["ways"]:
                nursery.start_soon(self._tell, way, act, request, done)
        text = "; ".join(f"{way}: {ran.text}{f' ({ran.said})' if ran.said else ''}" for way, ran in sorted(done))
        if not any(ran.ok for _, ran in done):
            raise Failed(text)
        return text

    async def undo(self, act: Act) -> str:
        """See Means."""
        await trio.lowlevel.checkpoint()
        raise Left("what was said was said")

    async def in_force(self, act: Act, now: Now) -> bool:
        """See Means."""
        await trio.lowlevel.checkpoint()
        return False

    async def _tell(self, way: str, act: Act, request: Request, done: list[tuple[str, Ran]]) -> None:
        conf, told = self._conf, body(act, request)
        match way:
            case "mail_to":
                assert conf.mail_to is not None
                command = (conf.sendmail, "-i", conf.mail_to)
                ran = await run(command, stdin=mail(conf.mail_to, act), deadline=conf.deadline)
            case "notify_command":
                ran = await run(conf.notify_command, stdin=told, deadline=conf.deadline, checked=True)
            case _:
                head = json.dumps({"url": conf.webhook, "ca": conf.webhook_ca}).encode() + b"\n"
                ran = await run(
                    (self._python, "-I", "-m", WEBHOOK),
                    stdin=head + told,
                    deadline=conf.deadline,
                    user=conf.webhook_user if os.geteuid() == 0 else None,
                    hear=True,
                )
        done.append((way, ran))


class Command:
    """A program of the administrator's, which gets the event on its standard input; and one that undoes it."""

    def __init__(self, conf: ReactionsConf) -> None:
        self._conf = conf

    def prepare(self, request: Request, now: Now) -> Prepared:
        """See Means."""
        if not self._conf.command:
            raise Refused("nowhere", "command is not set")
        saved = {"undo": True} if self._conf.undo_command else {}
        return Prepared(
            f"event {request.event_id}", {"program": self._conf.command[0][:255]}, saved, self._conf.command_time
        )

    async def carry_out(self, act: Act, request: Request) -> str:
        """See Means."""
        return await self._run(self._conf.command, body(act, request))

    async def undo(self, act: Act) -> str:
        """See Means."""
        if not self._conf.undo_command:
            raise Left("undo_command is not set any more")
        return await self._run(self._conf.undo_command, body(act, None))

    async def in_force(self, act: Act, now: Now) -> bool:
        """See Means. A command that was begun may have done anything, so that its undo runs."""
        await trio.lowlevel.checkpoint()
        return act.step == "done"

    async def _run(self, command: tuple[str, ...], stdin: bytes) -> str:
        ran = await run(command, stdin=stdin, deadline=self._conf.deadline, checked=True)
        if not ran.ok:
            raise Failed(ran.text)
        return ran.text


def body(act: Act, request: Request | None) -> bytes:
    """What programs and webhooks get: one JSON object. Of an undo, the event itself is not there any more."""
    given: dict[str, Any] = {
        "host": os.uname().nodename,
        "act": act.id,
        "time": act.wall,
        "rule": request.rule if request else act.rule,
        "level": act.level,
        "event_id": act.event,
        "why": request.why if request else act.why,
    }
    if request is None:
        given["undo"] = True
    else:
        given["event"] = json.loads(request.event)
    return json.dumps(given).encode() + b"\n"


def mail(to: str, act: Act) -> bytes:
    """The whole mail. Nothing of the event can become a header, or a second line."""
    host = os.uname().nodename.encode("ascii", "backslashreplace").decode("ascii")[:255]
    return (
        f"To: {to}\nSubject: audisp: alert ({act.level}) on {host}\nAuto-Submitted: auto-generated\n"
        "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n"
        f"Rule: {shown(act.rule, MAX_TEXT)}\nEvent: {act.event}\nWhy: {shown(act.why, MAX_TEXT)}\n\n"
        f"ausearch --event {act.event.rpartition(':')[2]} shows it, audisp hids reactions list what was done.\n"
    ).encode()
