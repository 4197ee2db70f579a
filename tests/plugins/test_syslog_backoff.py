"""When somebody who is away is tried again, and what is said about it."""

from __future__ import annotations

import pytest

from audisp.plugin import Retry
from audisp_plugins.backoff import FIRST, MOST, SPREAD, Backoff
from audisp_plugins.presence import Presence
from tests.plugins.booking import BookingHost
from tests.plugins.logs import Clock


def test_delays_double_up_to_a_limit_and_begin_anew() -> None:
    clock = Clock()
    backoff = Backoff(clock)
    assert backoff.left() == 0
    for _ in range(2):
        expected = FIRST
        for _ in range(12):
            backoff.failed()
            assert expected * (1 - SPREAD) <= backoff.left() <= expected * (1 + SPREAD)
            clock.now += backoff.left() / 2
            assert backoff.left() > 0
            clock.now += MOST * 2
            assert backoff.left() == 0
            expected = min(expected * 2, MOST)
        backoff.worked()
        assert backoff.left() == 0


def test_a_fleet_does_not_come_back_in_one_moment() -> None:
    clock = Clock()
    delays = set()
    for _ in range(50):
        backoff = Backoff(clock)
        backoff.failed()
        delays.add(backoff.left())
    assert len(delays) > 40


def test_each_reason_is_said_once(host: BookingHost) -> None:
    presence = Presence("server", host)
    for reason in ("refused", "refused", "no route", "refused"):
        assert str(presence.away(reason)) == f"server: {reason}"
        with pytest.raises(Retry, match=rf"server: {reason}; tried again in \d+\.\d s"):
            presence.wait_turn()
    assert presence.status == "away: refused"
    presence.here("connected", steady=False)
    presence.here("connected")
    presence.wait_turn()
    assert presence.status == "connected"
    assert [message for _, message in host.said] == [
        "server is away: refused; records wait",
        "server is away: no route; records wait",
        "server is away: refused; records wait",
        "server is back",
    ]
    assert host.counts == {"reconnects": 1}
    assert str(presence.slow(2)) == "server: has not taken everything in 2 s"
