"""Fuzzing in short: what was found once, hypothesis on every target, and atheris for as long as CI gives it (issue 3,
item 4). The long form is `make soak` (a million inputs a target)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.run import FOUND
from tests.fuzz.targets import TARGETS, seeds
from tests.needs import ROOT

CI_SECONDS: Final = 30
SECONDS: Final = CI_SECONDS if os.environ.get("AUDISP_CI") else 3
"""Per target."""
ATHERIS: Final = (
    *("record", "value", "lines", "frames", "forms", "assemble", "event", "sockaddr", "interpret", "filter"),
    *("enriched-form", "shapes"),
)
"""Targets that CI fuzzes by coverage; the others have hypothesis here and atheris in the soak."""

# Field names, quotes, hexadecimal digits and separators between arbitrary bytes.
# fmt: off
WORDS = st.sampled_from([
    b"a0=", b"a1[0]=", b"argc=2", b"saddr=0200", b'"', b"'", b"msg='", b"\x1d", b"{ ", b" }", b"=", b" ", b"\n", b"(",
    b"\x00\x01", b"\x04\x01", b"\x08\x02", b"res=success", b"auid=4294967295", b"arch=c000003e syscall=59 ", b"2F62",
    b"avc:  denied  { read } for ", b"name=", b"key=6101", b"exit=-13", b"UID=", b"items=2", b")", b"\\", b",",
])
# fmt: on
DATA = st.lists(st.one_of(WORDS, st.binary(max_size=12)), max_size=40).map(b"".join)


@pytest.mark.parametrize("name", TARGETS)
def test_hypothesis(name: str) -> None:
    @settings(max_examples=150, deadline=None)
    @given(DATA)
    def run(data: bytes) -> None:
        TARGETS[name](data)

    for data in seeds():
        TARGETS[name](data)
    run()


@pytest.mark.parametrize(
    "path", sorted(path for path in FOUND.iterdir() if path.suffix != ".md"), ids=lambda path: path.name
)
def test_what_was_found_once(path: Path) -> None:
    data = path.read_bytes()
    for run in TARGETS.values():
        run(data)


@pytest.mark.timeout(900)
def test_atheris() -> None:
    pytest.importorskip("atheris", reason="needs atheris (pip install 'audisp[test]')")
    # From a process of its own: a program that pytest starts itself begins with pytest's own peak of memory.
    argv = [sys.executable, "-m", "tests.fuzz.run", *ATHERIS, "--seconds", str(SECONDS), "--seed", "7"]
    if SECONDS == CI_SECONDS:
        argv += ["--side-by-side", "1"]  # the other tests run at the same time
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    output = done.stdout
    assert done.returncode == 0, output + done.stderr
    assert output.count(" inputs, peak ") == len(ATHERIS)
