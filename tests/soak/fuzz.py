"""The long form of fuzzing: so many inputs for every target (issue 3, item 4)."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from tests.fuzz.run import main
from tests.fuzz.targets import TARGETS
from tests.soak.result import Result


def fuzz(_folder: Path, seed: int, runs: int) -> list[Result]:
    """Each target by coverage, two side by side."""
    results = []
    for name in TARGETS:
        result = Result(f"fuzz {name}", seed)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            code = main([name, "--runs", str(runs), "--seed", str(seed)])
        said = output.getvalue()
        found = re.search(r"([\d,]+) inputs, peak (\S+) MiB", said)
        if code or found is None:
            result.problems.append(said[-2_000:])
        else:
            result.figures |= {"inputs": found[1], "peak MiB": found[2]}
        results.append(result)
    return results
