"""The plugin `hids`: what becomes an alert, what is asked for because of it, and what is not."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from audisp.enrich.facts import Enrichment
from audisp.errors import PluginError
from audisp.hids.plugin import AS_ROOT
from audisp.parse.processes import Process as Known
from audisp.parse.record import Record
from audisp.parse.types import type_name
from audisp.react.judge import REASONS
from audisp.react.request import Account, Address, Kind, Level, Origin, Outcome, Process
from tests.detect.replaying import correlation, id_of, rule
from tests.dispatch.voices import until
from tests.hids.watching import BAD, NETCAT, WORDS, watching
from tests.needs import ROOT, needs

HIGH = ("high", "critical")
ALL = dict.fromkeys(Kind, HIGH)


def fields(host_emitted: tuple[int, str]) -> Record:
    """An emitted record as others will read it."""
    return Record(type_name(host_emitted[0]).decode(), host_emitted[1])


async def test_an_alert_says_everything(tmp_path: Path) -> None:
    async with watching(tmp_path, NETCAT) as seen:
        shell = Known(4200, 1, ticks=11, exe="/bin/bash", argv=("bash", "-i"))
        nc = Known(4242, 2, ticks=22, exe="/usr/bin/nc", argv=("nc", "x"))
        context = Enrichment(process=nc, parents=(shell,), parents_end="root")
        text = seen.exec()
        await seen.feed(text, contexts=[context])
        (alert,) = seen.alerts("netcat")
        assert (alert["alert"], alert["rule_id"], alert["level"], alert["count"]) == (1, id_of("netcat"), "critical", 1)
        assert alert["records"] == text.splitlines()
        assert alert["process"] == {
            "pid": 4242, "start": 22, "exe": "/usr/bin/nc", "comm": None, "command_line": "nc x"
        }  # fmt: skip
        assert [each["command_line"] for each in alert["parents"]] == ["bash -i"]
        # critical is a threshold by itself: the session and the tree of processes say so.
        assert {each["entity"] for each in alert["standing"]} >= {"session", "account"}
        assert all(each["why"][-1]["reason"] for each in alert["standing"])
        record = fields(seen.host.emitted[0])
        assert record.type == "ANOM_EXEC"
        assert record.get("op") == "hids-alert"
        assert record.get("rule") == id_of("netcat")
        assert record.get("event") == alert["event"]
        assert record.get("exe") == "/usr/bin/nc"
        assert (record.integer("opid"), record.integer("oauid"), record.integer("oses")) == (4242, 1000, 5)
        assert len(seen.host.emitted) == len(seen.alerts())
    path = tmp_path / "state" / "alerts.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_what_attackers_write_stays_in_its_field(tmp_path: Path) -> None:
    hostile = 'b"x op=forged\nlevel=low'
    async with watching(tmp_path, BAD) as seen:
        await seen.feed(seen.login(acct=hostile.encode().hex().upper(), addr="127.0.0.1"))
        record = fields(seen.host.emitted[0])
        assert record.get("acct") == hostile
        assert record.get("op") == "hids-alert"
        assert record.get("level") == "medium"
        assert "\n" not in seen.host.emitted[0][1]


async def test_the_same_again_is_counted_and_told_at_the_end(tmp_path: Path) -> None:
    async with watching(tmp_path, NETCAT, repeat_time=3600) as seen:
        await seen.feed(seen.exec())
        await seen.feed(*(seen.exec(pid=5000 + each) for each in range(40)))
        await seen.feed(seen.exec(exe="/tmp/nc"))
        assert len(seen.alerts("netcat")) == 2
    last = [each for each in seen.objects() if "repeated" in each]
    assert [(each["alert"], each["repeated"]) for each in last] == [(1, 40)]
    assert "records" not in last[0]
    told = [fields(each) for each in seen.host.emitted if "hids-repeated" in each[1]]
    assert [(each.integer("alert"), each.integer("count")) for each in told] == [(1, 41)]


async def test_the_same_is_told_when_its_time_is_over(tmp_path: Path) -> None:
    async with watching(tmp_path, NETCAT, repeat_time=1) as seen:
        await seen.feed(seen.exec(), seen.exec())
        await until(lambda: [each for each in seen.objects() if "repeated" in each], "it is told")
        await seen.feed(seen.exec())
        assert len(seen.alerts("netcat")) == 2


async def test_numbers_and_scores_go_on_after_a_restart(tmp_path: Path) -> None:
    async with watching(tmp_path, NETCAT, repeat_time=0) as seen:
        await seen.feed(seen.exec(), seen.exec())
        number = max(each["alert"] for each in seen.alerts())
    assert stat.S_IMODE((tmp_path / "state" / "scores").stat().st_mode) == 0o600
    with (tmp_path / "state" / "alerts.json").open("a") as file:
        file.write('{"alert": 99, "cut')  # as a crash leaves it
    async with watching(tmp_path, NETCAT, repeat_time=0) as seen:
        seen.serial = 100
        await seen.feed(seen.exec())
        lines = (tmp_path / "state" / "alerts.json").read_bytes().split(b"\n")
        assert b'{"alert": 99, "cut' in lines
        alert = [each for each in whole(lines) if each["title"] == "netcat"][-1]
        # Of what was cut the record is in the stream, with its number: that is nobody's any more.
        assert number < 99
        assert alert["alert"] == 100
        assert max(each["score"] for each in alert["standing"] if each["entity"] == "account") > 8, "of three, not one"


async def test_scores_that_cannot_be_read_begin_anew(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "scores").write_bytes(b"\xc1 no scores")
    async with watching(tmp_path, NETCAT) as seen:
        assert seen.host.heard("cannot be used")
        await seen.feed(seen.exec())
        assert seen.alerts("netcat")


@pytest.mark.parametrize("level", ["low", "critical"])
async def test_what_is_below_the_level_makes_no_alert_and_scores(tmp_path: Path, level: str) -> None:
    async with watching(tmp_path, BAD, alert_level=level, repeat_time=0) as seen:
        await seen.feed(*(seen.login() for _ in range(30)))
        assert len(seen.alerts("failed")) == (30 if level == "low" else 0)
        scored = [each for each in seen.alerts("Score") if each["score"]["entity"] == "address"][-1]
        assert scored["score"]["key"] == "192.0.2.9"
        assert scored["score"]["why"]


@needs("root")
async def test_root_is_warned(tmp_path: Path) -> None:
    async with watching(tmp_path, NETCAT) as seen:
        assert ("warning", AS_ROOT) in seen.host.said


async def test_no_rule_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="no rule to look for"):
        async with watching(tmp_path, "title: nothing\n"):
            pass


# ---- what is asked of the reactor ----


async def test_what_the_event_offers_is_asked_for(tmp_path: Path) -> None:
    me = started(os.getpid())
    async with watching(tmp_path, NETCAT, allowed=ALL) as seen:
        await seen.feed(seen.exec(pid=os.getpid()))
        rules = [each for each in seen.requests() if each.rule.startswith("netcat")]
        asked = {each.kind: each for each in rules}
        assert set(asked) == {Kind.NOTIFY, Kind.RUN, Kind.KILL, Kind.FREEZE, *({Kind.LOCK} & set(asked))}
        assert asked[Kind.KILL].target == Process(os.getpid(), me)
        for each in rules:
            assert (each.origin, each.level, each.keywords, each.record_type) == (
                Origin.LIVE,
                Level.CRITICAL,
                False,
                1300,
            )
            assert each.deadline == each.event_time + 60_000
            assert each.event_id == seen.alerts("netcat")[0]["event"]
        await seen.answer(asked[Kind.KILL], Outcome.DONE, act=3, record_type=2202, body="op=kill-process act=3")
        assert (2202, "op=kill-process act=3") in seen.host.emitted
        assert [each["act"] for each in seen.objects() if each.get("reaction") == "kill_process"] == [3]


async def test_levels_that_are_not_allowed_are_not_even_asked_for(tmp_path: Path) -> None:
    async with watching(tmp_path, BAD, allowed=ALL) as seen:
        await seen.feed(seen.login())
        assert seen.requests() == []
        assert seen.delivery.state is not None
        assert seen.delivery.state()["requests_unallowed"] == "1"


async def test_who_sent_it_goes_along(tmp_path: Path) -> None:
    high = BAD.replace("level: medium", "level: high")
    async with watching(tmp_path, high, allowed=ALL) as seen:
        await seen.feed(seen.login(acct='"-rf"', addr="::ffff:192.0.2.9"))
        asked = {each.kind: each for each in seen.requests()}
        # The reactor refuses the first and makes an IPv4 address of the second: here nothing is judged.
        assert asked[Kind.LOCK].target == Account("-rf")
        assert asked[Kind.BLOCK].target == Address("::ffff:192.0.2.9")
        assert Kind.KILL not in asked, "that would be sshd"
        for each in asked.values():
            assert each.record_type == 1112
            assert each.head.endswith(b"pid=77 uid=0 auid=4294967295 ses=4294967295")


@pytest.mark.parametrize("addr", [";reboot", "$(reboot)", "x" * 300, "?"])
async def test_what_can_be_no_address_is_not_asked_for_or_is_refused(tmp_path: Path, addr: str) -> None:
    from audisp.react.addresses import normal

    high = BAD.replace("level: medium", "level: high")
    async with watching(tmp_path, high, allowed=ALL) as seen:
        await seen.feed(seen.login(addr=addr))
        for each in seen.requests():
            if isinstance(each.target, Address):
                assert normal(each.target.text) is None


async def test_keywords_cause_a_notice_and_nothing_else(tmp_path: Path) -> None:
    twice = correlation("type: event_count\nrules: [words]\ntimespan: 1h\ncondition: {gte: 2}")
    both = WORDS + "---\n" + twice.replace("correlation:\n", "correlation:\n    generate: true\n")
    async with watching(tmp_path, both, allowed=ALL) as seen:
        await seen.feed(seen.exec(pid=os.getpid(), word='"evil"'), seen.exec(pid=os.getpid(), word='"evil"'))
        asked = [each for each in seen.requests() if not each.rule.startswith("Score")]
        assert {each.rule.partition(" ")[0] for each in asked} == {"words", "c"}
        assert {each.kind for each in asked} == {Kind.NOTIFY}
        assert all(each.keywords for each in asked)


@pytest.mark.parametrize(
    ("source", "spooled", "origin"),
    [
        ("netlink", True, Origin.SPOOL),
        ("multicast", False, Origin.LIVE),
        ("file:/var/log/audit/audit.log", False, Origin.FILE),
        ("follow:/var/log/audit/audit.log", False, Origin.FILE),
        ("stdin", False, Origin.LOCAL),
        ("unix:/run/x", False, Origin.LOCAL),
        ("web1", False, Origin.NETWORK),
    ],
)
async def test_where_it_came_in_is_said(tmp_path: Path, source: str, spooled: bool, origin: Origin) -> None:
    async with watching(tmp_path, NETCAT, allowed={Kind.NOTIFY: HIGH}) as seen:
        await seen.feed(seen.exec(), source=source, spooled=spooled)
        assert {each.origin for each in seen.requests()} == {origin}


async def test_on_a_collector_everything_is_another_hosts(tmp_path: Path) -> None:
    async with watching(tmp_path, NETCAT, allowed={Kind.NOTIFY: HIGH}, local=False) as seen:
        await seen.feed(seen.exec(), source="netlink")
        assert {each.origin for each in seen.requests()} == {Origin.NETWORK}


async def test_again_on_the_same_target_only_if_it_may_help(tmp_path: Path) -> None:
    high = BAD.replace("level: medium", "level: high")
    async with watching(tmp_path, high, allowed={Kind.BLOCK: HIGH}) as seen:
        await seen.feed(seen.login())
        (first,) = seen.requests()
        await seen.feed(seen.login())
        assert seen.requests() == []
        # That process of sshd had ended: the next event has another.
        await seen.answer(first, Outcome.SUPPRESSED, "sender", record_type=2200, body="op=suppressed-block-address")
        await seen.feed(seen.login(pid=78))
        (second,) = seen.requests()
        assert b"pid=78" in second.head
        await seen.answer(second, Outcome.SUPPRESSED, "spared", record_type=2200, body="op=suppressed-block-address")
        await seen.feed(seen.login(pid=79))
        assert seen.requests() == []


async def test_what_is_only_counted_notifies_nobody_again(tmp_path: Path) -> None:
    async with watching(tmp_path, NETCAT, allowed=ALL) as seen:
        await seen.feed(seen.exec(pid=os.getpid()))
        first = [each.kind for each in seen.requests() if each.rule.startswith("netcat")]
        assert {Kind.NOTIFY, Kind.RUN, Kind.KILL} <= set(first)
        # Counted to the same alert, by another process.
        await seen.feed(*(seen.exec(pid=1, ppid=0) for _ in range(20)))
        assert len(seen.alerts("netcat")) == 1
        again = [each for each in seen.requests() if each.rule.startswith("netcat")]
        assert {each.kind for each in again} == {Kind.KILL, Kind.FREEZE}
        assert {each.target for each in again} == {Process(1, started(1))}


async def test_a_full_disk_costs_lines_and_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    full = False

    def limited(fd: int, data: memoryview) -> int:
        if full and os.readlink(f"/proc/self/fd/{fd}").endswith("alerts.json"):
            if len(data) < 10:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(fd, data[: len(data) - 5])  # the disk takes what it can, and then no more
        return write(fd, data)

    monkeypatch.setattr("audisp.hids.alertfile.os.write", limited)
    async with watching(tmp_path, NETCAT, repeat_time=0) as seen:
        await seen.feed(seen.exec())
        full = True
        await seen.feed(seen.exec())
        assert seen.host.heard("alerts.json cannot be written: No space left")
        assert seen.host.counts["alerts_unwritten"] >= 1
        full = False
        await seen.feed(seen.exec())
        found = whole((tmp_path / "state" / "alerts.json").read_bytes().split(b"\n"))
        numbers = [str(each["alert"]) for each in found if each["title"] == "netcat"]
        told = [fields(each) for each in seen.host.emitted if fields(each).get("rule") == id_of("netcat")]
        assert len(told) == 3, "all are in the stream"
        assert [numbers[0], numbers[-1]] == [told[0].get("alert"), told[-1].get("alert")]
        assert len({each.get("alert") for each in told}) == 3


@pytest.mark.parametrize("reason", ["breaker", "per_hour"])
async def test_an_open_breaker_is_not_asked_thousands_of_times(tmp_path: Path, reason: str) -> None:
    high = BAD.replace("level: medium", "level: high")
    async with watching(tmp_path, high, allowed={Kind.BLOCK: HIGH, Kind.NOTIFY: HIGH}) as seen:
        await seen.feed(seen.login(addr="192.0.2.1"))
        (block,) = [each for each in seen.requests() if each.kind is Kind.BLOCK]
        await seen.answer(block, Outcome.SUPPRESSED, reason, record_type=2200, body="op=suppressed-block-address")
        await seen.feed(*(seen.login(addr=f"198.51.100.{each}") for each in range(50)))
        assert {each.kind for each in seen.requests()} == {Kind.NOTIFY}


async def test_what_is_not_configured_leaves_no_record(tmp_path: Path) -> None:
    async with watching(tmp_path, NETCAT, allowed={Kind.NOTIFY: HIGH}) as seen:
        await seen.feed(seen.exec())
        asked = seen.requests()
        before = len(seen.host.emitted)
        await seen.answer(asked[0], Outcome.SUPPRESSED, "level", record_type=2200, body="op=suppressed-notify")
        assert len(seen.host.emitted) == before
        await seen.answer(asked[-1], Outcome.SUPPRESSED, "nowhere", record_type=2200, body="op=suppressed-notify")
        assert len(seen.host.emitted) == before + 1
        assert {"level", "nowhere"} <= set(REASONS)


async def test_a_reactor_that_is_gone_costs_no_event(tmp_path: Path) -> None:
    async with watching(tmp_path, NETCAT, allowed=ALL, repeat_time=0) as seen:
        assert seen.reactor is not None
        seen.reactor.close()
        seen.reactor = None
        await trio.sleep(0.05)
        await seen.feed(seen.exec())
        assert seen.alerts("netcat")
        assert seen.delivery.state is not None
        state = seen.delivery.state()
        assert state["reactor"] == "gone"
        assert int(state["requests_dropped"]) > 0


# ---- ourselves ----


async def test_what_we_and_our_children_do_is_no_attack(tmp_path: Path) -> None:
    dispatcher = os.getppid()  # of an isolated plugin
    async with watching(tmp_path, NETCAT, repeat_time=0) as seen:
        await seen.feed(seen.exec(ppid=dispatcher))
        assert seen.alerts() == []
        child = Known(4242, 2, ticks=22, exe="/usr/sbin/usermod")
        ticks = started(dispatcher)
        ours = Known(dispatcher, 1, ticks=ticks, exe="/usr/bin/python3")
        reactor = Known(4100, 1, ticks=20, exe="/usr/bin/python3")
        chain = Enrichment(process=child, parents=(reactor, ours), parents_end="root")
        await seen.feed(seen.exec(), contexts=[chain])
        assert seen.alerts() == []
        # The number alone is nobody: another process had it before.
        other = attrs.evolve(chain, parents=(reactor, attrs.evolve(ours, ticks=ticks - 1)))
        await seen.feed(seen.exec(), contexts=[other])
        assert len(seen.alerts("netcat")) == 1
        # What another host calls so is not ours.
        await seen.feed(seen.exec(ppid=dispatcher), source="web1")
        assert len(seen.alerts("netcat")) == 2


async def test_a_parent_that_no_record_told_of(tmp_path: Path) -> None:
    shell = rule(
        "s:\n  ParentImage|endswith: /nginx\n  Image|endswith: /nc\ncondition: s",
        name="web",
        source="category: process_creation",
    )
    async with watching(tmp_path, shell) as seen:
        nginx = Known(4200, 1, ticks=11, exe="/usr/sbin/nginx")
        context = Enrichment(process=Known(4242, 2, ticks=22), parents=(nginx,), parents_end="root")
        await seen.feed(seen.exec(), contexts=[context])
        assert len(seen.alerts("web")) == 1


def started(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def whole(lines: list[bytes]) -> list[dict[str, Any]]:
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def test_without_the_optional_packages_the_plugin_can_say_so() -> None:
    """Its module is imported to read its settings; only when it opens is there something to say."""
    program = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "for name in ('ahocorasick_rs', 're2', 'sigma'): sys.modules[name] = None\n"
        "import audisp.hids.plugin as plugin; print(plugin.audisp_plugins()[0].name)\n"
    )
    words = [sys.executable, "-I", "-c", program, str(ROOT), str(ROOT / "plugins")]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "hids\n"
