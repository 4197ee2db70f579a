"""The bounded worker: who waits for how long, and what becomes of a thread that does not come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from audisp.enrich import worker as module
from audisp.enrich.worker import Job, Outcome, Worker

LONG = 20.0
"""Seconds: a deadline that is never reached when nothing hangs."""


class Quick(Job):
    """Done at once."""

    ran = False

    def run(self) -> None:
        self.ran = True


class Hanging(Job):
    """Comes back when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()
        self.started = threading.Event()
        self.thread: threading.Thread | None = None

    def run(self) -> None:
        self.doing = "reading x of /proc/7"
        self.thread = threading.current_thread()
        self.started.set()
        self.go_on.wait(LONG)


class Failing(Job):
    """Raises."""

    def run(self) -> None:
        raise RuntimeError("no")


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A worker with a clock set by hand, and what it said."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self.clock = Clock()
        self.worker = Worker("w", lambda level, message: self.said.append((level, message)), clock=self.clock)
        self.hanging: list[Hanging] = []

    def hang(self) -> Hanging:
        job = Hanging()
        self.hanging.append(job)
        assert self.worker.run(job, 0.01) is Outcome.LATE
        assert job.started.wait(LONG)
        return job

    def quick(self) -> Outcome:
        return self.worker.run(Quick(), LONG)

    def let_go(self, job: Hanging) -> None:
        job.go_on.set()
        assert job.wait(LONG)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    for job in bench.hanging:
        job.go_on.set()
    bench.worker.close()


def test_what_is_asked_is_done_in_a_thread_of_its_own(bench: Bench) -> None:
    job = Hanging()
    job.go_on.set()
    assert bench.worker.run(job, LONG) is Outcome.DONE
    assert job.thread is not threading.current_thread()
    assert job.thread is not None
    assert job.thread.daemon
    assert (bench.worker.done, bench.worker.late) == (1, 0)


def test_no_thread_before_the_first_job() -> None:
    before = threading.active_count()
    Worker("w", lambda level, message: None).close()
    assert threading.active_count() == before


def test_what_a_job_raises_is_raised_where_it_was_asked_for(bench: Bench) -> None:
    with pytest.raises(RuntimeError, match="no"):
        bench.worker.run(Failing(), LONG)
    assert bench.quick() is Outcome.DONE


def test_who_asks_goes_on_after_the_deadline(bench: Bench) -> None:
    job = bench.hang()
    assert job.given_up
    assert bench.worker.late == 1


def test_nobody_waits_for_a_thread_that_is_stuck(bench: Bench) -> None:
    bench.hang()
    quick = Quick()
    # With this deadline, waiting would end the test by its timeout.
    assert bench.worker.run(quick, 1000) is Outcome.BUSY
    assert not quick.ran
    assert bench.worker.refused == 1
    assert bench.said == []


def test_a_thread_that_comes_back_goes_on(bench: Bench) -> None:
    job = bench.hang()
    bench.let_go(job)
    until = time.monotonic() + LONG
    while bench.quick() is not Outcome.DONE:
        assert time.monotonic() < until
    assert bench.worker.abandoned == 0
    assert bench.said == []


def test_one_that_stays_stuck_is_abandoned_twice_and_then_it_is_over(bench: Bench) -> None:
    jobs = []
    for count in (1, 2):
        jobs.append(bench.hang())
        assert not jobs[-1].last
        bench.clock.now += module.REST - 0.1
        assert bench.quick() is Outcome.BUSY
        bench.clock.now += 0.2
        assert bench.quick() is Outcome.DONE
        assert bench.worker.abandoned == count
    assert [level for level, _ in bench.said] == ["warning", "warning"]
    assert "reading x of /proc/7 has been hanging for 1.1 s" in bench.said[0][1]
    assert "(1 of 2)" in bench.said[0][1]
    jobs.append(bench.hang())
    assert jobs[-1].last
    assert bench.quick() is Outcome.BUSY
    bench.clock.now += module.REST
    for _ in range(3):
        assert bench.quick() is Outcome.OFF
    assert [level for level, _ in bench.said] == ["warning", "warning", "error"]
    assert bench.worker.off
    # Those that hung end when they come back; none is started for them.
    for job in jobs:
        bench.let_go(job)
        assert job.thread is not None
    for job in jobs[:2]:
        assert job.thread is not None
        job.thread.join(LONG)
        assert not job.thread.is_alive()
    assert bench.quick() is Outcome.OFF


def test_what_waited_behind_a_hanging_job_and_was_given_up_is_not_done(bench: Bench) -> None:
    job = Hanging()
    bench.hanging.append(job)
    quick = Quick()
    outcomes: list[Outcome] = []
    first = threading.Thread(target=lambda: outcomes.append(bench.worker.run(job, LONG)))
    first.start()
    assert job.started.wait(LONG)
    assert bench.worker.run(quick, 0.01) is Outcome.LATE
    job.go_on.set()
    first.join(LONG)
    assert outcomes == [Outcome.DONE]
    until = time.monotonic() + LONG
    while bench.quick() is not Outcome.DONE:
        assert time.monotonic() < until
    assert not quick.ran


def test_so_many_wait_and_no_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 0)
    assert bench.quick() is Outcome.BUSY


def test_after_close_nothing_is_done(bench: Bench) -> None:
    assert bench.quick() is Outcome.DONE
    bench.worker.close()
    assert bench.quick() is Outcome.OFF


def test_a_system_without_threads_is_said_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert [bench.quick() for _ in range(3)] == [Outcome.OFF] * 3
    assert bench.said == [("error", "w: no thread can be started: can't start new thread")]


def test_many_ask_at_once(bench: Bench) -> None:
    outcomes: list[Outcome] = []

    def ask() -> None:
        for _ in range(50):
            outcomes.append(bench.quick())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert outcomes == [Outcome.DONE] * 400
