from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import attrs
import pytest

from audisp.errors import StoreError
from audisp.sources.position import SLOT_STRIDE, Position, PositionFile, position_name
from tests.needs import ROOT


def position(number: int) -> Position:
    stamp = (1_700_000_000 + number, number % 1000, number)
    return Position(1, 2, number, 3, 4, bytes([number % 256]) * 16, b"t" * 16, stamp, stamp, number)


def test_what_was_stored_is_found(tmp_path: Path) -> None:
    for number in range(1, 6):
        with PositionFile(tmp_path / "p", "follow:/a") as kept:
            assert not kept.spoiled
            assert kept.found == (position(number * 10 - 10) if number > 1 else None)
            for each in range(number, number * 10 + 1):
                kept.store(position(each))
    facts = (tmp_path / "p").stat()
    assert facts.st_mode & 0o777 == 0o600
    assert facts.st_size == 2 * SLOT_STRIDE


def test_another_log_has_another_position(tmp_path: Path) -> None:
    with PositionFile(tmp_path / "p", "follow:/a") as kept:
        kept.store(position(7))
    with PositionFile(tmp_path / "p", "follow:/b") as kept:
        assert kept.found is None
        assert kept.spoiled
    names = {position_name(f"follow:/var/log/{name}") for name in ("a b", "a_b", "a/b", "a" * 300, "a" * 301, "é")}
    assert len(names) == 6
    assert all(name.startswith("position-follow_var_log") and "/" not in name and len(name) < 100 for name in names)


def test_a_slot_half_written_leaves_the_position_before(tmp_path: Path) -> None:
    with PositionFile(tmp_path / "p", "s") as kept:
        kept.store(position(1))
        kept.store(position(2))
    whole = (tmp_path / "p").read_bytes()
    chance = random.Random(3)
    for _ in range(300):
        data = bytearray(whole)
        slot = chance.randrange(2)  # 2 is in the first, 1 in the second
        at = slot * SLOT_STRIDE + chance.randrange(150)
        data[at] ^= 1 << chance.randrange(8)
        (tmp_path / "p").write_bytes(data)
        with PositionFile(tmp_path / "p", "s") as kept:
            assert kept.found == position(1 if slot == 0 else 2)
            kept.store(position(5))
        with PositionFile(tmp_path / "p", "s") as kept:
            assert kept.found == position(5)


@pytest.mark.parametrize("data", [b"", bytes(1024), b"x", b"x" * 5000])
def test_what_is_none_of_ours_counts_for_nothing(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "p").write_bytes(data)
    with PositionFile(tmp_path / "p", "s") as kept:
        assert kept.found is None
        assert kept.spoiled == any(data)
        kept.store(position(1))
    with PositionFile(tmp_path / "p", "s") as kept:
        assert kept.found == position(1)


def test_numbers_that_do_not_fit_are_cut(tmp_path: Path) -> None:
    odd = attrs.evolve(position(1), last=(10**20 - 1, 999, 10**20 - 1), since=-1)
    with PositionFile(tmp_path / "p", "s") as kept:
        kept.store(odd)
    with PositionFile(tmp_path / "p", "s") as kept:
        assert kept.found == attrs.evolve(odd, last=(2**64 - 1, 999, 2**64 - 1), since=0)


def test_a_file_that_cannot_be_kept_is_an_error_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("p")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo", ".", "gone/p"):
        with pytest.raises(StoreError, match=str(tmp_path)):
            PositionFile(tmp_path / name, "s")
    assert not (tmp_path / "p").exists()


def test_who_is_killed_leaves_a_whole_position(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from audisp.sources.position import *\n"
        "kept = PositionFile(Path(sys.argv[1]), 's')\n"
        "n = 0\n"
        "print('go', flush=True)\n"
        "while True:\n"
        "    n += 1\n"
        "    hashed = n.to_bytes(16, 'big')\n"
        "    kept.store(Position(n, n, n, n, n, hashed, hashed, (n, n, n), (n, n, n), n))\n"
    )
    before = 0
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "p")], stdout=subprocess.PIPE, cwd=ROOT
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"go\n"
            time.sleep(0.01)
            child.kill()
        with PositionFile(tmp_path / "p", "s") as kept:
            found = kept.found
        if found is not None:
            n = found.offset
            number = n.to_bytes(16, "big")
            assert found == Position(n, n, n, n, n, number, number, (n, n, n), (n, n, n), n)
            before = n
    assert before
