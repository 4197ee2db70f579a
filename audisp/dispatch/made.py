"""A plugin's type and settings, made before it is opened, and the files that its settings are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from audisp.config.plugins import PluginConf
from audisp.plugin import PluginType

ITS_FILES: Final = Path("its files")
"""Stands for all files of an isolated plugin, which its own process looks at."""


@attrs.frozen
class Made:
    """What `plugin =` and the plugin's own keys come to. files: as they were; a reload that finds others starts the
    plugin anew."""

    type: PluginType
    settings: Any
    files: Mapping[Path, object] = attrs.field(factory=dict)


def isolated(conf: PluginConf) -> bool:
    """Whether the plugin is code of Python's that is to run in a process of its own."""
    return conf.plugin is not None and conf.isolation == "process"


def files_of(settings: object) -> dict[Path, object]:
    """Files that the plugin's schema says its settings are made of beside plugins.d: a method `files` of it."""
    asked = getattr(settings, "files", None)
    return {Path(path): stamp_of(Path(path)) for path in asked()} if callable(asked) else {}


def stamp_of(path: Path) -> object:
    """What changes when a file does; None if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def stamp(files: Mapping[Path, object]) -> bytes:
    """All of them in a few bytes; none for none."""
    return hashlib.sha256(repr(sorted(files.items(), key=str)).encode()).digest() if files else b""
