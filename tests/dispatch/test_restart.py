"""When a plugin that ended is started again."""

from __future__ import annotations

import pytest

from audisp.dispatch.restart import FORGIVE_AFTER, Restarts


def test_the_first_restart_is_at_once_and_the_next_ones_wait_longer_and_longer() -> None:
    restarts = Restarts(10, 0.1, 1.0)
    assert [restarts.next_delay() for _ in range(7)] == [0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_after_max_restarts_it_is_given_up() -> None:
    restarts = Restarts(3, 0.1, 1.0)
    assert [restarts.next_delay() is None for _ in range(5)] == [False, False, False, True, True]
    assert restarts.total == 3


def test_zero_restarts_means_none() -> None:
    assert Restarts(0, 0.1, 1.0).next_delay() is None


def test_running_well_earns_restarts_back() -> None:
    restarts = Restarts(2, 0.1, 1.0)
    for _ in range(20):
        restarts.ran(FORGIVE_AFTER)
        assert restarts.next_delay() == 0.0
    assert restarts.total == 20
    restarts.ran(FORGIVE_AFTER / 2)
    assert restarts.counted == pytest.approx(0.5)


def test_a_plugin_that_dies_soon_earns_nothing_worth_having() -> None:
    restarts = Restarts(10, 0.0, 1.0)
    starts = 0
    while restarts.next_delay() is not None:
        restarts.ran(0.05)
        starts += 1
    assert starts == 10
