"""Memory stays within its bound whatever is stopped, and whatever the blocks look like (issue 2, item 6)."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from tests.needs import needs
from tests.soak.memory import SHAPES, Shape, run_shape

pytestmark = needs("root", "gcc")


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[4]], ids=lambda shape: shape.name)
def test_peak_memory(folder: Path, shape: Shape) -> None:
    result = run_shape(folder, 5, attrs.evolve(shape, queue=min(shape.queue, 1 << 19), children=2))
    assert result.problems == []
