"""SIGKILL at seeded moments under load: every record is delivered, or stated as lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.needs import needs
from tests.soak.kills import kill_child, kill_dispatcher, kill_reader

pytestmark = needs("root", "gcc")


@pytest.mark.parametrize("seed", [1, 12])
def test_a_killed_child_costs_nobody_a_record(folder: Path, seed: int) -> None:
    # Seed 1 has a queue that overflows; seed 12 has one that spills, and binary form.
    result = kill_child(folder, seed, 5)
    assert result.problems == []
    assert result.figures["runs"] == 6


def test_a_killed_dispatcher_states_what_it_lost_and_keeps_what_was_on_disk(folder: Path) -> None:
    result = kill_dispatcher(folder, 3, 2)
    assert result.problems == []
    assert result.figures["on disk at most"] != 0


def test_a_killed_reader_of_our_socket_costs_the_other_nothing(folder: Path) -> None:
    result = kill_reader(folder, 4, 3)
    assert result.problems == []
