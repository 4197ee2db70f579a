"""Plugins in processes of their own: the same answers and books as inside, and nothing that they can do to us."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import trio

from audisp.config.grammar import ConfigErrors
from audisp.dispatch import far, isolated
from audisp.dispatch.isolated import IsolatedRunner, describe
from audisp.enrich.facts import Enrichment
from audisp.errors import PluginError
from audisp.event import LATE, Batch
from audisp.parse.cgroup import Container, Placement
from audisp.parse.processes import UNKNOWN, Process
from audisp.parse.record import RecordReader
from tests.dispatch.intakes import Stream, block, make_intake
from tests.dispatch.isolates import Isolates, alive, open_descriptors
from tests.dispatch.voices import running, until
from tests.needs import needs

pytestmark = needs("root")


@pytest.fixture
def isolates(safe: Path, monkeypatch: pytest.MonkeyPatch) -> Isolates:
    # Where the dispatcher is, too; elsewhere it takes one exec more.
    monkeypatch.chdir("/")
    return Isolates(safe)


def balanced(runner: IsolatedRunner) -> None:
    books = runner.intake.books()
    assert books.imbalance == 0
    assert books.waiting == 0


async def opened(runner: IsolatedRunner) -> None:
    await runner.opened.wait()
    assert runner.first_problem is None


@pytest.mark.parametrize("loop", ["no", "yes"])
async def test_what_deliver_returns_from_is_delivered_in_order(isolates: Isolates, loop: str) -> None:
    descriptors = open_descriptors()
    runner = isolates.runner(loop=loop)
    async with running(runner, 10):
        await opened(runner)
        assert runner.pids()
        assert runner.pids() != [os.getpid()]
        for first in range(1, 1001, 5):
            runner.intake.offer(block(first, 5), False)
            if first % 100 == 1:
                await trio.lowlevel.checkpoint()
    stream = Stream()
    stream.add(isolates.got())
    assert stream.records == 1000
    assert runner.intake.delivered == 1000
    assert runner.state == "stopped"
    assert isolates.got(".closed") == b"x"
    assert runner.pids() == []
    balanced(runner)
    assert open_descriptors() == descriptors


FAILURES = {
    "segv": "its process ended: killed by SIGSEGV",
    "kill": "its process ended: killed by SIGKILL",
    "exit": "its process ended: exit status 3",
    "raise": "ZeroDivisionError: division by zero",
    "await": "TypeError: deliver returned something to be awaited",
    "bomb": "MemoryError",
}


async def test_a_process_that_fails_is_started_anew_and_gets_the_block_again(isolates: Isolates) -> None:
    runner = isolates.runner(mode="+".join(FAILURES), host_keys={"memory_max": 96 << 20})
    sent = b""
    async with running(runner, 10):
        await opened(runner)
        for turn, (mode, words) in enumerate(FAILURES.items()):
            one = block(turn * 100 + 1, 4)
            sent += one.data
            runner.intake.offer(one, False)
            await until(lambda upto=turn * 4 + 4: runner.intake.delivered == upto)  # type: ignore[misc]
            assert isolates.said.heard(words), (mode, isolates.said.lines)
            assert runner.restarts.total == turn + 1
            if mode == "segv":
                assert isolates.said.heard("in misbehave"), "the stack of what crashed in C"
    assert isolates.got() == sent
    assert runner.intake.redelivered == 4 * len(FAILURES)
    balanced(runner)


async def test_a_deliver_that_does_not_return_ends_its_process(isolates: Isolates) -> None:
    runner = isolates.runner(mode="hang+deaf", host_keys={"deliver_timeout": 0.3})
    async with running(runner, 10):
        await opened(runner)
        for turn in range(2):
            pid = runner.pids()[0]
            runner.intake.offer(block(turn * 100 + 1, 5), False)
            await until(lambda upto=turn * 5 + 5: runner.intake.delivered == upto)  # type: ignore[misc]
            assert not alive(pid)
            assert isolates.said.count("deliver has not returned for 0.3 s; its process is ended") == 2 * turn + 2
        assert isolates.said.heard("in misbehave"), "the stack of what hangs"
    assert runner.intake.redelivered == 10
    balanced(runner)


async def test_a_block_that_hangs_every_process_is_put_into_quarantine(isolates: Isolates) -> None:
    runner = isolates.runner(mode="hang", once="no", at=2, host_keys={"deliver_timeout": 0.2})
    async with running(runner, 10):
        await opened(runner)
        runner.intake.offer(block(1, 3), False)
        await until(lambda: runner.intake.quarantined == 3)
        runner.intake.offer(block(4, 2), False)
        await until(lambda: runner.intake.delivered == 2)
    assert isolates.kept() == block(1, 3).data
    balanced(runner)


async def test_retry_and_reject_are_the_plugins_own_word(isolates: Isolates) -> None:
    runner = isolates.runner(mode="retry")
    async with running(runner, 10):
        runner.intake.offer(block(1, 2), False)
        await until(lambda: runner.intake.delivered == 2)
    assert runner.intake.redelivered == 2
    assert runner.restarts.total == 0
    (isolates.folder / "out.done").unlink()
    runner = isolates.runner(mode="reject")
    async with running(runner, 10):
        runner.intake.offer(block(3, 2), False)
        await until(lambda: runner.intake.quarantined == 2)
    assert isolates.kept() == block(3, 2).data
    assert isolates.said.heard("refused (never)")
    balanced(runner)


async def test_killed_in_the_middle_of_a_batch_nothing_is_lost_and_the_rest_comes_again(isolates: Isolates) -> None:
    runner = isolates.runner(mode="hang", at=101)
    async with running(runner, 10):
        await opened(runner)
        for first in range(1, 101, 10):
            runner.intake.offer(block(first, 10), False)
        await until(lambda: runner.intake.delivered == 100)
        runner.intake.offer(block(101, 10), False)
        await until(lambda: isolates.got(".done"))
        os.kill(runner.pids()[0], signal.SIGKILL)
        runner.intake.offer(block(111, 10), False)
        await until(lambda: runner.intake.delivered == 120)
    stream = Stream()
    stream.add(isolates.got())
    assert stream.records == 120
    assert runner.intake.redelivered == 10
    balanced(runner)


@pytest.mark.parametrize(("mode", "words"), [("idle-exit", "exit status 7"), ("task", "ValueError: a task of its own")])
async def test_one_that_ends_between_deliveries_is_started_anew(isolates: Isolates, mode: str, words: str) -> None:
    runner = isolates.runner(mode=mode)
    async with running(runner, 10):
        await opened(runner)
        await until(lambda: isolates.said.heard(words))
        await until(lambda: runner.restarts.total >= 2)
    assert isolates.said.count("opening it again") >= 2


async def test_one_that_cannot_be_opened_says_why(isolates: Isolates) -> None:
    runner = isolates.runner(mode="refuse", max_restarts=1)
    async with running(runner, 0):
        await runner.opened.wait()
        assert runner.first_problem == "OSError: cannot be opened"
        await until(lambda: runner.state == "failed")
        runner.intake.offer(block(1, 3), False)
    assert runner.intake.losses == {"failed": 3}


async def test_one_that_never_opens_is_ended(isolates: Isolates) -> None:
    runner = isolates.runner(mode="sleep-open")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runner.run)
        await until(lambda: runner.pids())
        pid = runner.pids()[0]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("audisp.dispatch.inprocess.CLOSE_GRACE", 0.1)
            await runner.stop(trio.current_time())
    assert runner.state == "stopped"
    assert not alive(pid)


async def test_closing_that_fails_or_hangs_is_said(isolates: Isolates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(far, "CLOSE_SECONDS", 0.5)
    for mode, words in (("bad-close", "OSError: cannot be closed"), ("hang-close", "did not close in 0.5 s, killed")):
        runner = isolates.runner(mode=mode)
        async with running(runner, 10):
            await opened(runner)
            pid = runner.pids()[0]
        assert isolates.said.heard(words), isolates.said.lines
        assert not alive(pid)
        assert runner.state == "stopped"


async def test_commands_state_and_what_the_host_offers(isolates: Isolates) -> None:
    runner = isolates.runner(mode="host")
    async with running(runner, 10):
        await opened(runner)
        runner.command("rotate")
        runner.intake.offer(block(1), False)
        await until(lambda: runner.intake.delivered == 1)
        runner.command("resume")
        await until(lambda: isolates.got(".commands") == b"rotate\nresume\n")
        await until(lambda: runner.detail().get("blocks") == "1")
        assert runner.detail()["pid"] == str(runner.pids()[0])
    assert isolates.said.heard("plugin tested: a word", "warning")
    assert isolates.emitted == [(1100, "emitter=tested op=test")]
    assert runner.host.counters["seen"] == 2  # type: ignore[attr-defined]


async def test_it_may_not_ask_for_just_any_action(isolates: Isolates) -> None:
    runner = isolates.runner(mode="act")
    async with running(runner, 10):
        runner.intake.offer(block(1), False)
        await until(lambda: runner.intake.delivered == 1)
    assert ("syslog", "allowed") in isolates.acts
    assert {action for action, _ in isolates.acts} == {"syslog", "email"}
    assert len(isolates.acts) == far.ACTIONS_PER_MINUTE
    counters = runner.host.counters  # type: ignore[attr-defined]
    assert (counters["action_refused"], counters["action_dropped"]) == (2, 41)
    assert isolates.said.heard("may not ask for 'halt': it is isolated, and its file allows syslog, email")


async def test_one_that_never_stops_talking_is_read_slowly_and_costs_nobody_else(isolates: Isolates) -> None:
    runner = isolates.runner(mode="flood", once="no")
    async with running(runner, 10):
        await opened(runner)
        began, busy = time.monotonic(), time.thread_time()
        runner.intake.offer(block(1), False)
        await until(lambda: runner.intake.delivered == 1)
        await trio.sleep(0.5)
        # Each message is judged here, so the number of them bounds what it costs.
        seconds = time.monotonic() - began
        said = isolates.said.count("xxx")
        assert said <= far.MESSAGES_BURST * 2 + far.MESSAGES_PER_SECOND * seconds
        assert time.thread_time() - busy < seconds
    balanced(runner)


async def test_events_with_flags_contexts_and_origin_arrive_verbatim(isolates: Isolates) -> None:
    lines = [
        b"type=CWD msg=audit(1700000000.001:1): cwd=\xff\xfe\n",
        b"type=EOE msg=audit(1700000000.001:1): \n",
        b"no stamp at all\n",
        b"type=CWD msg=audit(1700000000.001:2): cwd=2\n",
    ]
    batch = Batch(b"".join(lines), 4, "unix:/a b", 1.5, RecordReader(), {0: LATE})
    process = Process(
        7, 8, 9, 1, (1, 2), "/bin/\udcff", "x", ("a", "b"), False, "1.000:1", UNKNOWN,
        Placement("/c", Container("f" * 64, "docker"), "a.service"), ("label",), None,
    )  # fmt: skip
    context = Enrichment(
        process, UNKNOWN, "u", None, "s", UNKNOWN, (process, process), "root", "/s", {"A": "b"}, ("l",), ("script",)
    )
    batch.contexts = [context, None, context]
    runner = isolates.runner("events", mode="events")
    async with running(runner, 10):
        runner.intake.offer(batch, False)
        await until(lambda: runner.intake.delivered == 4)
        runner.intake.offer(block(9), False)
        await until(lambda: runner.intake.delivered == 5)
    first, stray, second, plain = isolates.got().decode().splitlines()
    assert first == repr(("1700000000.001:1", LATE, "unix:/a b", lines[0] + lines[1], context))
    assert stray == repr(("", 8, "unix:/a b", lines[2], None))
    assert second == repr(("1700000000.001:2", 0, "unix:/a b", lines[3], context))
    assert plain == repr(("1700000000.123:9", 0, "test", block(9).data, None))


async def test_a_block_larger_than_any_socket_passes(isolates: Isolates) -> None:
    runner = isolates.runner(intake=make_intake(64 << 20))
    async with running(runner, 10):
        runner.intake.offer(block(1, 5000, size=1000), False)
        await until(lambda: runner.intake.delivered == 5000)
    stream = Stream()
    stream.add(isolates.got())
    assert stream.records == 5000


# ---- what it is ----


async def test_it_is_described_by_a_process_like_its_own(isolates: Isolates) -> None:
    extra = isolates.folder / "extra"
    extra.write_text("1")
    conf = isolates.conf("events", mode="notice", extra=extra)
    found = await describe(conf, isolates.said)
    assert found.wants == "events"
    assert found.notices == ("/etc/tested.audisp:2: mode: is worth a word",)
    assert (await describe(conf, isolates.said)).stamp == found.stamp
    extra.write_text("22")
    assert (await describe(conf, isolates.said)).stamp != found.stamp
    assert (await describe(isolates.conf(), isolates.said)).stamp == b""


async def test_wrong_settings_are_located_errors(isolates: Isolates) -> None:
    with pytest.raises(ConfigErrors) as caught:
        await describe(isolates.conf(mod="x", loop="maybe"), isolates.said)
    assert [str(each) for each in caught.value.errors] == [
        "/etc/tested.audisp:2: unknown key 'mod' (did you mean 'mode'?)",
        "/etc/tested.audisp:3: loop: 'maybe' is not one of yes, no",
    ]
    with pytest.raises(ConfigErrors, match=r"tested.audisp:2: mode: is no mode"):
        await describe(isolates.conf(mode="bad"), isolates.said)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import os; os._exit(5)", "its process ended: exit status 5"),
        ("import os; os.kill(os.getpid(), 9)", "its process ended: killed by SIGKILL"),
        ("import sys; sys.exit('no')", "SystemExit: no"),
        ("x = 1", "declares nothing"),
    ],
)
async def test_code_that_cannot_be_loaded_harms_its_process_alone(isolates: Isolates, code: str, words: str) -> None:
    conf = isolates.conf()
    isolates.code(code)
    with pytest.raises(PluginError, match=words):
        await describe(conf, isolates.said)


async def test_code_that_never_gets_loaded_is_not_waited_for(
    isolates: Isolates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated, "DESCRIBE_SECONDS", 0.5)
    conf = isolates.conf()
    isolates.code("import time; time.sleep(1000)")
    with pytest.raises(PluginError, match=r"could not be loaded within 0\.5 s"):
        await describe(conf, isolates.said)
