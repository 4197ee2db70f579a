"""From many connections into the one store: what they have waits in one queue, is written group by group in a thread,
and only then acknowledged.

What holds:

- `stored` is called for what is on disk, in the order in which a connection put it, and never before.
- One group is under way at a time. What comes meanwhile is the next one, so that the slower the disk is, the more
  senders share one fdatasync.
- While the disk takes nothing, native frames wait here (their window bounds them), and what C programs send is given
  back at once, to be answered as what it is. The disk is tried every RETRY_SECONDS.
- What belongs to a connection that has ended is still stored, unless the disk fails: then it is dropped whole, from the
  first that is not stored, and its sender has it still.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

import attrs
import trio

from audisp.collector.flight import Flight
from audisp.collector.store import Committed, DiskTrouble, Refused, Store
from audisp.collector.store_frames import Numbered, Unnumbered
from audisp.errors import LocalProtocolError, StoreError
from audisp.record import Block
from audisp.wire.peer import Trouble

RETRY_SECONDS: Final = 2.0
"""Between two tries of a disk that takes nothing: soon enough for whoever waits, and no work for a disk in need."""

MAX_ITEMS: Final = 4_096
"""Items of one group: C programs send one record at a time, and everybody in a group waits for all of it."""

T = TypeVar("T")


class Say(Protocol):
    """The log. limit: of one kind of message only a few in a while are written, and then their number."""

    def __call__(self, level: str, message: str, *, limit: str | None = None) -> None: ...


Feed = Callable[[int, int, Block], None]
"""Called for each frame once it is on disk, in the order of the store: its number there, the one behind it, and its
records (none in a frame that only says what its sender lost), whose source is the identity. This is where plugins are
fed from; it must not wait, nor raise."""


class Account(ABC):
    """One connection's dealings with the store."""

    keeps = False
    """True: what the disk does not take waits until it does; False: it is given back."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.spool: bytes | None = b""
        """Whose stream of this host it brings, as the store names it; None: it has not said yet."""
        self.ended = trio.Event()
        """Set when the connection has ended. What it brought may still be under way."""
        self.put = self.done = 0
        self._waiting: list[tuple[int, trio.Event]] = []

    @property
    def gone(self) -> bool:
        """Whether the connection has ended."""
        return self.ended.is_set()

    @property
    def waiting(self) -> int:
        """Parcels of it that are neither stored nor given back."""
        return self.put - self.done

    async def settled(self) -> None:
        """Until all that was put so far is stored or given back."""
        if self.waiting:
            event = trio.Event()
            self._waiting.append((self.put, event))
            await event.wait()

    def settle(self, parcels: int) -> None:
        """So many more are stored or given back. For the committer."""
        self.done += parcels
        for upto, event in self._waiting:
            if upto <= self.done:
                event.set()
        self._waiting = [each for each in self._waiting if each[0] > self.done]

    @abstractmethod
    def stored(self, parcels: Sequence[Parcel]) -> None:
        """These are on disk. Also called when the connection has ended."""

    @abstractmethod
    def given_back(self, parcels: Sequence[Parcel], trouble: Trouble) -> None:
        """These are not stored, because of this."""

    @abstractmethod
    def refused(self, parcel: Parcel, why: str) -> None:
        """This one can never be stored."""

    @abstractmethod
    def told(self, trouble: Trouble | None, text: str) -> None:
        """What is wrong at the collector has changed; None: nothing is any more."""

    @abstractmethod
    def cut(self, reason: str) -> None:
        """End the connection at once. reason: for the log."""

    @abstractmethod
    def end(self) -> None:
        """The collector ends: say so, and close when all is settled."""


@attrs.define(eq=False)
class Parcel:
    """Something to be stored at once. weight: bytes that it holds. messages: those of a C program in it that wait for
    their answers."""

    account: Account
    item: Numbered | Unnumbered
    weight: int
    messages: int = 0


@attrs.frozen
class _Outcome:
    """Of one group: parcels taken, those refused of them, and what was committed."""

    taken: int
    refused: list[tuple[Parcel, str]]
    committed: Committed


class Committer:
    """Between connections and a store that is open. feed: see Feed."""

    def __init__(self, store: Store, say: Say, flight: Flight, feed: Feed | None = None) -> None:
        self.store = store
        self.records = self.bytes = self.frames = self.groups = 0
        """Stored since the start."""
        self._say, self._flight, self._feed = say, flight, feed
        self._accounts: set[Account] = set()
        self._queue: deque[Parcel] = deque()
        self._work = trio.Event()
        self._store_is_free = trio.Lock()
        self._disk: DiskTrouble | None = None
        self._low = ""
        self._suspended = self._ending = False
        self._told: Trouble | None = None

    # What is wrong, and who is told.

    @property
    def trouble(self) -> Trouble | None:
        """What senders are told; the worst of what is true."""
        if self._suspended:
            return Trouble.SUSPENDED
        if self._disk is not None:
            return self._disk.trouble
        return Trouble.DISK_LOW if self._low else None

    @property
    def text(self) -> str:
        """It in words, for people at the other end; no names of files."""
        if self._suspended:
            return "storing is suspended"
        if self._disk is not None:
            return "the disk is full" if self._disk.trouble is Trouble.DISK_FULL else "the disk does not work"
        return self._low

    @property
    def stopped(self) -> bool:
        """Whether nothing is stored now."""
        return self._suspended or self._disk is not None

    @property
    def accounts(self) -> tuple[Account, ...]:
        """Of the connections that there are."""
        return tuple(self._accounts)

    @property
    def waiting(self) -> int:
        """Parcels that wait."""
        return len(self._queue)

    def join(self, account: Account) -> None:
        """A connection has begun; it is told what is wrong."""
        self._accounts.add(account)
        if self.trouble is not None:
            account.told(self.trouble, self.text)
        if self._ending:
            account.end()

    def end(self) -> None:
        """The collector ends: everybody is told, those too who come now."""
        self._ending = True
        for account in self.accounts:
            account.end()

    def leave(self, account: Account) -> None:
        """It has ended."""
        self._accounts.discard(account)
        account.ended.set()
        if self.stopped:
            self._drop_gone()

    def suspend(self, suspended: bool) -> None:
        """Store nothing until told otherwise (`suspend` in the configuration), or go on."""
        self._suspended = suspended
        self._tell()
        self._work.set()

    def low(self, text: str) -> None:
        """There is little room on the disk, in words; "": enough."""
        self._low = text
        self._tell()

    def _tell(self) -> None:
        if self.stopped:
            self._give_back()
        if self.trouble is not self._told:
            self._told = self.trouble
            for account in self.accounts:
                account.told(self.trouble, self.text)

    # Storing.

    def put(self, parcel: Parcel) -> None:
        """To be stored, after everything that was put before."""
        account = parcel.account
        account.put += 1
        self._flight.change(account.identity, parcel.weight)
        self._queue.append(parcel)
        if self.stopped and not account.keeps:
            self._give_back()
        else:
            self._work.set()

    async def call(self, function: Callable[[], T]) -> T:
        """Do something with the store in a thread, between two groups."""
        async with self._store_is_free:
            return await trio.to_thread.run_sync(function)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Store what is put, until cancelled. A group that is under way is finished first."""
        task_status.started()
        while True:
            # A disk that failed is tried though nothing waits: C programs' records are given back, and never would.
            while (not self._queue and self._disk is None) or self._suspended:
                self._work = trio.Event()
                await self._work.wait()
            if self._disk is not None:
                await trio.sleep(RETRY_SECONDS)
                await self.probe()
                continue
            await self._store_group()

    async def drained(self) -> None:
        """Until nothing waits."""
        for account in {parcel.account for parcel in self._queue}:
            await account.settled()

    async def emptied(self) -> None:
        """Until no connection is left."""
        while self._accounts:
            for account in self.accounts:
                await account.ended.wait()

    async def probe(self) -> None:
        """See whether the disk works again, if it did not."""
        if await self.call(self.store.probe) is None:
            self._recover()

    def _recover(self) -> None:
        if self._disk is not None:
            self._disk = None
            self._say("notice", "the disk takes records again")
            self._tell()

    async def _store_group(self) -> None:
        group = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_ITEMS))]
        try:
            outcome = await self.call(lambda: _store(self.store, group))
        except StoreError as error:
            self._queue.extendleft(reversed(group))
            # The store says DiskTrouble. If it ever says something else, that is no reason to end for all hosts.
            trouble = error if isinstance(error, DiskTrouble) else DiskTrouble(Trouble.DISK_ERROR, str(error))
            self._disk = trouble
            self._say("error", f"{trouble}; nothing is stored until it does, and the senders are told", limit="disk")
            self._drop_gone()
            self._tell()
            return
        self._queue.extendleft(reversed(group[outcome.taken :]))
        refused = {id(parcel) for parcel, _ in outcome.refused}
        stored = [parcel for parcel in group[: outcome.taken] if id(parcel) not in refused]
        done: dict[Account, list[Parcel]] = {}
        for parcel in stored:
            done.setdefault(parcel.account, []).append(parcel)
        if self._feed is not None:
            self._pass_on(self._feed, stored, outcome.committed)
        self.records += outcome.committed.records
        self.bytes += outcome.committed.bytes
        self.frames += outcome.committed.frames
        self.groups += 1
        for account, parcels in done.items():
            self._release(parcels)
            try:
                account.stored(parcels)
            except LocalProtocolError as defect:
                # Stored all the same; the sender asks again on its next connection.
                self._say("critical", f"{account.identity}: a defect of ours: {defect}", limit="defect")
                account.cut("a defect of ours")
        for parcel, why in outcome.refused:
            self._release([parcel])
            parcel.account.refused(parcel, why)

    def _pass_on(self, feed: Feed, stored: Sequence[Parcel], committed: Committed) -> None:
        now = time.monotonic()
        for parcel, (first, following) in zip(stored, committed.numbers, strict=True):
            data = parcel.item.data
            feed(first, following, Block(data, data.count(b"\n"), parcel.account.identity, now))

    def _give_back(self) -> None:
        """Give back what does not wait for the disk, in its order."""
        found: dict[Account, list[Parcel]] = {}
        for parcel in self._queue:
            if not parcel.account.keeps:
                found.setdefault(parcel.account, []).append(parcel)
        if not found:
            return
        self._queue = deque(parcel for parcel in self._queue if parcel.account.keeps)
        trouble = self.trouble
        assert trouble is not None
        for account, parcels in found.items():
            self._release(parcels)
            account.given_back(parcels, trouble)

    def _drop_gone(self) -> None:
        dropped = [parcel for parcel in self._queue if parcel.account.gone]
        if dropped:
            self._queue = deque(parcel for parcel in self._queue if not parcel.account.gone)
            self._release(dropped)

    def _release(self, parcels: Sequence[Parcel]) -> None:
        for parcel in parcels:
            self._flight.change(parcel.account.identity, -parcel.weight)
            parcel.account.settle(1)


def _store(store: Store, group: Sequence[Parcel]) -> _Outcome:
    """Store as many as go into one group of the store. Raises StoreError: none is."""
    refused: list[tuple[Parcel, str]] = []
    taken = 0
    try:
        for parcel in group:
            try:
                if not store.append(parcel.item):
                    break
            except Refused as error:
                refused.append((parcel, str(error)))
            taken += 1
        return _Outcome(taken, refused, store.commit())
    except StoreError:
        # All of it comes again, so nothing of it may be there twice.
        store.abandon()
        raise
