"""The shapes there are. Each one's module is imported when it is asked for, and not before."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, cast

from audisp.shapes.shape import Shape, ShapeSettings

SHAPES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "raw": (),
        "enriched": (),
        "text": (),
        "csv": (),
        "laurel": ("0.5", "0.8"),
        "ecs": (),
        "ocsf": (),
        "cef": (),
    }
)
"""Every shape's name, with the versions that `shape_version` may name; the first is the default."""

WITH_CONTEXT: Final = frozenset({"laurel", "ecs", "ocsf", "cef"})
"""Those that tell what a live host knows of an event's process."""

_CLASSES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "raw": ("audisp.shapes.raw", "Raw"),
        "enriched": ("audisp.shapes.raw", "Enriched"),
        "text": ("audisp.shapes.text", "Text"),
        "csv": ("audisp.shapes.csv_columns", "Csv"),
        "laurel": ("audisp.shapes.laurel", "Laurel"),
        "ecs": ("audisp.shapes.ecs", "Ecs"),
        "ocsf": ("audisp.shapes.ocsf", "Ocsf"),
        "cef": ("audisp.shapes.cef", "Cef"),
    }
)


def make_shape(name: str, settings: ShapeSettings) -> Shape:
    """A new shape. Raises KeyError for a name that is not in SHAPES."""
    module, class_ = _CLASSES[name]
    return cast("Shape", getattr(importlib.import_module(module), class_)(settings))
