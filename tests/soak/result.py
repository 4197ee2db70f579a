"""What a part of the soak found."""

from __future__ import annotations

import attrs


@attrs.define
class Result:
    """problems empty: it is as required."""

    part: str
    seed: int
    figures: dict[str, object] = attrs.field(factory=dict)
    problems: list[str] = attrs.field(factory=list)

    def check(self, holds: bool, problem: str) -> None:
        """Enter the problem unless it holds."""
        if not holds:
            self.problems.append(problem)
