"""`make soak ARGS=interop` in short: Debian's audisp-remote and auditd with ours, with kills, record by record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.needs import needs
from tests.soak.forward import disk
from tests.soak.interop import Compared, ours_to_theirs, their_kills, theirs_to_ours
from tests.soak.result import Result

pytestmark = [needs("root", "auditd", "audisp-remote"), pytest.mark.timeout(180, func_only=True)]


@pytest.mark.parametrize("way", [theirs_to_ours, their_kills, ours_to_theirs])
def test_nothing_is_lost_between_our_programs_and_theirs(
    folder: Path, way: Callable[[Path, int, int, int], Result]
) -> None:
    with disk(folder / "disk") as mount:
        assert way(mount, 2026, 1_000, 2).problems == []


def test_the_comparison_sees_what_is_wrong() -> None:
    one, two, three = (b"type=A msg=audit(1.000:%d): n=%d\n" % (n, n) for n in (1, 2, 3))
    sent = [one, two, three]
    assert Compared.of(sent, sent) == Compared(0, 0, 0, [], True)
    assert Compared.of(sent, [one, three]) == Compared(1, 0, 0, [], True)
    assert Compared.of(sent, [one, two, two, three]) == Compared(0, 1, 0, [], True)
    assert Compared.of(sent, [two, one, three]) == Compared(0, 0, 0, [], False)
    assert Compared.of(sent, [one, two[:9] + b"\n", two, three]) == Compared(0, 0, 1, [], True)
    assert Compared.of(sent, [one, two.replace(b"A", b"B"), three]) == Compared(
        1, 0, 0, [two.replace(b"A", b"B")], True
    )
