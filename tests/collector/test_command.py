"""The command line's own parts: times, and the table of hosts."""

from __future__ import annotations

import json
import shutil
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from audisp.cli.collector import main, moment, table
from audisp.collector.store import Store
from audisp.collector.store_frames import Unnumbered
from audisp.errors import ConfigError

NOW = 1_764_187_200.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1764187200", 1_764_187_200_000),
        ("0", 0),
        ("30s", 1_764_187_170_000),
        ("2h", 1_764_180_000_000),
        ("1w", 1_763_582_400_000),
        ("99999w", 0),
    ],
)
def test_moments(text: str, expected: int) -> None:
    assert moment(text, NOW) == expected


@pytest.mark.parametrize("text", ["2026-11-26T19:05:00", "2026-11-26 19:05", "2026-11-26T19:05"])
def test_moments_of_the_clock_are_local(text: str) -> None:
    assert moment(text, NOW) == int(datetime(2026, 11, 26, 19, 5).timestamp()) * 1_000


@pytest.mark.parametrize("text", ["", "soon", "5", "-5s", "5y", "2026-13-01", "٣s", "9" * 400 + "x", "1e3"])
def test_what_is_no_moment_is_told(text: str) -> None:
    if text == "5":
        assert moment(text, NOW) == 5_000
        return
    with pytest.raises(ConfigError, match="is no time"):
        moment(text, NOW)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration and a store of two hosts, whose events have the same stamps and came in turn."""
    tmp_path.chmod(0o750)
    conf = tmp_path / "audisp-collector.conf"
    conf.write_text(f"transport = tcp\nstore_dir = {tmp_path}/store\nruntime_dir = {tmp_path}/run\n")
    conf.chmod(0o640)
    with Store(tmp_path / "store") as store:
        for n in range(1, 4):
            for kind in ("SYSCALL", "CWD"):
                for host, name in (("one", "/one"), ("two", "/two")):
                    text = 'syscall=59 success=yes exit=0 comm="x"' if kind == "SYSCALL" else f'cwd="{name}"'
                    data = f"type={kind} msg=audit({1_700_000_000 + n}.000:{n}): arch=c000003e {text}\n".encode()
                    store.append(Unnumbered(host, data, time.time_ns()))
        store.commit()
    return tmp_path


def test_cat_of_one_host_and_of_a_time(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["cat", "-c", str(folder), "--host", "two", "--since", "1700000002", "--until", "1700000002"]) == 0
    out = capfd.readouterr().out
    assert out.count("msg=audit(1700000002.000:2)") == 2
    assert out.count("\n") == 2
    assert "/one" not in out
    assert main(["cat", "-c", str(folder), "--host", "three"]) == 1


def test_events_of_hosts_are_not_mixed_up(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["cat", "-c", str(folder), "--shape", "laurel"]) == 0
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert sorted(event["CWD"]["cwd"] for event in events) == ["/one"] * 3 + ["/two"] * 3
    assert all("SYSCALL" in event for event in events)


def test_verify_tells_what_was_edited(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "-c", str(folder)]) == 0
    (segment,) = (folder / "store").glob("*.seg")
    data = bytearray(segment.read_bytes())
    data[-3] ^= 1
    segment.write_bytes(data)
    assert main(["verify", "-c", str(folder), "--host", "two"]) == 1
    assert "intact" in capfd.readouterr().out.splitlines()[0]


def test_without_a_collector_or_a_store(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["hosts", "-c", str(folder)]) == 1
    assert "no collector answers" in capfd.readouterr().err
    shutil.rmtree(folder / "store")
    for command in ("cat", "verify"):
        assert main([command, "-c", str(folder)]) == 2
    assert "there is no store" in capfd.readouterr().err
    assert main(["cat", "-c", str(folder / "nowhere")]) == 2


def row(**more: Any) -> dict[str, Any]:
    return {
        "host": "web1",
        "authenticated": True,
        "connections": [],
        "seen": NOW - 7_300,
        "lag": None,
        "rate": 1.25,
        "records": 1_234_567,
        "bytes": 10,
        "missing": 0,
        "removed": 0,
        "holes": 0,
        "retries": 0,
        "nodes": ["web1"],
        "flags": [],
    } | more


def test_the_table() -> None:
    connection = {"protocol": "native", "address": "10.0.0.1"}
    lines = table(
        [
            row(connections=[connection], lag=1_000),
            row(host="addr:10.0.0.2", authenticated=False, nodes=["a", "b"], holes=2, seen=None),
        ],
        NOW,
    )
    assert [" ".join(line.split()) for line in lines] == [
        "HOST PROTOCOL FROM LAG RATE RECORDS MISSING SEEN",
        "web1 native 10.0.0.1 1,000 1.2/s 1,234,567 0 2h ago",
        "addr:10.0.0.2 - - - 1.2/s 1,234,567 0 never unauthenticated; says to be 2 nodes: a, b; 2 holes",
    ]
    assert len({line.index("native") if "native" in line else line.index("PROTOCOL") for line in lines[:2]}) == 1
