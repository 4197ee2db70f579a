"""Every reason for which nothing happens."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import attrs
import pytest

from audisp.config.reactions import ReactionsConf
from audisp.errors import StoreError
from audisp.react.books import MAX_OPEN, Act, Now
from audisp.react.head import Sender, cut_head, is_user_space, read_head
from audisp.react.judge import REASONS
from audisp.react.means import Prepared
from audisp.react.processes import find, outside_of_containers
from audisp.react.request import Address, Kind, Level, Origin, Outcome, Process, Request, Result
from tests.needs import ROOT, needs
from tests.react.playing import HandClock, becomes, conf, entries, playing, request, victim


class Nothing:
    """Means to nothing: every target is good, and is only counted."""

    def __init__(self, seconds: int = 0) -> None:
        self.done: list[str] = []
        self.seconds = seconds

    def prepare(self, request: Request, now: Now) -> Prepared:
        return Prepared(request.subject, {}, {"undo": True} if self.seconds else {}, self.seconds)

    async def carry_out(self, act: Act, request: Request) -> str:
        self.done.append(act.subject)
        return "done"

    async def undo(self, act: Act) -> str:
        self.done.remove(act.subject)
        return "undone"

    async def in_force(self, act: Act, now: Now) -> bool:
        return act.subject in self.done


TARGET = Address("192.0.2.1")


async def _asked(tmp_path: Path, settings: ReactionsConf, asked: Request, **given: Any) -> Result:
    means = Nothing()
    with playing(settings, tmp_path / "r", dict.fromkeys(Kind, means), **given) as played:
        result = await played.reactor.handle(asked)
    assert bool(means.done) == (result.outcome is Outcome.DONE)
    if result.outcome is Outcome.SUPPRESSED:
        assert entries(tmp_path / "r") == []
        assert result.record_type == 2200
        assert f"reason={result.reason} " in result.body
        assert result.body.endswith("res=failed")
    return result


def _ago(seconds: float) -> int:
    return int((time.time() - seconds) * 1000)


@pytest.mark.parametrize(
    ("reason", "settings", "given"),
    [
        ("kind", {"block_address": ()}, {}),
        ("level", {}, {"level": Level.MEDIUM}),
        ("level", {}, {"level": Level.LOW}),
        ("level", {"block_address": ("critical",)}, {}),
        ("keywords", {}, {"keywords": True}),
        ("origin", {}, {"origin": Origin.FILE}),
        ("origin", {}, {"origin": Origin.SPOOL}),
        ("origin", {}, {"origin": Origin.NETWORK}),
        ("origin", {}, {"origin": Origin.LOCAL}),
        ("old", {}, {"event_time": _ago(3600)}),
        ("old", {"max_age": 5}, {"event_time": _ago(40)}),
        ("future", {}, {"event_time": _ago(-3600)}),
        ("late", {}, {"deadline": _ago(1)}),
        ("sender", {}, {"record_type": 1112}),
        ("sender", {}, {"record_type": 1112, "head": b"pid=1 uid=1000 auid=1000 ses=1 "}),
        ("sender", {}, {"record_type": 1112, "head": b"pid=4194304 uid=0 auid=0 ses=1 "}),
        ("sender", {}, {"record_type": 2404, "head": b"pid=1 uid=0 auid=0 ses=1 msg='op=login pid=1 uid=0"}),
    ],
)
async def test_it_does_not_happen(tmp_path: Path, reason: str, settings: dict[str, Any], given: dict[str, Any]) -> None:
    result = await _asked(tmp_path, conf(**settings), request(Kind.BLOCK, TARGET, **given))
    assert (result.outcome, result.reason) == (Outcome.SUPPRESSED, reason)


@pytest.mark.parametrize("age", [0, 30, 58])
async def test_what_is_young_enough_happens(tmp_path: Path, age: int) -> None:
    result = await _asked(tmp_path, conf(), request(Kind.BLOCK, TARGET, event_time=_ago(age)))
    assert result.outcome is Outcome.DONE


async def test_nothing_happens_by_default_but_a_notice_that_is_a_dry_run(tmp_path: Path) -> None:
    result = await _asked(tmp_path, ReactionsConf(), request(Kind.NOTIFY))
    assert result.outcome is Outcome.DRY_RUN
    for kind, target in ((Kind.KILL, Process(4, 5)), (Kind.BLOCK, TARGET), (Kind.RUN, None)):
        assert (await _asked(tmp_path / kind, ReactionsConf(), request(kind, target))).reason == "kind"


async def test_keywords_and_user_records_may_cause_a_notice(tmp_path: Path) -> None:
    asked = request(Kind.NOTIFY, keywords=True, record_type=1112, head=b"pid=4194304 uid=0 auid=0 ses=1 ")
    assert (await _asked(tmp_path, conf(), asked)).outcome is Outcome.DONE


async def test_a_collector_touches_nothing(tmp_path: Path) -> None:
    """Even where a configuration that was not checked says so."""
    for kind, target in ((Kind.KILL, Process(4, 5)), (Kind.BLOCK, TARGET)):
        asked = request(kind, target, origin=Origin.NETWORK)
        assert (await _asked(tmp_path / kind, conf(), asked, collector=True)).reason == "collector"
    asked = request(Kind.NOTIFY, origin=Origin.NETWORK)
    assert (await _asked(tmp_path / "n", conf(), asked, collector=True)).outcome is Outcome.DONE


async def test_a_clock_that_was_set_back_stops_acts_until_events_are_of_now_again(tmp_path: Path) -> None:
    clock = HandClock()
    with playing(conf(), tmp_path / "r", {Kind.BLOCK: Nothing()}, clock=clock) as played:
        clock.wall_ahead = -7200
        assert (await played.reactor.handle(request(Kind.BLOCK, TARGET))).reason == "future"
        clock.wall_ahead = 7200
        assert (await played.reactor.handle(request(Kind.BLOCK, TARGET))).reason == "old"
        late = request(Kind.BLOCK, TARGET, event_time=_ago(-7200), deadline=_ago(-7230))
        assert (await played.reactor.handle(late)).outcome is Outcome.DONE


@needs("root")
async def test_root_of_this_host_may_be_believed(tmp_path: Path) -> None:
    """A login that sshd reports: outer uid 0, outer pid of the host itself."""
    head = f"pid={os.getpid()} uid=0 auid=4294967295 ses=4294967295 msg=".encode()
    asked = request(Kind.BLOCK, TARGET, record_type=1112, head=head)
    assert (await _asked(tmp_path / "a", conf(), asked, outside=True)).outcome is Outcome.DONE
    result = await _asked(tmp_path / "b", conf(), asked, outside=False)
    assert (result.reason, "container" in result.text) == ("sender", True)


@needs("root")
async def test_a_sender_that_is_younger_than_its_record_is_another_one(tmp_path: Path) -> None:
    with victim() as (_, process):
        head = f"pid={process.pid} uid=0 auid=0 ses=1 ".encode()
        asked = request(Kind.BLOCK, TARGET, record_type=1112, head=head, event_time=_ago(30))
        result = await _asked(tmp_path, conf(), asked, outside=True)
    assert (result.reason, "gone" in result.text) == ("sender", True)


@needs("root")
async def test_a_sender_that_has_ended_has_a_witness(tmp_path: Path) -> None:
    """sshd's process of one connection ends some milliseconds after it has told of a wrong password: zombie or gone."""
    me = find(os.getpid())
    assert me is not None
    mine = Process(me.pid, me.start)
    with subprocess.Popen(["/bin/true"]) as child:
        becomes(child.pid, "Z")
        for pid in (child.pid, 4194304):
            asked = request(Kind.BLOCK, TARGET, record_type=1112, head=f"pid={pid} uid=0 auid=0 ses=1 ".encode())
            gone = await _asked(tmp_path / f"{pid}a", conf(), asked, outside=True)
            assert (gone.reason, "is gone" in gone.text) == ("sender", True)
            seen = attrs.evolve(asked, witness=mine)
            assert (await _asked(tmp_path / f"{pid}b", conf(), seen, outside=True)).outcome is Outcome.DONE
            inside = await _asked(tmp_path / f"{pid}c", conf(), seen, outside=False)
            assert (inside.reason, "container" in inside.text) == ("sender", True)
            other = attrs.evolve(asked, witness=attrs.evolve(mine, start=mine.start - 1))
            assert "parent" in (await _asked(tmp_path / f"{pid}d", conf(), other, outside=True)).text
            forged = attrs.evolve(seen, head=f"pid={pid} uid=33 auid=0 ses=1 ".encode())
            assert (await _asked(tmp_path / f"{pid}e", conf(), forged, outside=True)).reason == "sender"
    # One that is there is looked at itself, whoever its parent is.
    with victim() as (_, process):
        head = f"pid={process.pid} uid=0 auid=0 ses=1 ".encode()
        asked = request(Kind.BLOCK, TARGET, record_type=1112, head=head, witness=mine)
        assert (await _asked(tmp_path / "f", conf(), asked, outside=False)).reason == "sender"


@needs("root")
@pytest.mark.parametrize("words", [["--pid", "--fork"], ["--user", "--map-root-user"]])
def test_another_namespace_is_a_container(words: list[str]) -> None:
    with subprocess.Popen(
        ["unshare", *words, "/bin/sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        inside = int(children[0]) if children else process.pid
        assert not outside_of_containers(inside)
        subprocess.run(["kill", "-9", str(inside)], check=True)
        process.kill()


@needs("root")
def test_another_root_is_a_container() -> None:
    """Docker with --pid=host has our pid namespace, and its own root."""
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        assert outside_of_containers(process.pid)
        process.kill()
    program = "import os, sys, time; os.chroot('/proc'); print(flush=True); time.sleep(60)"
    with subprocess.Popen(["python3", "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert not outside_of_containers(process.pid)
        process.kill()


def test_who_is_gone_is_not_surely_outside() -> None:
    assert not outside_of_containers(4194304)


@pytest.mark.parametrize(
    ("head", "sender"),
    [
        (b"pid=1 uid=0 auid=4294967295 ses=4294967295 ", Sender(1, 0, 4294967295, 4294967295)),
        (b"pid=1 uid=0 auid=0 ses=3 subj=/usr/sbin/cupsd (enforce) msg=", Sender(1, 0, 0, 3)),
        (b"pid=1 uid=0 auid=0 ses=3 subj=a (enforce) b msg=", None),
        (b"pid=1 uid=0 auid=4294967295 ses=4294967295 msg=", Sender(1, 0, 4294967295, 4294967295)),
        (b"pid=1 uid=0 auid=0 ses=3 subj=system_u:system_r:sshd_t:s0-s0:c0.c1023 msg=", Sender(1, 0, 0, 3)),
        (b"user pid=1 uid=0 auid=0 ses=3 msg=", Sender(1, 0, 0, 3)),
        (b"audit(1.000:5): pid=1 uid=0 auid=0 ses=3 msg=", Sender(1, 0, 0, 3)),
        (b"type=USER_LOGIN msg=audit(1.000:5): pid=1 uid=0 auid=0 ses=3 msg=", Sender(1, 0, 0, 3)),
        (b"node=a type=USER_LOGIN msg=audit(1.000:5): pid=1 uid=0 auid=0 ses=3 msg=", Sender(1, 0, 0, 3)),
        (b"", None),
        (b"pid=1", None),
        (b"pid=1 uid=0 auid=0 ses=3 pid=2 msg=", None),
        (b"pid=5 uid=1000 auid=0 ses=3 msg='pid=1 uid=0 auid=0 ses=3 ", None),
        (b"msg='pid=1 uid=0 auid=0 ses=3 msg=", None),
        (b"node=pid=1 uid=0 auid=0 ses=3 pid=5 uid=1000 auid=1 ses=3 msg=", None),
        (b"pid=-1 uid=0 auid=0 ses=3 msg=", None),
        (b"pid=1 uid=0x0 auid=0 ses=3 msg=", None),
        (b"pid=1 uid=0\nauid=0 ses=3 msg=", None),
    ],
)
def test_heads(head: bytes, sender: Sender | None) -> None:
    assert read_head(head) == sender


@pytest.mark.parametrize("start", [b"", b"type=USER_LOGIN msg=audit(1.000:5): ", b"node=a type=X msg=audit(1.000:5): "])
def test_a_record_s_head_is_what_the_kernel_wrote(start: bytes) -> None:
    record = (
        start + b"pid=5 uid=0 auid=1000 ses=3 msg='op=login acct=\"root\" pid=1 uid=0 auid=0 ses=1 msg=' res=failed'"
    )
    assert read_head(cut_head(record)) == Sender(5, 0, 1000, 3)
    # Without a quote the sender's words would stand in the kernel's place: the whole is no head then.
    assert read_head(cut_head(start + b"pid=5 uid=0 auid=1000 ses=3 op=login")) is None
    assert len(cut_head(b"a" * 5000)) == 1024


def test_which_types_user_space_sends() -> None:
    assert [kind for kind in range(1000, 3100) if is_user_space(kind)] == [1005, *range(1100, 1200), *range(2100, 3000)]


async def test_one_target_again_and_again_costs_itself_alone(tmp_path: Path) -> None:
    with playing(conf(per_target=3, per_hour=10), tmp_path / "r", {Kind.BLOCK: Nothing()}) as played:
        for _ in range(3):
            assert (await played.reactor.handle(request(Kind.BLOCK, TARGET))).outcome is Outcome.DONE
        for _ in range(30):
            assert (await played.reactor.handle(request(Kind.BLOCK, TARGET))).reason == "per_target"
        assert not played.reactor.books.breaker
        assert (await played.reactor.handle(request(Kind.BLOCK, Address("192.0.2.2")))).outcome is Outcome.DONE


async def test_too_many_acts_trip_the_breaker_until_a_person_resumes(tmp_path: Path) -> None:
    means = dict.fromkeys(Kind, Nothing())
    settings = conf(per_hour=5)
    clock = HandClock()

    def asked(number: int) -> Request:
        now = int((time.time() + clock.ahead) * 1000)
        return request(Kind.BLOCK, Address(f"192.0.2.{number}"), event_time=now, deadline=now + 1000)

    with playing(settings, tmp_path / "r", means, clock=clock) as played:
        for number in range(5):
            assert (await played.reactor.handle(asked(number))).outcome is Outcome.DONE
        assert (await played.reactor.handle(asked(5))).reason == "per_hour"
        assert (await played.reactor.handle(asked(6))).reason == "breaker"
        assert (await played.reactor.handle(request(Kind.NOTIFY))).outcome is Outcome.DONE
        assert [line for line in played.said if line.startswith("alert: the breaker is open")]
    # Neither a restart nor time closes it.
    with playing(settings, tmp_path / "r", means, clock=clock) as played:
        clock.ahead = 2 * 3600
        assert (await played.reactor.handle(asked(7))).reason == "breaker"
        assert played.reactor.resume()
        assert not played.reactor.resume()
        assert (await played.reactor.handle(asked(8))).outcome is Outcome.DONE
    with playing(settings, tmp_path / "r", means, clock=clock) as played:
        assert (await played.reactor.handle(asked(9))).outcome is Outcome.DONE


async def test_a_restart_forgets_no_cap(tmp_path: Path) -> None:
    means = {Kind.BLOCK: Nothing()}
    for number in range(4):
        with playing(conf(per_hour=3), tmp_path / "r", means) as played:
            result = await played.reactor.handle(request(Kind.BLOCK, Address(f"192.0.2.{number}")))
            assert result.reason == ("per_hour" if number == 3 else "")


async def test_resuming_does_not_start_the_hour_anew(tmp_path: Path) -> None:
    with playing(conf(per_hour=2), tmp_path / "r", {Kind.BLOCK: Nothing()}) as played:
        for number in range(3):
            await played.reactor.handle(request(Kind.BLOCK, Address(f"192.0.2.{number}")))
        played.reactor.resume()
        assert (await played.reactor.handle(request(Kind.BLOCK, Address("192.0.2.9")))).reason == "per_hour"


async def test_notices_have_a_cap_of_their_own(tmp_path: Path) -> None:
    with playing(conf(notices_per_hour=4), tmp_path / "r", dict.fromkeys(Kind, Nothing())) as played:
        outcomes = [(await played.reactor.handle(request(Kind.NOTIFY))).reason for _ in range(6)]
        assert outcomes == ["", "", "", "", "notices", "notices"]
        assert (await played.reactor.handle(request(Kind.BLOCK, TARGET))).outcome is Outcome.DONE


async def test_what_is_in_force_is_not_done_again(tmp_path: Path) -> None:
    with playing(conf(), tmp_path / "r", {Kind.BLOCK: Nothing(seconds=60)}) as played:
        await played.reactor.handle(request(Kind.BLOCK, TARGET))
        assert (await played.reactor.handle(request(Kind.BLOCK, TARGET))).reason == "in_force"
        await played.reactor.undo(1)
        assert (await played.reactor.handle(request(Kind.BLOCK, TARGET))).outcome is Outcome.DONE


async def test_as_many_as_can_be_kept(tmp_path: Path) -> None:
    with playing(conf(), tmp_path / "r", {Kind.BLOCK: Nothing(seconds=86400)}) as played:
        result = await played.reactor.handle(request(Kind.BLOCK, TARGET))
        first = played.reactor.books.acts[result.act]
        for number in range(2, MAX_OPEN + 1):
            played.reactor.books.acts[number] = attrs.evolve(first, id=number, subject=f"address {number}", boot=0.0)
        result = await played.reactor.handle(request(Kind.BLOCK, Address("192.0.2.2")))
    assert result.reason == "open"


async def test_what_the_journal_does_not_hold_does_not_happen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    means = Nothing()

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    with playing(conf(), tmp_path / "r", {Kind.BLOCK: means}) as played:
        monkeypatch.setattr(os, "fdatasync", full)
        assert (await played.reactor.handle(request(Kind.BLOCK, TARGET))).reason == "journal"
        monkeypatch.undo()
        assert means.done == []
        assert (await played.reactor.handle(request(Kind.BLOCK, TARGET))).outcome is Outcome.DONE
    written = entries(tmp_path / "r")
    assert [entry.get("step") or entry["act"]["step"] for entry in written] == ["begun", "done"]


def test_two_reactors_do_not_share_a_journal(tmp_path: Path) -> None:
    once, twice = (playing(conf(), tmp_path / "r", {}) for _ in range(2))
    with once, pytest.raises(StoreError, match="another reactor"):
        twice.__enter__()


async def test_a_target_cannot_break_out_of_a_record(tmp_path: Path) -> None:
    asked = request(Kind.BLOCK, Address("1.2.3.4 res=success\nop=x"), level=Level.LOW, rule='a" res=success')
    result = await _asked(tmp_path, conf(), asked)
    assert re.fullmatch(
        r"op=suppressed-block-address target=[0-9A-F]+ reason=level event=[0-9.:]+ level=low rule=[0-9A-F]+ res=failed",
        result.body,
    )


def test_every_reason_is_documented() -> None:
    text = (ROOT / "docs" / "reactions.md").read_text()
    assert not {reason for reason in REASONS if not re.search(rf"^\| `{reason}` \|", text, re.M)}


async def test_a_compromised_matcher_can_no_more_than_the_configuration_allows(tmp_path: Path) -> None:
    """It lies about everything that is its to say, of every kind, a thousand times: see test_main for the process."""
    means = Nothing()
    settings = ReactionsConf(dry_run=False, block_address=("critical",), per_hour=4, notices_per_hour=2)
    with playing(settings, tmp_path / "r", dict.fromkeys(Kind, means)) as played:
        for number in range(250):
            for kind, target in (
                (Kind.BLOCK, Address(f"198.51.100.{number}")),
                (Kind.KILL, Process(number + 2, 5)),
                (Kind.RUN, None),
                (Kind.NOTIFY, None),
            ):
                lie = request(kind, target, level=Level.CRITICAL, seconds=2**32 - 2)
                result = await played.reactor.handle(lie)
                assert result.outcome is Outcome.SUPPRESSED or kind in (Kind.BLOCK, Kind.NOTIFY)
    blocked = [f"address 198.51.100.{number}" for number in range(4)]
    assert sorted(means.done) == [*blocked, *["event 1700000000.123:4567"] * 2]
