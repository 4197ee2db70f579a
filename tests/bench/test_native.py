"""The C programs count right: a benchmark that says "nothing missed" must be able to miss something."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from array import array
from pathlib import Path
from typing import Any

import pytest

from tests.bench.place import build
from tests.bench.process import wait_for
from tests.needs import needs

pytestmark = needs("gcc")


def event(serial: int, index: int, born: int) -> bytes:
    """The three records of one call of gen.c, as the kernel and a dispatcher make them."""
    stamp = b"msg=audit(1700000000.123:%d):" % serial
    return (
        b"type=SYSCALL %b arch=c000003e syscall=110 success=yes exit=1 a0=%x a1=%x a2=61756469 a3=0 items=0\n"
        b"type=PROCTITLE %b proctitle=67656E\ntype=EOE %b \n" % (stamp, born, index, stamp, stamp)
    )


OTHER = (
    b"type=DAEMON_START msg=audit(1700000000.123:5): op=start ver=1\n"
    b"type=CONFIG_CHANGE msg=audit(1700000000.123:1): op=set\n"
    b"type=SYSCALL msg=audit(1700000000.123:1): arch=c000003e syscall=44 success=yes exit=1 a0=3 a1=7 a2=2c a3=0\n"
    b"type=PROCTITLE msg=audit(1700000000.123:1): proctitle=617564697464\n"
    b"type=EOE msg=audit(1700000000.123:1): \n"
)
LOST = b"type=DAEMON_ERR msg=audit(1700000001.000:6): op=lost plugin=sink1 count=42 first=3 last=16 reason=overflow\n"


@pytest.fixture(scope="module")
def sink(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled sink."""
    return build("sink", tmp_path_factory.mktemp("native"))


def fed(sink: Path, tmp_path: Path, *pieces: bytes) -> dict[str, Any]:
    """The sink's report on these pieces, 20 ms apart."""
    report = tmp_path / "report.json"
    with subprocess.Popen([sink, report, tmp_path / "times"], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        for number, piece in enumerate(pieces):
            if number:
                time.sleep(0.02)
            process.stdin.write(piece)
            process.stdin.flush()
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def test_sink_knows_what_is_missing(sink: Path, tmp_path: Path) -> None:
    born = time.monotonic_ns()
    found = fed(sink, tmp_path, OTHER + event(10, 0, born) + event(11, 1, born), event(15, 5, born) + LOST)
    assert found["records"] == 5 + 3 * 3 + 1
    assert found["daemon_records"] == 2
    assert (found["events"], found["event_records"]) == (3, 9)
    assert (found["missing"], found["gaps"], found["doubled"]) == (3, 1, 0)
    assert found["lost_marked"] == 42


def test_sink_counts_a_torn_event_by_record(sink: Path, tmp_path: Path) -> None:
    lines = event(10, 0, 1).splitlines(keepends=True)
    found = fed(sink, tmp_path, lines[0] + event(11, 1, 1) + lines[1] + event(12, 2, 1))
    assert (found["events"], found["event_records"]) == (3, 8)


def test_sink_counts_what_is_left_of_an_event(sink: Path, tmp_path: Path) -> None:
    lines = event(11, 1, 1).splitlines(keepends=True)
    found = fed(sink, tmp_path, event(10, 0, 1) + lines[1] + lines[2] + event(12, 2, 1))
    assert (found["events"], found["event_records"], found["missing"]) == (2, 8, 1)


def test_sink_counts_what_comes_twice(sink: Path, tmp_path: Path) -> None:
    found = fed(sink, tmp_path, event(10, 0, 1) + event(11, 1, 1) + event(10, 0, 1))
    assert (found["events"], found["doubled"], found["missing"]) == (3, 1, 0)


def test_sink_joins_what_is_cut_anywhere(sink: Path, tmp_path: Path) -> None:
    stream = event(10, 0, 1) + event(11, 1, 1)
    found = fed(sink, tmp_path, stream[:40], stream[40:170], stream[170:])
    assert (found["records"], found["event_records"], found["bytes"]) == (6, 6, len(stream))


def catches(pid: int, number: int) -> bool:
    """Whether a process has a function of its own for a signal."""
    found = re.search(r"SigCgt:\s+([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
    return found is not None and bool(int(found[1], 16) >> (number - 1) & 1)


def asked(process: subprocess.Popen[bytes], report: Path, events: int) -> None:
    """Ask the running sink until it reports so many events. One signal may be lost between its look and its read()."""
    wait_for("the sink to listen", lambda: catches(process.pid, signal.SIGUSR1), 20)

    def reported() -> bool:
        process.send_signal(signal.SIGUSR1)
        return report.exists() and json.loads(report.read_text())["events"] == events

    wait_for(f"{events} events", reported, 20)


def test_sink_measures_delay_and_pause(sink: Path, tmp_path: Path) -> None:
    report, born = tmp_path / "report.json", time.monotonic_ns()
    with subprocess.Popen([sink, report, tmp_path / "times"], stdin=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        process.stdin.write(event(10, 0, born))
        asked(process, report, 1)
        first = json.loads(report.read_text())
        process.stdin.write(event(11, 1, born))
    found = json.loads(report.read_text())
    words = array("Q", (tmp_path / "times").read_bytes())
    assert list(words[::2]) == [0, 1]
    assert all(born < when <= time.monotonic_ns() for when in words[1::2])
    assert words[3] == found["last_event_ns"] > first["last_event_ns"]
    assert found["pause_ms"] == pytest.approx((words[3] - words[1]) / 1e6, abs=0.001)
    assert found["max_us"] == (words[3] - born) // 1000


def test_sink_reports_when_asked_and_on_sigterm(sink: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with subprocess.Popen([sink, report], stdin=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        process.stdin.write(event(10, 0, 1))
        asked(process, report, 1)
        process.stdin.write(event(11, 1, 1))
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert json.loads(report.read_text())["events"] == 2


def test_gen_makes_as_many_calls_as_asked(tmp_path: Path) -> None:
    gen = build("gen", tmp_path)
    done = subprocess.run([gen, "50", "1000"], capture_output=True, text=True, check=True, timeout=30)
    said = json.loads(done.stdout)
    assert said["calls"] == 50
    assert said["end_ns"] - said["start_ns"] >= 49e6
    assert said["worst_call_ms"] > 0


def test_gen_ends_early_when_told(tmp_path: Path) -> None:
    gen = build("gen", tmp_path)
    with subprocess.Popen([gen, "1000000", "100"], stdout=subprocess.PIPE, text=True) as process:
        wait_for("gen to listen", lambda: catches(process.pid, signal.SIGTERM), 10)
        process.terminate()
        said = json.loads(process.communicate(timeout=10)[0])
    assert said["calls"] < 1_000_000


def test_programs_compile_without_a_warning(tmp_path: Path) -> None:
    assert build("reader", tmp_path).stat().st_mode & 0o777 == 0o750
