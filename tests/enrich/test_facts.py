"""Words of the configuration."""

from __future__ import annotations

import pytest

from audisp.enrich.facts import ALL, MAX_VARIABLES, PARTS, EnrichSettings, environment_names, part_names
from tests.needs import ROOT


def test_parts() -> None:
    assert part_names(("container", "Labels", "labels")) == {"container", "labels"}
    assert part_names(("none",)) == frozenset()
    assert part_names(PARTS) == ALL
    assert EnrichSettings().parts == ALL - {"environment"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("contaner",), r"'contaner' is none of container, .*labels \(did you mean 'container'\?\)"),
        (("none", "unit"), "'none' is none of"),
        (("\x1b[31m",), r"'\\x1b\[31m' is none of"),
    ],
)
def test_what_is_no_part(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        part_names(words)


def test_variables() -> None:
    assert environment_names(("B", "A", "B")) == ("B", "A")
    for word in ("A=1", "A\0", ""):
        with pytest.raises(ValueError, match="no name of an environment variable"):
            environment_names((word,))
    with pytest.raises(ValueError, match=str(MAX_VARIABLES)):
        environment_names(tuple(f"V{n}" for n in range(MAX_VARIABLES + 1)))


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_documented(part: str) -> None:
    assert f"| `{part}` |" in (ROOT / "docs/enrichment.md").read_text()
