"""What a collector does beside listening: retention, and the room on its disk."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

import attrs
import trio

from audisp.collector.committer import Committer, Say
from audisp.collector.retention import Choice, Policy, choose, rewrite
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
    _named: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            # Each by itself: retention that fails is a reason more to look at the disk.
            await self._try("retention", self.retain)
            await self._try("the room on the disk", self.look)
            self._say_unusable()
            self.actions.reap()
            await trio.sleep(LOOK_SECONDS)

    async def _try(self, what: str, function: Callable[[], Awaitable[None]]) -> None:
        try:
            await function()
        except (StoreError, OSError) as error:
            self.say("error", f"{what}: {error}", limit=what)

    def _say_unusable(self) -> None:
        """Name segments that retention passes over, each once."""
        unusable = self.committer.store.unusable
        for segment in unusable:
            if segment.name not in self._named:
                text = f"retention passes over {segment.name}, which stays until that is mended: {segment.unusable}"
                self.say("error", f"{text} ({len(unusable)} such segments)", limit="unusable")
        self._named = frozenset(segment.name for segment in unusable)

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

    async def rotate(self, *, again: bool = False) -> None:
        """Remove the oldest segment that can be removed. again: say nothing if there is none, since that was said."""
        store, now = self.committer.store, time.time_ns()
        census = await self.committer.call(store.census)
        for segment in census.segments:
            if segment.unusable:
                continue
            done = await _in_thread(partial(rewrite, census, Choice((segment,), None), now))
            if done.whole:
                if await self.committer.call(partial(store.replace, done, now)):
                    self.say("warning", f"room was made: {segment.name} was removed", limit="rotate")
                return
        if not again:
            why = "no closed segment can be used" if census.segments else "the store has one segment"
            self.say("warning", f"nothing can be removed: {why}", limit="rotate")

    async def look(self) -> None:
        """See what is free, tell the senders, and do what is configured."""
        await self._look_at_trouble()
        room = await self.committer.call(self.committer.store.space)
        low = self._too_low(room)
        self.committer.low("there is little room on the disk" if low else "")
        if low:
            name = "admin_space_left" if low == "admin" else "space_left"
            action: Action = getattr(self.conf, f"{name}_action")
            text = f"{self.conf.store_dir}: {room.free // MIB} MiB are free, less than {name}"
            await self.act(action, text, again=low == self._low)
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
        store = self.committer.store
        if store.trouble is not None and store.trouble.trouble is self._was:
            # What the last look did may have been enough; nothing more is to be removed then.
            await self.committer.probe()
        trouble = store.trouble
        now = None if trouble is None else trouble.trouble
        if trouble is not None:
            full = now is Trouble.DISK_FULL
            action = self.conf.disk_full_action if full else self.conf.disk_error_action
            await self.act(action, str(trouble), again=now is self._was)
        self._was = now

    async def act(self, action: Action, text: str, *, again: bool = False) -> None:
        """Carry out a configured action. again: what it is for has not changed since the last look. Then only rotate
        acts, since one segment less may be too little."""
        if action.name == "rotate":
            if not again:
                self.say("warning", text)
            # A note cannot be written where nothing can: the rest of the look goes on.
            await self._try("rotate", partial(self.rotate, again=again))
            return
        if again:
            return
        program = str(action.program) if action.program else None
        self.actions.act(action.name, text, path=program)
        if self.actions.suspended:
            self.committer.suspend(True)
            self.say("alert", "storing is suspended; SIGUSR2 ends that")


async def _in_thread(function: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(function)
