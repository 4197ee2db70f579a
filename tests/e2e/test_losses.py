"""Losses, made on purpose on the real kernel: each is counted, and the ranges reported are those that are missing."""

from __future__ import annotations

import itertools
import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.daemons import Auditd, Child, Ours, add_plugin, lines_of, serials_of, sink, size_of, work, workload
from tests.e2e.stream import auditctl, calls_rule, wait_for, wait_quiet
from tests.needs import needs

pytestmark = [needs("root", "auditd"), pytest.mark.timeout(180, func_only=True), pytest.mark.usefixtures("audit")]

Ranges = list[tuple[int, int]]


def missing_in(serials: list[int]) -> Ranges:
    """The ranges between the lowest and the highest that are not there."""
    found: Ranges = []
    known = sorted(set(serials))
    for before, after in itertools.pairwise(known):
        if after > before + 1:
            found.append((before + 1, after - 1))
    return found


def ranges_of(books: dict[str, object]) -> Ranges:
    """Those that a source reports."""
    ranges = books["lost_ranges"]
    assert isinstance(ranges, list)
    return sorted((first, last) for first, last in ranges)


def records_in(log: Path, mark: bytes) -> int:
    """Records of the kernel that auditd had from the mark on, the mark itself included: those in its log, and one EOE
    for each event of more than one record."""
    lines = [line for line in lines_of(log) if b"type=DAEMON_" not in line[:60]]
    first = next(number for number, line in enumerate(lines) if mark in line)
    calls = sum(line.startswith(b"type=SYSCALL ") for line in lines[first:])
    return len(lines) - first + calls


def test_beside_auditd_at_full_speed(tmp_path: Path) -> None:
    """With its own receive buffer a listener misses nothing of what the owner has."""
    calls_rule()
    auditd = Auditd(tmp_path / "auditd")
    ours = Ours(tmp_path / "ours", "--source", "multicast")
    log = tmp_path / "ours.log"
    add_plugin(ours.folder, "log", plugin="log", log_file=log)
    with auditd, ours:
        auditctl("-m", "mark-of-begin")
        work("calls", 20_000)
        wait_quiet(lambda: (size_of(auditd.log), size_of(log)))
        books = ours.source("multicast")
        assert ranges_of(books) == []
        assert "socket_drops" not in books["counters"]
        ours.assert_balanced()
    lines = {"ours": lines_of(log), "theirs": lines_of(auditd.log)}
    for name, found in lines.items():
        first = next(number for number, line in enumerate(found) if b"mark-of-begin" in line)
        lines[name] = [line for line in found[first:] if b' key="calls"' in line or b"type=PROCTITLE" in line]
    assert sum(b' key="calls"' in line for line in lines["theirs"]) == 20_000
    # Their log goes on for as long as our going is an event of its own.
    assert lines["theirs"][: len(lines["ours"])] == lines["ours"]
    assert sum(b' key="calls"' in line for line in lines["ours"]) == 20_000


def test_what_a_small_buffer_drops_is_counted(tmp_path: Path) -> None:
    """received + dropped is exactly what the owner had."""
    calls_rule()
    auditd = Auditd(tmp_path / "auditd")
    with auditd, Ours(tmp_path / "ours", "--source", "multicast", own="rcvbuf = 64K\n") as ours:
        wait_quiet(lambda: ours.source("multicast")["received"])
        before = ours.source("multicast")
        auditctl("-m", "mark-of-begin")
        work("calls", 2_000)
        ours.send(signal.SIGSTOP)
        work("calls", 2_000)
        ours.send(signal.SIGCONT)
        work("calls", 2_000)
        wait_quiet(lambda: size_of(auditd.log), 1.5)  # the drops are asked for once a second
        after = ours.source("multicast")
        had = records_in(auditd.log, b"mark-of-begin")
        received = after["received"] - before["received"]
        dropped = after["counters"]["socket_drops"] - before["counters"].get("socket_drops", 0)
        assert received + dropped == had >= 18_000
        assert dropped > 1_000
        assert after["counters"]["overflows"] >= 1
        assert after["counters"]["missing_serials"] > 300
        assert "events never came" in ours.said()
        ours.assert_balanced()


def test_the_owner_pauses(tmp_path: Path) -> None:
    """The kernel gives up on an owner that does not read, and tells nobody: its `lost` stays near nothing."""
    calls_rule()
    # Callers that wait for a full queue can sleep this out even when it has drained (dispatch-prototype.md section 6).
    auditctl("--backlog_wait_time", "250")
    with Ours(tmp_path / "ours", own="rcvbuf = 1M\n") as ours:
        work("calls", 1_000)
        with workload("calls", 60_000) as load:
            # In the middle of it, however fast the machine is.
            wait_for(lambda: ours.source("netlink")["received"] > 12_000, "the load runs")
            ours.send(signal.SIGSTOP)
            time.sleep(2.5)
            ours.send(signal.SIGCONT)
            assert load.wait(60) == 0
        wait_for(lambda: b"op=nudge" in ours.log.read_bytes(), "the kernel is nudged")
        work("calls", 1_000)
        wait_quiet(lambda: size_of(ours.log), 1.5)
        books = ours.source("netlink")
        assert books["counters"]["overflows"] >= 1
        assert books["counters"]["socket_full"] >= 1
        missing = missing_in(serials_of(ours.log))
        assert missing
        assert ranges_of(books) == missing
        assert books["counters"]["missing_serials"] == sum(last - first + 1 for first, last in missing)
        for first, last in missing:
            assert re.search(rf"serials .*\b{first}-{last}\b", ours.said()) or first == last
        ours.assert_balanced()


def test_silence_after_a_burst_is_broken(tmp_path: Path) -> None:
    """A process held by the full backlog may sleep on when it has drained, until anybody's next record: we make one."""
    calls_rule()
    auditctl("-b", "512")
    with Ours(tmp_path / "ours") as ours:
        work("calls", 20)
        wait_quiet(lambda: size_of(ours.log), 1.5)
        assert b"op=nudge" not in ours.log.read_bytes()
        work("calls", 4_000)
        wait_for(lambda: b"op=nudge" in ours.log.read_bytes(), "the kernel is nudged")
        wait_quiet(lambda: size_of(ours.log), 2.5)
        assert ours.log.read_bytes().count(b"op=nudge") == 1
        assert ranges_of(ours.source("netlink")) == []
        ours.assert_balanced()


def test_the_owner_is_killed(tmp_path: Path) -> None:
    """What nobody read between two runs is known by its serials, to the event."""
    calls_rule()
    children = [Child("sink", sink(tmp_path, "sink", tmp_path / "kept"))]
    with workload("calls", 11_000, 4_000) as load:
        with Ours(tmp_path / "ours", children=children) as first:
            wait_for(lambda: first.source("netlink")["received"] > 6_000, "it runs")
            first.kill()
        time.sleep(0.5)
        with Ours(tmp_path / "ours", children=children) as second:
            assert load.wait(60) == 0
            wait_quiet(lambda: size_of(second.log), 1.0)
            books = second.source("netlink")
            missing = missing_in(serials_of(second.log))
            assert len(missing) == 1
            assert ranges_of(books) == missing
            assert books["counters"]["missing_serials"] == missing[0][1] - missing[0][0] + 1 > 500
            # The kernel says nothing of it.
            assert books["counters"].get("kernel_lost", 0) <= 3
            second.assert_balanced()
    # No record twice, none torn, in spite of the kill.
    lines = [line for line in lines_of(second.log) if b"type=DAEMON_" not in line[:60]]
    assert len(set(lines)) == len(lines)


def test_what_waited_is_lost_in_crash(tmp_path: Path) -> None:
    calls_rule()
    kept = tmp_path / "kept"
    children = [Child("sink", sink(tmp_path, "sink", kept))]
    with Ours(tmp_path / "ours", children=children) as first:
        (pid,) = first.plugin("sink")["pids"]
        os.kill(pid, signal.SIGSTOP)
        work("calls", 4_000)
        wait_quiet(lambda: first.plugin("sink")["waiting"], 1.5)
        waited = first.plugin("sink")["waiting"]
        assert waited > 8_000
        first.kill()
        os.kill(pid, signal.SIGCONT)
    with Ours(tmp_path / "ours", children=children) as second:
        status = second.status()
        # At least what the last books had, at most what there was; some of it the child still read from its socket.
        crash = status["lost_in_crash"]["sink"]
        assert 8_000 < crash["waiting"] <= waited
        assert crash["first"] in serials_of(second.log)
        assert f"records from serial {crash['first']} on may be missing" in second.said()
        assert second.source("netlink")["lost_ranges"] == []


def test_nobody_ran_in_between(tmp_path: Path) -> None:
    """An orderly end keeps the serial, too: what passed without an owner is reported at the next start."""
    calls_rule()
    with Ours(tmp_path / "ours") as ours:
        work("calls", 100)
    last = max(serials_of(ours.log))
    work("calls", 500)
    with Ours(tmp_path / "ours") as ours:
        work("calls", 100)
        wait_quiet(lambda: size_of(ours.log), 0.6)
        missing = missing_in(serials_of(ours.log))
        assert len(missing) == 1
        assert missing[0][0] == last + 1
        assert missing[0][1] - last >= 500
        assert ranges_of(ours.source("netlink")) == missing
