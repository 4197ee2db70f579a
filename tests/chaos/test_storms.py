"""A full disk, reloads, bad programs, many plugins, curious clients, a stopped plugin: under load, in short."""

from __future__ import annotations

from pathlib import Path

from tests.needs import needs
from tests.soak.clocks import clock_jumps
from tests.soak.stall import stall
from tests.soak.storms import bad_programs, curious, full_disk, many_plugins, reload_storm

pytestmark = needs("root", "gcc")


def test_a_source_waits_for_a_required_log_on_a_full_disk(folder: Path) -> None:
    assert full_disk(folder, 1, 1).problems == []


def test_reloads_lose_and_double_nothing(folder: Path) -> None:
    assert reload_storm(folder, 2, 15).problems == []


def test_bad_programs_cost_themselves_alone(folder: Path) -> None:
    assert bad_programs(folder, 3, 1).problems == []


def test_many_plugins_at_once(folder: Path) -> None:
    assert many_plugins(folder, 4, 20).problems == []


def test_clients_of_the_control_socket_do_not_disturb_the_stream(folder: Path) -> None:
    assert curious(folder, 5, 5).problems == []


def test_a_jumping_clock_changes_stamps_alone(folder: Path) -> None:
    assert clock_jumps(folder, 8, 6).problems == []


def test_a_stopped_plugin_is_told_what_it_missed_and_its_neighbours_miss_nothing(folder: Path) -> None:
    assert stall(folder, 6, 1, rate=3_000).problems == []
