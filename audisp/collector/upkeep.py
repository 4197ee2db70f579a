"""What a collector does beside listening: retention, and the room on its disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import attrs
import trio

from audisp.collector.committer import Committer, Say
from audisp.collector.retention import Choice, Policy, choose, rewrite
from audisp.collector.store import DiskTrouble
from audisp.collector.store_log import Space as Room
from audisp.config.auditd import Space
from audisp.config.collector import CollectorConf
from audisp.config.values import Action
from audisp.dispatch.actions import Actions
from audisp.errors import StoreError
from audisp.wire.peer import Trouble

LOOK_SECONDS: Final = 5.0
"""Between two looks at the disk: at a GB in a second, the default `admin_space_left` is not yet used up in it."""

MIB: Final = 1 << 20

T = TypeVar("T")


def policy_of(conf: CollectorConf) -> Policy:
    """The store's bounds as configured."""
    return Policy(conf.store_size, conf.store_size_per_host, conf.store_age)


def bytes_of(space: Space, total: int) -> int:
    """A setting such as `space_left` on a disk of so many bytes."""
    number, unit = space
    return total * number // 100 if unit == "%" else number * MIB


@attrs.define(eq=False)
class Upkeep:
    """conf: as it is now; exchanged by a reload. actions: what carries out the configured ones."""

    conf: CollectorConf
    committer: Committer
    actions: Actions
    say: Say
    _low: str = ""
    _was: Trouble | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.retain()
                await self.look()
            except DiskTrouble as trouble:
                self.say("error", f"retention: {trouble}", limit="retention")
            except (StoreError, OSError) as error:
                self.say("error", f"retention: {error}", limit="retention")
            self.actions.reap()
            await trio.sleep(LOOK_SECONDS)

    async def retain(self) -> None:
        """Remove what is older than it may be, or too much. Unless there is a bound of all, only short parts
        of it keep the store from writing."""
        store, now = self.committer.store, time.time_ns()
        if not await self.committer.call(partial(store.due, now)):
            return
        policy = policy_of(self.conf)
        if policy.max_bytes:
            # The store makes room by itself when that bound is reached; two at a time would be one too many.
            await self.committer.call(partial(store.retain, now))
            return
        census = await self.committer.call(store.census)
        for choice in await _in_thread(partial(choose, census, policy, now)):
            done = await _in_thread(partial(rewrite, census, choice, now))
            await self.committer.call(partial(store.replace, done, now))

    async def rotate(self) -> None:
        """Remove the oldest segment."""
        store, now = self.committer.store, time.time_ns()
        census = await self.committer.call(store.census)
        if not census.segments:
            self.say("warning", "nothing can be removed: the store has one segment", limit="rotate")
            return
        done = await _in_thread(partial(rewrite, census, Choice((census.segments[0],), None), now))
        await self.committer.call(partial(store.replace, done, now))
        self.say("warning", f"room was made: {census.segments[0].name} was removed", limit="rotate")

    async def look(self) -> None:
        """See what is free, tell the senders, and do what is configured."""
        room = await self.committer.call(self.committer.store.space)
        await self._look_at_trouble()
        low = self._too_low(room)
        self.committer.low("there is little room on the disk" if low else "")
        if low and low != self._low:
            name = "admin_space_left" if low == "admin" else "space_left"
            action: Action = getattr(self.conf, f"{name}_action")
            text = f"{self.conf.store_dir}: {room.free // MIB} MiB are free, less than {name}"
            await self.act(action, text)
        elif self._low and not low:
            self.say("notice", f"{self.conf.store_dir}: {room.free // MIB} MiB are free, which is enough")
        self._low = low
        self.committer.suspend(self.actions.suspended)

    def _too_low(self, room: Room) -> str:
        conf = self.conf
        if room.free < bytes_of(conf.admin_space_left, room.total):
            return "admin"
        return "space" if room.free < bytes_of(conf.space_left, room.total) else ""

    async def _look_at_trouble(self) -> None:
        trouble = self.committer.store.trouble
        now = None if trouble is None else trouble.trouble
        if trouble is not None and now is not self._was:
            full = now is Trouble.DISK_FULL
            await self.act(self.conf.disk_full_action if full else self.conf.disk_error_action, str(trouble))
        self._was = now

    async def act(self, action: Action, text: str) -> None:
        """Carry out a configured action."""
        if action.name == "rotate":
            self.say("warning", text)
            await self.rotate()
            return
        program = str(action.program) if action.program else None
        self.actions.act(action.name, text, path=program)
        if self.actions.suspended:
            self.committer.suspend(True)
            self.say("alert", "storing is suspended; SIGUSR2 ends that")


async def _in_thread(function: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(function)
