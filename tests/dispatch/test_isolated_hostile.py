"""A process of an isolated plugin that somebody else has taken over: it costs itself, and its plugin time."""

from __future__ import annotations

import ast
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import attrs
import pytest
import trio

from audisp.dispatch import far, inprocess, isolated
from audisp.dispatch.launch import Launched
from tests.dispatch.intakes import Stream, block
from tests.dispatch.isolates import HOSTILE, Isolates, alive, settings
from tests.dispatch.voices import running, until
from tests.needs import ROOT, needs

pytestmark = needs("root")


@pytest.fixture
def isolates(safe: Path, monkeypatch: pytest.MonkeyPatch) -> Isolates:
    # Where the dispatcher is, too; elsewhere it takes one exec more.
    monkeypatch.chdir("/")
    return Isolates(safe)


def hostile(isolates: Isolates, mode: str, **keys: object) -> isolated.IsolatedRunner:
    """mode: one, or one for each hundred of serials, joined by +."""
    conf = isolates.conf(host_keys=keys)
    code = isolates.code(HOSTILE, "hostile.py")
    mine = settings(conf.path, out=isolates.out, mode=mode)
    return isolates.runner(max_restarts=100, conf=attrs.evolve(conf, plugin=str(code), settings=mine))


# What is no message at all is in tests/wire/test_isolate.py; each of these costs a process.
LIES = {
    "garbage": "a frame of 4294967295 and 4294967295 bytes",
    "unknown": "a message of the unknown kind 77",
    "again": "an answer to delivery 0, which is not under way",
    "ahead": "an answer to delivery 1099511627776",
    "opened": "an opening that nobody waits for",
    "described": "a second description",
    "daemon": "a record that may not be emitted: record type 1203",
    "size": "a record that may not be emitted: 9000 bytes are more than an audit record takes",
    "counters": "more than 256 counters",
}


async def test_a_lie_ends_its_process_and_loses_nothing(isolates: Isolates) -> None:
    runner = hostile(isolates, "+".join(LIES))
    sent = b""
    async with running(runner, 10):
        await runner.opened.wait()
        for turn, (mode, words) in enumerate(LIES.items()):
            pid = runner.pids()[0]
            one = block(turn * 100 + 1, 4)
            sent += one.data
            runner.intake.offer(one, False)
            await until(lambda upto=4 * turn + 4: runner.intake.delivered == upto)  # type: ignore[misc]
            assert not alive(pid)
            assert isolates.said.heard(f"its process broke the rules: {words}"), (mode, isolates.said.lines)
    assert isolates.got() == sent
    assert runner.intake.redelivered == 4 * len(LIES)
    assert runner.intake.books().imbalance == 0
    assert isolates.emitted == []


async def test_a_flood_is_read_at_the_rate_that_is_allowed(isolates: Isolates) -> None:
    runner = hostile(isolates, "flood", deliver_timeout=1.0)
    async with running(runner, 10):
        await runner.opened.wait()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, busy = time.monotonic(), time.thread_time()
        runner.intake.offer(block(1, 4), False)
        await until(lambda: runner.intake.delivered == 4)
        seconds = time.monotonic() - began
        assert isolates.said.count("yyy") <= far.MESSAGES_BURST + far.MESSAGES_PER_SECOND * seconds + 1
        assert time.thread_time() - busy < seconds / 2
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024
    assert isolates.got() == block(1, 4).data


async def test_emitting_without_end_is_cut_to_what_any_plugin_may(isolates: Isolates) -> None:
    runner = hostile(isolates, "flood-emit")
    async with running(runner, 10):
        runner.intake.offer(block(1, 4), False)
        began = time.monotonic()
        await until(lambda: runner.intake.delivered == 4)
        counters = runner.host.counters  # type: ignore[attr-defined]
        assert counters["emitted"] == len(isolates.emitted) <= 200 * (time.monotonic() - began + 2)
        assert counters["emitted"] + counters["emit_dropped"] == 3000
    assert set(isolates.emitted) == {(1100, "emitter=tested y=1")}


@pytest.mark.parametrize("mode", ["deaf", "mute"])
async def test_one_that_hangs_up_is_started_anew(
    isolates: Isolates, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(far, "EOF_SECONDS", 0.1)
    runner = hostile(isolates, mode, deliver_timeout=0.5)
    async with running(runner, 10):
        for first in (1, 5):
            runner.intake.offer(block(first, 4), False)
            await until(lambda upto=first + 3: runner.intake.delivered == upto)  # type: ignore[misc]
    assert runner.restarts.total == 1
    assert runner.intake.books().imbalance == 0


async def test_one_that_is_stopped_is_ended_like_one_that_hangs(isolates: Isolates) -> None:
    runner = isolates.runner(host_keys={"deliver_timeout": 0.3})
    async with running(runner, 10):
        await runner.opened.wait()
        pid = runner.pids()[0]
        os.kill(pid, signal.SIGSTOP)
        for first in range(1, 2001, 100):  # more than a socket holds
            runner.intake.offer(block(first, 100, size=300), False)
        await until(lambda: runner.intake.delivered == 2000)
        assert not alive(pid)
    stream = Stream()
    stream.add(isolates.got())
    assert stream.records == 2000


async def test_one_that_we_may_not_end_does_not_hold_the_end(
    isolates: Isolates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inprocess, "CLOSE_GRACE", 0.05)
    monkeypatch.setattr(far, "REAP_SECONDS", 0.05)
    runner = isolates.runner(mode="hang")
    pid = 0

    def refuse(self: Launched, number: int) -> bool:
        raise PermissionError(1, "Operation not permitted")

    try:
        with monkeypatch.context() as patch:
            patch.setattr(Launched, "signal", refuse)
            async with running(runner):
                await runner.opened.wait()
                pid = runner.pids()[0]
                runner.intake.offer(block(1, 10), False)
                await until(lambda: isolates.got(".done"))
        assert runner.state == "stopped"
        assert isolates.said.heard("without cap_kill we cannot end it", "error")
        books = runner.intake.books()
        assert (books.imbalance, books.waiting) == (0, 10)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)  # noqa: ASYNC222 - it has just been killed


# ---- what it has to begin with ----

LOOK = """
import os, resource
from audisp.plugin import hookimpl

@hookimpl
def audisp_events(events):
    status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
    with open(OUT, "w") as out:
        print(sorted(os.environ), file=out)
        print(os.getcwd(), file=out)
        print(status["Uid"], status["CapEff"], status["CapBnd"], status["NoNewPrivs"], file=out)
        print(resource.getrlimit(resource.RLIMIT_DATA), os.getpriority(os.PRIO_PROCESS, 0), file=out)
        print(sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1)), file=out)
        print(status["SigIgn"], status["SigBlk"], file=out)
        # Whatever it starts gets the three and no more.
        import subprocess
        told = subprocess.run(["/bin/ls", "-1", "/proc/self/fd"], capture_output=True, close_fds=False).stdout
        print(told.split(), file=out)
"""


async def test_it_begins_with_nothing_but_what_its_file_says(isolates: Isolates) -> None:
    conf = isolates.conf(host_keys={"nice": 5, "memory_max": 200 << 20, "capabilities": ("cap_kill",)})
    code = isolates.code(LOOK.replace("OUT", repr(str(isolates.out))), "look.py")
    runner = isolates.runner("events", conf=attrs.evolve(conf, plugin=str(code), settings=()))
    async with running(runner, 10):
        runner.intake.offer(block(1), False)
        await until(lambda: runner.intake.delivered == 1)
    environ, cwd, who, limits, standard, signals, told = isolates.got().decode().splitlines()
    assert set(ast.literal_eval(environ)) <= {"LC_CTYPE"}  # the interpreter sets it itself
    assert cwd == "/"
    assert who.split() == ["0", "0", "0", "0", f"{1 << 5:016x}", f"{1 << 5:016x}", "0"]
    assert limits == f"({200 << 20}, {200 << 20}) 5"
    assert standard == "['/dev/null', '/dev/null']"
    ignored, blocked = (int(word, 16) for word in signals.split())
    # What Python itself ignores; and 32, which is the C library's own.
    assert ignored & ~(1 << 31) == 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
    assert blocked == 0
    assert ast.literal_eval(told) == [b"0", b"1", b"2", b"3"]  # the last is the folder that ls reads


async def test_no_orphan_stays_when_the_dispatcher_is_killed(isolates: Isolates) -> None:
    script = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        import trio
        from tests.dispatch.intakes import block
        from tests.dispatch.isolates import Isolates
        from tests.dispatch.voices import until

        async def main():
            isolates = Isolates(Path({str(isolates.folder)!r}))
            runner = isolates.runner(mode="deaf")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(runner.run)
                await runner.opened.wait()
                runner.intake.offer(block(1), False)
                await until(lambda: isolates.got(".done"))
                print(runner.pids()[0], flush=True)
                await trio.sleep_forever()

        trio.run(main)
        """)
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as dispatcher:  # noqa: ASYNC220 - quick
        assert dispatcher.stdout is not None
        pid = int(await trio.to_thread.run_sync(dispatcher.stdout.readline))
        assert alive(pid)
        dispatcher.kill()
        await until(lambda: not alive(pid))
