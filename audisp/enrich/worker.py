"""One thread that does for others what may hang, while they wait for a bounded time.

A read of /proc can hang for as long as the process it asks about likes: reading its environment takes the lock of its
memory, and a process can hold that in a page fault, or in mmap, that a file system of its own never answers (a test
does it). Nothing can be done about a thread that hangs there. So:

- The caller waits for `deadline`; then it goes on without, and the thread counts as stuck until it comes back.
- For `REST` seconds after that nobody is made to wait for a stuck thread: what is asked is refused at once.
- If it is stuck still, it is abandoned (it ends when it comes back) and another is started, at most `SPARES` times.
  When the last one stays stuck, the worker is off for good. So no more than three threads ever hang, and all the
  waiting that hanging can cause is `deadline` for each of them, or, for what comes back in time, `deadline` in `REST`.

A thread is started with the first job, so that one can be made before the process goes to the background. All threads
are daemons: one that hangs does not keep the process from ending.
"""

from __future__ import annotations

import enum
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

DEADLINE: Final = 0.05
"""Seconds that a caller waits. A read of /proc takes some 30 microseconds; a thread that wants to run waits 5 ms for
every other that computes."""
REST: Final = 1.0
"""Seconds of being stuck after which a thread is given up. A swapping machine is slow, not hanging; and until then the
events go on without what was asked."""
SPARES: Final = 2
"""Threads that may be abandoned."""
MAX_WAITING: Final = 64
"""Jobs that wait. Each waits on behalf of one calling thread, and there are fewer of those."""

Say = Callable[[str, str], None]
"""(level, message), as `Host.say`."""


class Outcome(enum.Enum):
    """DONE; LATE: not by the deadline; BUSY: not tried, the thread is stuck or has too much to do; OFF: never again."""

    DONE = "done"
    LATE = "late"
    BUSY = "busy"
    OFF = "off"


class Job(ABC):
    """Something to do in the worker's thread. A subclass has `run`, and looks at `given_up` where it can stop."""

    def __init__(self) -> None:
        self.given_up = False
        """The caller has gone on; what is found now is found for nobody."""
        self.last = False
        """The thread that does it is the last there will be: what is known to hang is not to be tried."""
        self.doing = "nothing yet"
        """What may be hanging, for the message."""
        self.failure: BaseException | None = None
        self._done = threading.Lock()
        self._done.acquire()

    @abstractmethod
    def run(self) -> None:
        """Do it. What it raises is raised where the job was asked for, if that still waits."""

    def wait(self, seconds: float) -> bool:
        """Whether it is done, at the latest after this time."""
        return self._done.acquire(timeout=max(seconds, 0))

    def finish(self) -> None:
        """It is done: whoever waits goes on."""
        self._done.release()


class _Thread:
    """One thread and its queue. stuck: since when (the worker's clock) it has not come back from a job."""

    def __init__(self, name: str) -> None:
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.stuck: float | None = None
        self.dismissed = False
        self.doing = ""
        self.thread = threading.Thread(target=self._serve, name=name, daemon=True)

    def _serve(self) -> None:
        while not self.dismissed:
            job = self.jobs.get()
            if job is None:
                return
            if not job.given_up:
                try:
                    job.run()
                except BaseException as problem:  # noqa: BLE001 - raised again where the job was asked for
                    job.failure = problem
            # In this order: who finds the job undone and calls the thread stuck is contradicted by the second line.
            job.finish()
            self.stuck = None


class Worker:
    """Runs jobs, one at a time. May be used from any thread. name: for the thread and the messages."""

    def __init__(
        self,
        name: str,
        say: Say,
        *,
        spares: int = SPARES,
        rest: float = REST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.done = 0
        """Jobs done in time."""
        self.late = 0
        """Jobs that were not."""
        self.refused = 0
        """Jobs not tried, because a thread was stuck."""
        self.abandoned = 0
        """Threads given up."""
        self.off = False
        """No thread is left."""
        self._name, self._say, self._spares, self._rest, self._clock = name, say, spares, rest, clock
        self._lock = threading.Lock()
        self._thread: _Thread | None = None

    def run(self, job: Job, deadline: float = DEADLINE) -> Outcome:
        """Have it done, waiting for at most `deadline` seconds. Raises what the job raised."""
        with self._lock:
            thread = self._ready()
            if thread is None or thread.jobs.qsize() >= MAX_WAITING:
                self.refused += 1
                return Outcome.OFF if self.off else Outcome.BUSY
            job.last = self.abandoned >= self._spares
            thread.jobs.put(job)
        if not job.wait(deadline):
            with self._lock:
                job.given_up = True
                if not job.wait(0):
                    self.late += 1
                    if thread.stuck is None:
                        thread.stuck, thread.doing = self._clock(), job.doing
                        if job.wait(0):  # it came back in between, and must not count as stuck
                            thread.stuck = None
                    return Outcome.LATE
        if job.failure is not None:
            raise job.failure
        self.done += 1
        return Outcome.DONE

    def close(self) -> None:
        """No more jobs. A thread that hangs is left to itself."""
        with self._lock:
            self.off = True
            if self._thread is not None:
                self._thread.jobs.put(None)

    def _ready(self) -> _Thread | None:
        # The thread to give a job to; None if there is none now.
        if self.off:
            return None
        thread = self._thread
        if thread is not None:
            stuck = thread.stuck
            if stuck is None:
                return thread
            if self._clock() - stuck < self._rest:
                return None
            thread.dismissed = True
            if self.abandoned >= self._spares:
                self._end(
                    f"{self._name}: {thread.doing} hangs, as {self.abandoned} before did: nothing is read any more"
                )
                return None
            self.abandoned += 1
            self._say(
                "warning",
                f"{self._name}: {thread.doing} has been hanging for {self._clock() - stuck:.1f} s; its thread is "
                f"abandoned ({self.abandoned} of {self._spares})",
            )
        try:
            self._thread = _Thread(f"{self._name} {self.abandoned}")
            self._thread.thread.start()
        except RuntimeError as problem:
            self._end(f"{self._name}: no thread can be started: {problem}")
            return None
        return self._thread

    def _end(self, message: str) -> None:
        self.off = True
        self._thread = None
        self._say("error", message)
