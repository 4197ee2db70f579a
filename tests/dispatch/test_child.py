"""Child programs, real ones: fed, stopped, killed, slow, talkative, and ended."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

import attrs
import pytest
import trio

from audisp.config.plugins import PluginConf
from audisp.dispatch import child
from audisp.dispatch.child import ChildRunner
from audisp.dispatch.intake import Intake
from audisp.dispatch.restart import Restarts
from audisp.dispatch.socketpair import Channel
from audisp.parse.form import binary_form
from audisp.record import Block
from tests.dispatch.intakes import Stream, block, make_intake
from tests.dispatch.voices import Said, running, until

KEEP = """
import os, sys
out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
while data := os.read(0, 65536):
    os.write(out, data)
"""
"""Writes down what it reads."""

FIRST_READS = """
import os, signal, sys
out, count = sys.argv[1], int(sys.argv[2])
if os.path.exists(out + ".1"):
    file = os.open(out + ".2", os.O_WRONLY | os.O_CREAT, 0o600)
    while data := os.read(0, 65536):
        os.write(file, data)
    sys.exit()
data = b""
while len(data) < count:
    data += os.read(0, min(count - len(data), 3000))
with open(out + ".tmp", "wb") as file:
    file.write(data)
os.rename(out + ".tmp", out + ".1")
while True:
    signal.pause()
"""
"""The first one reads so many bytes and then sleeps; the second reads all."""


@attrs.define
class Setup:
    """Makes runners of Python programs in one folder."""

    folder: Path
    said: Said = attrs.field(factory=Said)

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def runner(
        self,
        code: str,
        *arguments: object,
        intake: Intake | None = None,
        binary: bool = False,
        max_restarts: int = 10,
        delay: float = 0.01,
    ) -> ChildRunner:
        program = self.folder / "child.py"
        program.write_text(code)
        command = (sys.executable, "-I", "-S", str(program), str(self.out), *(str(word) for word in arguments))
        conf = PluginConf(
            name="tested",
            path=Path("/tested.conf"),
            active=True,
            command=command,
            format="binary" if binary else "string",
        )
        return ChildRunner(conf, intake or make_intake(1 << 20), Restarts(max_restarts, delay, 0.05), self.said)

    def got(self, suffix: str = "") -> bytes:
        try:
            return Path(f"{self.out}{suffix}").read_bytes()
        except FileNotFoundError:
            return b""


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    # In the background the dispatcher's folder is /; elsewhere a child takes one exec more.
    monkeypatch.chdir("/")
    return Setup(tmp_path)


def offer(runner: ChildRunner, first: int, blocks: int, *, size: int = 60) -> tuple[int, bytes]:
    """Blocks of ten records each; returns the next serial and all data."""
    data = b""
    for number in range(blocks):
        one = block(first + 10 * number, 10, size=size)
        assert runner.intake.offer(one, False) is None
        data += one.data
    return first + 10 * blocks, data


@pytest.mark.parametrize("binary", [False, True])
async def test_a_child_reads_all_in_order_and_ends_at_eof(setup: Setup, binary: bool) -> None:
    runner = setup.runner(KEEP, binary=binary)
    async with running(runner, 20):
        first, data = offer(runner, 1, 50)
        await until(lambda: runner.launched)
        first, more = offer(runner, first, 50)
    assert setup.got() == (binary_form(data + more) if binary else data + more)
    assert runner.intake.delivered == 1000
    assert runner.last_end is not None
    assert runner.last_end.clean
    assert runner.state == "stopped"
    assert runner.pids() == []
    assert runner.intake.books().imbalance == 0
    assert runner.intake.books().redelivered == 0
    assert not setup.said.lines


async def test_blocks_go_straight_into_the_socket_of_a_child_that_keeps_up(setup: Setup) -> None:
    runner = setup.runner(KEEP)
    async with running(runner, 20):
        await until(lambda: runner.launched and runner._ready)
        offer(runner, 1, 10)
        assert len(runner.intake.queue) == 0
        assert runner.intake.held == 100
        await until(lambda: setup.got().count(b"\n") == 100)
        runner.tick()
        assert runner.intake.delivered == 100
        assert runner.intake.held == 0


async def test_what_is_sent_while_a_child_is_stopped_waits_and_then_comes_in_order(setup: Setup) -> None:
    intake = make_intake(200_000)
    runner = setup.runner(KEEP, intake=intake)
    stream = Stream()
    async with running(runner, 20):
        first, _ = offer(runner, 1, 10)
        await until(lambda: setup.got())
        assert runner.launched is not None
        runner.launched.signal(signal.SIGSTOP)
        for number in range(2000):
            intake.offer(block(first + 10 * number, 10), False)
        assert intake.losses["overflow"] > 0
        assert intake.queue.bytes <= 200_000
        runner.tick()
        runner.launched.signal(signal.SIGCONT)
    stream.add(setup.got())
    assert stream.next == first + 20_000
    assert stream.markers == 1
    assert intake.books().delivered == stream.records
    assert intake.own == 1
    assert intake.books().imbalance == 0
    assert intake.books().waiting == 0


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("seed", range(6))
async def test_the_successor_of_a_killed_child_begins_at_the_record_it_had_not_read(
    setup: Setup, binary: bool, seed: int
) -> None:
    rng = random.Random(f"{seed} {binary}")
    blocks = [block(1 + 20 * number, 20, size=rng.choice([60, 300, 900])) for number in range(40)]
    wires = [binary_form(one) if binary else one for each in blocks for one in each.lines()]
    whole = b"".join(wires)
    count = rng.randrange(len(whole))
    runner = setup.runner(FIRST_READS, count, binary=binary)
    async with running(runner, 20):
        for one in blocks:
            assert runner.intake.offer(one, False) is None
        await until(lambda: len(setup.got(".1")) == count and runner.launched)
        assert runner.launched is not None
        runner.launched.signal(signal.SIGKILL)
        await until(lambda: runner.restarts.total == 1)
    first, second = setup.got(".1"), setup.got(".2")
    assert first == whole[:count]
    read = end = 0
    while read < len(wires) and end + len(wires[read]) <= count:
        end += len(wires[read])
        read += 1
    assert second == whole[end:]
    books = runner.intake.books()
    assert (books.delivered, books.waiting, books.imbalance) == (800, 0, 0)
    assert setup.said.heard("killed by SIGKILL")


async def test_a_slow_child_costs_nobody_and_gets_all(setup: Setup) -> None:
    code = KEEP.replace("65536", "4000").replace("    os.write", "    __import__('time').sleep(0.001)\n    os.write")
    runner = setup.runner(code)
    async with running(runner, 30):
        _, data = offer(runner, 1, 500, size=100)
    assert setup.got() == data
    assert runner.intake.books().waiting == 0


async def test_a_child_that_ends_at_once_is_given_up_and_its_records_are_counted(setup: Setup) -> None:
    runner = setup.runner("import sys; sys.exit(3)", max_restarts=3)
    offer(runner, 1, 2)
    async with running(runner, 20):
        await until(lambda: runner.state == "failed")
        offer(runner, 21, 2)
    assert runner.restarts.total == 3
    assert setup.said.count("exit status 3") == 4
    assert setup.said.heard("exceeded max_restarts (3)", "error")
    assert runner.intake.losses == {"failed": 40}
    assert runner.intake.books().imbalance == 0


async def test_a_program_that_cannot_be_started_is_tried_again_and_given_up(setup: Setup) -> None:
    runner = setup.runner(KEEP, max_restarts=2)
    runner.conf = attrs.evolve(runner.conf, command=("/nonexistent/program",))
    async with running(runner):
        await until(lambda: runner.state == "failed")
    assert setup.said.heard("/nonexistent/program: cannot be started")


async def test_no_descriptors_left_costs_one_start_and_not_the_dispatcher(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(flags: int) -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    before = len(os.listdir("/proc/self/fd"))
    runner = setup.runner(KEEP)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pipe2", none)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runner.run)
            await until(lambda: setup.said.heard("Too many open files"))
            patch.undo()
            offer(runner, 1, 1)
            await until(lambda: setup.got().count(b"\n") == 10)
            await runner.stop(trio.current_time() + 10)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_defect_of_ours_costs_one_plugin_a_restart(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    pump = ChildRunner._pump
    failures = [ZeroDivisionError("ours")]

    def failing(self: ChildRunner, channel: Channel) -> str:
        if failures and self.intake.queue:
            raise failures.pop()
        return pump(self, channel)

    monkeypatch.setattr(ChildRunner, "_pump", failing)
    runner = setup.runner(KEEP)
    _, data = offer(runner, 1, 3)
    async with running(runner, 20):
        await until(lambda: setup.got() == data)
    assert setup.said.heard("ZeroDivisionError", "critical")
    assert runner.intake.books().imbalance == 0


async def test_stderr_becomes_lines_of_our_log(setup: Setup) -> None:
    code = "import os; os.write(2, b'first\\nsecond \\x1b[2J\\xff\\n' + b'x' * 3000 + b'\\nunfinished')"
    runner = setup.runner(code, max_restarts=0)
    async with running(runner):
        await until(lambda: runner.state == "failed")
    said = [message for level, message in setup.said.lines if level == "info"]
    assert said[:2] == ["plugin tested says: first", "plugin tested says: second \x1b[2J\\xff"]
    assert [len(message) for message in said[2:-1]] == [len("plugin tested says: ") + 1024] * (len(said) - 3)
    assert said[-1] == "plugin tested says: unfinished"


async def test_a_flood_on_stderr_is_counted_and_slows_down_the_child_alone(setup: Setup) -> None:
    code = """
import os
line = b"no\\n" * 20000
while True:
    os.write(2, line)
"""
    runner = setup.runner(code)
    async with running(runner):
        await until(lambda: setup.said.heard("lines more"))
        before = len(setup.said.lines)
        for _ in range(20):
            await trio.sleep(0.01)
        # 21 lines a piece, and no more than a piece in STDERR_PAUSE.
        assert len(setup.said.lines) - before <= 21 * 200


async def test_a_stderr_that_a_grandchild_holds_keeps_nobody(setup: Setup) -> None:
    code = """
import os, sys, time
if os.fork() == 0:
    time.sleep(30)
os.write(2, b"parent ends\\n")
"""
    runner = setup.runner(code, max_restarts=0)
    async with running(runner):
        await until(lambda: runner.state == "failed")
    assert setup.said.heard("parent ends")


STUBBORN = """
import os, signal, sys, time
{ignore}
open(sys.argv[1], "w").close()
while True:
    time.sleep(1)
"""


@pytest.mark.parametrize(
    ("ignore", "ended"),
    [("", "killed by SIGTERM"), ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", "killed by SIGKILL")],
)
async def test_a_child_that_does_not_read_is_asked_told_and_killed(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, ignore: str, ended: str
) -> None:
    monkeypatch.setattr(child, "EOF_GRACE", 0.05)
    monkeypatch.setattr(child, "TERM_GRACE", 0.05)
    runner = setup.runner(STUBBORN.format(ignore=ignore))
    async with running(runner, 0.02):
        await until(lambda: setup.out.exists())
        offer(runner, 1, 3)
    assert runner.last_end is not None
    assert runner.last_end.description == ended
    books = runner.intake.books()
    assert (books.delivered, books.waiting, books.imbalance) == (0, 30, 0)
    assert setup.said.heard("still there after SIGTERM") == ("SIG_IGN" in ignore)


async def test_a_stopped_child_is_killed_at_the_end(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "EOF_GRACE", 0.05)
    monkeypatch.setattr(child, "TERM_GRACE", 0.05)
    runner = setup.runner(KEEP, intake=make_intake(4 << 20))
    async with running(runner, 0.02):
        await until(lambda: runner.launched and runner._ready)
        assert runner.launched is not None
        runner.launched.signal(signal.SIGSTOP)
        offer(runner, 1, 800)
    assert runner.last_end is not None
    assert runner.last_end.signal == signal.SIGKILL
    assert runner.intake.books().waiting == 8000


async def test_after_eof_the_loop_is_not_kept_busy_by_a_slow_child(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its socket can be written to again, and yet nothing may be sent: the pump must not try for ever."""
    monkeypatch.setattr(child, "EOF_GRACE", 0.3)
    code = KEEP.replace("65536", "2000").replace("    os.write", "    __import__('time').sleep(0.002)\n    os.write")
    runner = setup.runner(code, intake=make_intake(4 << 20))
    pumped = 0
    pump = runner._pump

    async with trio.open_nursery() as nursery:
        nursery.start_soon(runner.run)
        await until(lambda: runner.launched)
        offer(runner, 1, 800)
        await trio.sleep(0.05)

        def counting(channel: Channel) -> str:
            nonlocal pumped
            pumped += 1
            return pump(channel)

        monkeypatch.setattr(ChildRunner, "_pump", lambda self, channel: counting(channel))
        await runner.stop(trio.current_time())
    assert pumped < 50
    assert runner.intake.books().imbalance == 0


async def test_stopping_while_it_waits_to_be_started_again(setup: Setup) -> None:
    runner = setup.runner("raise SystemExit(1)", delay=0.01)
    runner.restarts.delay = runner.restarts.delay_max = 3600
    async with running(runner):
        await until(lambda: runner.state == "waiting to restart" and runner.restarts.total == 2)
        offer(runner, 1, 1)
    assert runner.state == "stopped"
    assert runner.intake.books().waiting == 10


async def test_stopping_before_the_program_runs(setup: Setup) -> None:
    runner = setup.runner(KEEP)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runner.run)
        nursery.start_soon(runner.stop, trio.current_time())
    assert runner.state == "stopped"


async def test_the_marker_of_a_suspended_child_does_not_hold_the_end(setup: Setup) -> None:
    runner = setup.runner(KEEP)
    async with running(runner, 3600):
        await until(lambda: runner.launched and runner._ready)
        runner.intake.suspend("suspended")
        runner.intake.offer(block(1, 3), False)
    assert b"count=3 first=1 last=3 reason=suspended" in setup.got()


async def test_a_child_outlives_no_cancelled_runner(setup: Setup) -> None:
    runner = setup.runner(STUBBORN.format(ignore=""))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runner.run)
        await until(lambda: setup.out.exists())
        launched = runner.launched
        assert launched is not None
        nursery.cancel_scope.cancel()
    with trio.fail_after(10):
        ended = await launched.wait()
    assert ended.signal == signal.SIGTERM


async def test_what_a_child_holds_is_known(setup: Setup) -> None:
    runner = setup.runner(STUBBORN.format(ignore=""))
    async with running(runner):
        await until(lambda: runner.launched and runner._ready)
        one = block(1, 3)
        runner.intake.offer(one, False)
        with runner.intake.lock:
            held: list[Block] = list(runner.holding())
        assert held == [one]
        assert len(runner.pids()) == 1
