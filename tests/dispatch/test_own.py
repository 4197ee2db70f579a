"""Our share of a stream that we do not own."""

from __future__ import annotations

import os

import pytest

from audisp.dispatch.own import FEWEST, WINDOW, OwnActivity
from audisp.record import Block
from tests.dispatch.voices import Said


def calls(pid: int, count: int) -> Block:
    one = b"type=SYSCALL msg=audit(1.000:5): arch=c000003e syscall=0 ppid=1 pid=%d auid=0 uid=0\n" % pid
    return Block(
        one * count + b"type=USER msg=audit(1.000:5): pid=%d uid=0 auid=1\n" % pid, count + 1, "multicast", 0.0
    )


def test_our_own_calls_and_our_childrens_are_counted() -> None:
    own = OwnActivity(Said(), 20)
    own.see(calls(os.getpid(), 3))
    own.see(calls(1234567, 5))
    assert (own.ours, own.total) == (3, 8)
    own.watch([1234567])
    own.see(calls(1234567, 5))
    own.see(calls(12345678, 5))
    assert (own.ours, own.total) == (8, 18)


@pytest.mark.parametrize(("ours", "warn", "loud"), [(50, 20, True), (10, 20, False), (50, 0, False), (21, 20, True)])
def test_a_large_share_for_a_while_is_warned_of_once_with_the_rule(ours: int, warn: int, loud: bool) -> None:
    said = Said()
    own = OwnActivity(said, warn)
    for _ in range(3 * WINDOW):
        own.see(calls(os.getpid(), ours))
        own.see(calls(1, 100 - ours))
        own.tick()
    assert round(own.share()) == ours
    assert len(said.lines) == loud
    if loud:
        assert said.heard(f"{ours} % of the audited system calls", "warning")
        assert said.heard(f"auditctl -A never,exit -F pid={os.getpid()}")


def test_a_share_of_nearly_nothing_says_nothing() -> None:
    said = Said()
    own = OwnActivity(said, 20)
    for _ in range(3 * WINDOW):
        own.see(calls(os.getpid(), FEWEST // (2 * WINDOW)))
        own.tick()
    assert own.share() == 100.0
    assert not said.lines
