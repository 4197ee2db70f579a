"""The process table: who started whom, as far as events and /proc have told. Pure; times come in as arguments.

The kernel names a process by a number that it gives out again. So an entry is a process, not a number: its key is the
number and the moment of its start, and an ancestor is linked by that key. An entry that was evicted leaves a chain that
ends, never one that goes on with whoever has the number now. What tells that a number has a new owner:

- a fork event that gave the number out (the entry that had it is over);
- another start time in /proc (`Process.ticks`), which is proof;
- an event whose parent is another than the entry's, or whose program is, when nothing explains it;
- silence: without /proc to ask, an entry is believed for `trust` after it was last seen, which is less than the kernel
  needs to go through all numbers.

When in doubt the entry is over and a new one begins, that knows less. Stamps are those of audit events, in milliseconds
since the epoch: the time at which the system call *began*. A fork's event is therefore stamped before its child's
first, even when it arrives later, as every vfork's does.

Unknown is None, but for `script`, where None is a fact: there is no script.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal

import attrs

from audisp.parse.cgroup import Placement

MAX_ENTRIES: Final = 8_192
"""Processes known at a time, living and dead. A busy host has a thousand; the rest is room for ancestors that are gone,
and for those of which nobody tells that they are."""
MAX_BYTES: Final = 16 << 20
"""Of all entries together, as `size_of` estimates them: 2 KiB for each."""
ENTRY_BYTES: Final = 1_500
"""What an entry costs without its texts (measured with tracemalloc: 1,100 for itself, and up to 400 for `made`)."""
MAX_BIRTHS: Final = 4_096
"""Children that were forked and have not been heard of since. clone3 does not say whether it made a thread, whose
number is never heard of; so these wait apart, and thread pools push no process out of the table."""
ARGV_BYTES: Final = 4_096
"""Characters of a process's arguments kept. Events carry them whole; the table is for looking back."""
ARGV_WORDS: Final = 256
"""Arguments kept."""
TEXT: Final = 4_096
"""Characters kept of a path (PATH_MAX)."""
COMM: Final = 64
"""Characters kept of a process's name; the kernel has 15 for programs, and up to 63 for its own threads."""
EVENT_ID: Final = 64
"""Characters kept of an event's id; the kernel's have some 25."""
MAX_STAMP: Final = 1 << 62
"""Stamps, and process numbers and starts with them, are below."""
MAX_CHAIN: Final = 16
"""Ancestors that a chain goes back at most. A login shell has 4 to 6."""
SKEW_MS: Final = 1_000
"""By how much two times of one thing may differ: /proc counts in hundredths of a second since boot, and the clock may
be set in between. No number is given out twice within it."""
LATE_MS: Final = 1_000
"""How long after its end events of a process may still be stamped: other threads' calls that were under way."""
TRUST_MS: Final = 3_000
"""How long an entry that /proc does not confirm is believed after it was last seen: with 32,768 numbers (the least
that is in use), and ten thousand forks a second, the kernel comes round in 3.2 s."""


class Unknown(enum.Enum):
    """Could not be found out; where None says that there is none."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN

Key = tuple[int, int]
"""Process number, and the start as it was first known (milliseconds since the epoch)."""


@attrs.frozen
class Image:
    """What ran in a process at some moment. event_id: of the exec that started it, None if that was not seen."""

    pid: int
    born: int
    exe: str | None
    comm: str | None
    event_id: str | None


@attrs.frozen
class Process:
    """What is known of one process. Unknown is None, but for `script`.

    born: milliseconds since the epoch; the kernel's start time where `ticks` is known, else the stamp of the event that
    first told of it. ticks: start in clock ticks since boot (field 22 of /proc/PID/stat). argv: cut to ARGV_BYTES if
    argv_cut. event_id: ``SEC.MSEC:SERIAL`` of its last exec. spawner: what started the program that runs now: the image
    before, if this process itself was busy before its exec, else its parent.
    """

    pid: int
    born: int
    ticks: int | None = None
    ppid: int | None = None
    parent: Key | None = None
    exe: str | None = None
    comm: str | None = None
    argv: tuple[str, ...] | None = None
    argv_cut: bool = False
    event_id: str | None = None
    script: str | Unknown | None = UNKNOWN
    place: Placement | None = None
    labels: tuple[str, ...] = ()
    spawner: Image | None = None

    @property
    def key(self) -> Key:
        """What others link it by."""
        return self.pid, self.born

    @property
    def image(self) -> Image:
        """What runs in it now."""
        return Image(self.pid, self.born, self.exe, self.comm, self.event_id)


@attrs.frozen
class Chain:
    """Ancestors, the nearest first. end: why there are no more; `root` is a process without parent."""

    processes: tuple[Process, ...]
    end: Literal["root", "unknown", "limit"]


@attrs.define(eq=False)
class Entry:
    """A process's place in the table. To be changed by the table alone, but for the last five, which are the owner's.

    seen: stamp at which it was last known to be alive. certain: `born` is no later than its true start. ended: stamp of
    its end, if known. linked: others have it as parent. forked: a fork event told of it, so it began with what its
    maker had then. nested: it counts processes in another namespace. checked: the owner's clock when /proc last showed
    it. asked: when /proc was last asked. gone: /proc had it no more. made: what the owner made of it; None after every
    change.
    """

    process: Process
    seen: int
    size: int
    certain: bool = False
    ended: int | None = None
    linked: bool = False
    forked: bool = False
    nested: bool | None = None
    checked: float = float("-inf")
    asked: float = float("-inf")
    gone: bool = False
    made: Any = None


@attrs.frozen
class _Birth:
    """A child not heard of yet. maker: who called fork, as it was then. parent: the key of the child's parent."""

    maker: Process
    parent: Key
    stamp: int


def bounded_argv(argv: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """Arguments as they are kept, and whether some were cut."""
    if len(argv) <= ARGV_WORDS and sum(map(len, argv)) <= ARGV_BYTES:
        return tuple(argv), False
    kept, room = [], ARGV_BYTES
    for word in argv[:ARGV_WORDS]:
        kept.append(word[:room])
        room -= len(kept[-1])
        if len(kept[-1]) < len(word) or room <= 0:
            break
    return tuple(kept), True


def size_of(process: Process) -> int:
    """What a process takes in the table: ENTRY_BYTES and its texts, each counted as if nobody shared it."""
    size = ENTRY_BYTES
    if process.argv is not None:
        size += sum(map(len, process.argv)) + 64 * len(process.argv)
    for text in (process.exe, process.comm, process.script):
        if isinstance(text, str):
            size += len(text)
    if process.place is not None:
        size += len(process.place.cgroup)
    return size


class ProcessTable:
    """All processes known. Not thread-safe: the owner holds a lock around every call.

    generation: goes up whenever an entry that others have as an ancestor changes or goes, so that a chain made before
    may no longer be what `chain` would say.
    """

    def __init__(self, *, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES, trust_ms: int = TRUST_MS) -> None:
        self.trust_ms = trust_ms
        self.bytes = 0
        """Of all entries, as estimated."""
        self.evicted = 0
        """Entries that had to go for others."""
        self.reused = 0
        """Numbers that were found to have a new owner."""
        self.generation = 0
        self._max_entries, self._max_bytes = max_entries, max_bytes
        # The least recently used first.
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._live: dict[int, Entry] = {}
        self._births: OrderedDict[int, _Birth] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        """All entries, the least recently used first."""
        return iter(tuple(self._entries.values()))

    # ---- looking up ----

    def find(self, pid: int, stamp: int) -> Entry | None:
        """The entry of the process that had this number at that time; None if it is not known (any more)."""
        entry = self._live.get(pid)
        if entry is None:
            return None
        if entry.ended is not None and stamp > entry.ended + LATE_MS:
            return None
        if entry.certain and stamp < entry.process.born - SKEW_MS:
            return None
        return entry

    def newer(self, pid: int, stamp: int) -> bool:
        """Whether the number has a new owner since: what is stamped so early is of one that is forgotten."""
        entry = self._live.get(pid)
        birth = self._births.get(pid)
        return (entry is not None and entry.certain and stamp < entry.process.born - SKEW_MS) or (
            birth is not None and stamp < birth.stamp - SKEW_MS
        )

    def trusted(self, entry: Entry, stamp: int) -> bool:
        """Whether it was seen so recently that its number cannot have been given out again."""
        return stamp - entry.seen <= self.trust_ms

    def expects(self, pid: int) -> bool:
        """Whether a fork gave this number out, and nothing was heard of it since."""
        return pid in self._births

    def get(self, key: Key) -> Entry | None:
        """The entry with this key, dead or alive."""
        return self._entries.get(key)

    def chain(self, process: Process, limit: int = MAX_CHAIN) -> Chain:
        """Its ancestors, found by key. What is found counts as used."""
        found: list[Process] = []
        while process.parent is not None:
            if len(found) >= limit:
                return Chain(tuple(found), "limit")
            entry = self._entries.get(process.parent)
            if entry is None:
                return Chain(tuple(found), "unknown")
            self._entries.move_to_end(process.parent)
            process = entry.process
            found.append(process)
        return Chain(tuple(found), "root" if process.ppid == 0 else "unknown")

    # ---- what happens ----

    def touch(self, entry: Entry, stamp: int) -> None:
        """It was seen alive."""
        if stamp > entry.seen:
            entry.seen = stamp
        self._entries.move_to_end((entry.process.pid, entry.process.born))

    def appear(
        self, pid: int, ppid: int | None, stamp: int, *, ticks: int | None = None, born: int | None = None
    ) -> Entry:
        """A process that was not known: by an event of its, or by /proc (ticks and born, the time that these are).

        If a fork told of it, it has what it was born with. Else its parent is who has `ppid`, if that can be trusted
        and is not younger; labels and place are the caller's business then.
        """
        self._over(pid, stamp)
        birth = self._births.pop(pid, None)
        if birth is not None and self._is_birth_of(birth, stamp, born):
            process = attrs.evolve(
                birth.maker,
                pid=pid,
                born=birth.stamp if born is None else born,
                ticks=ticks,
                ppid=birth.parent[0] if ppid is None else ppid,
                parent=birth.parent,
                event_id=None,
                spawner=birth.maker.image,
            )
            entry = self._add(process, stamp, certain=True)
            entry.forked = True
            return entry
        start = stamp if born is None else born
        parent = None if ppid is None else self._parent(ppid, start, ticks)
        link = None if parent is None else parent.process.key
        return self._add(Process(pid, start, ticks, ppid, link), stamp, certain=ticks is not None)

    def exec(
        self,
        pid: int,
        ppid: int | None,
        stamp: int,
        *,
        exe: str | None,
        comm: str | None,
        argv: Sequence[str] | None,
        event_id: str | None,
        ticks: int | None = None,
        born: int | None = None,
    ) -> Entry:
        """A program was started in this process; what the caller does not say afterwards (script, place) is unknown."""
        entry = self.find(pid, stamp)
        own = entry is not None
        if entry is None or not self.same(entry, ppid, stamp, ticks, born):
            own = False
            entry = self.appear(pid, ppid, stamp, ticks=ticks, born=born)
        old = entry.process
        parent = None if old.parent is None else self._entries.get(old.parent)
        kept, cut = (None, False) if argv is None else bounded_argv(argv)
        self.change(
            entry,
            ppid=old.ppid if ppid is None else ppid,
            ticks=old.ticks if ticks is None else ticks,
            exe=None if exe is None else exe[:TEXT],
            comm=None if comm is None else comm[:COMM],
            argv=kept,
            argv_cut=cut,
            event_id=None if event_id is None else event_id[:EVENT_ID],
            script=UNKNOWN,
            spawner=old.image if own else old.spawner or (None if parent is None else parent.process.image),
        )
        self.touch(entry, stamp)
        return entry

    def same(
        self, entry: Entry, ppid: int | None, stamp: int, ticks: int | None = None, born: int | None = None
    ) -> bool:
        """Whether the process that did something at `stamp` is this entry's: by the start time that /proc shows, which
        is proof, else by a parent that is still the same within the time that numbers stay out of use."""
        process = entry.process
        if ticks is not None and born is not None:
            if process.ticks is not None:
                return ticks == process.ticks
            # It was seen at work, or born, at a known time; who has the number now must have been there then.
            return born <= process.born + SKEW_MS and not (entry.certain and born < process.born - SKEW_MS)
        if ppid is not None and process.ppid is not None and ppid != process.ppid:
            parent = None if process.parent is None else self._entries.get(process.parent)
            if parent is None or parent.ended is None:
                return False
        return self.trusted(entry, stamp)

    def fork(self, maker: Entry, child: int, stamp: int, *, sibling: bool = False) -> None:
        """`maker` made a process with the number `child` (as the host counts: see `Entry.nested`).

        sibling: with CLONE_PARENT, the new process's parent is the maker's own.
        """
        of = maker.process
        parent = of.parent if sibling else of.key
        known = self._live.get(child)
        if known is not None and known.ended is None and known.process.born >= stamp - SKEW_MS:
            # The child was faster: vfork's caller waits for it.
            if known.process.parent is None and known is not maker and parent is not None:
                self.change(known, parent=parent)
            return
        self._over(child, stamp)
        self._births.pop(child, None)
        if parent is None:
            return
        self._births[child] = _Birth(of, parent, stamp)
        self._link(parent)
        if len(self._births) > MAX_BIRTHS:
            self._births.popitem(last=False)

    def exit(self, pid: int, stamp: int) -> None:
        """The whole process ended (exit_group). Its entry stays, for its children and for what is late."""
        entry = self.find(pid, stamp)
        if entry is not None:
            entry.ended = stamp

    def change(self, entry: Entry, **changes: Any) -> None:
        """Put other values into an entry (fields of Process, not pid nor born)."""
        entry.process = attrs.evolve(entry.process, **changes)
        entry.made = None
        if entry.linked:
            self.generation += 1
        if entry.process.parent is not None and "parent" in changes:
            self._link(entry.process.parent)
        size = size_of(entry.process)
        self.bytes += size - entry.size
        entry.size = size
        self._shrink(entry)

    def put(self, process: Process, *, seen: int, ended: int | None, certain: bool) -> Entry:
        """An entry from a table kept from before. Takes the number's place if it lives (ended is None)."""
        if ended is None:
            self._over(process.pid, seen)
        elif process.key in self._entries:
            return self._entries[process.key]
        return self._add(process, seen, certain=certain, ended=ended)

    # ---- inside ----

    def _is_birth_of(self, birth: _Birth, stamp: int, born: int | None) -> bool:
        # Whether what the number was given out for is what now appears under it, or has gone again unheard.
        if born is not None:
            return abs(born - birth.stamp) <= SKEW_MS
        return birth.stamp - SKEW_MS <= stamp <= birth.stamp + self.trust_ms

    def _parent(self, ppid: int, start: int, ticks: int | None) -> Entry | None:
        entry = self.find(ppid, start)
        if entry is None or not self.trusted(entry, start):
            return None
        theirs = entry.process.ticks
        younger = theirs > ticks if ticks is not None and theirs is not None else entry.process.born > start + SKEW_MS
        return None if younger else entry

    def _add(self, process: Process, seen: int, *, certain: bool, ended: int | None = None) -> Entry:
        while process.key in self._entries:
            # Two processes of one number in one millisecond: stamps of a clock that was set back.
            process = attrs.evolve(process, born=process.born + 1)
        entry = Entry(process, seen, size_of(process), certain, ended)
        self._entries[process.key] = entry
        if ended is None:
            self._live[process.pid] = entry
        self.bytes += entry.size
        if process.parent is not None:
            self._link(process.parent)
        self._shrink(entry)
        return entry

    def _link(self, key: Key) -> None:
        parent = self._entries.get(key)
        if parent is not None:
            parent.linked = True

    def _over(self, pid: int, stamp: int) -> None:
        # Whoever had this number is gone; it stays as an ancestor.
        entry = self._live.pop(pid, None)
        if entry is not None:
            if entry.ended is None:
                entry.ended = stamp
                self.reused += 1
            if not entry.linked:
                self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        key = entry.process.key
        del self._entries[key]
        self.bytes -= entry.size
        if self._live.get(key[0]) is entry:
            del self._live[key[0]]
        if entry.linked:
            self.generation += 1

    def _shrink(self, keep: Entry) -> None:
        while len(self._entries) > self._max_entries or self.bytes > self._max_bytes:
            oldest = next(iter(self._entries.values()))
            if oldest is keep:
                if len(self._entries) == 1:
                    return
                self._entries.move_to_end(keep.process.key)
                continue
            self._drop(oldest)
            self.evicted += 1
