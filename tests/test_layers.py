"""Who may import whom (the table of rooms), how long a file may be, and which names say nothing.

Imports are read from the syntax tree, those inside functions and `if TYPE_CHECKING:` included: a layer that is crossed
for a type is crossed. Each rule is also shown a file that breaks it, so that a green run is not an empty one.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

import attrs
import pytest

from tests.needs import ROOT

MAX_LINES: Final = 600
"""No file is longer; what grows beyond has two jobs."""

EMPTY_WORDS: Final = frozenset({"manager", "handler", "helper", "util", "base", "common", "misc"})
"""Names that say nothing about what a thing is, in the singular."""

STDLIB: Final = sys.stdlib_module_names
# fmt: off
IO: Final = frozenset({
    "_socket", "asyncio", "fcntl", "http", "logging", "mmap", "multiprocessing", "os", "random", "secrets", "select",
    "selectors", "shutil", "signal", "socket", "socketserver", "ssl", "subprocess", "sys", "tempfile", "threading",
    "time", "urllib",
})
"""What a sans-IO room does without: files, sockets, clocks, chance, threads, the process it runs in."""
NETWORK: Final = frozenset({
    "asyncio", "http", "logging", "multiprocessing", "select", "selectors", "socket", "socketserver", "ssl", "urllib",
})
"""What may not be loaded by importing the plugin API, nor be needed to understand a setting."""
# fmt: on
OPENS: Final = frozenset({"open", "input", "print", "read_text", "read_bytes", "write_text", "write_bytes"})
"""Calls, as a builtin or as a method, that reach a file or a terminal."""
LOW: Final = frozenset({"record", "errors"})
PURE: Final = LOW | {"event", "parse", "shapes", "buffer", "wire"}


@attrs.frozen
class Room:
    """What the modules of one room may import.

    ours: rooms of audisp. packages: other people's packages. without: modules of the standard library it must not use.
    calls: builtins and methods it must not call. modules: of other rooms of audisp, what it may import all the same.
    """

    ours: frozenset[str]
    packages: frozenset[str]
    without: frozenset[str] = frozenset()
    calls: frozenset[str] = frozenset()
    modules: frozenset[str] = frozenset()


_low = Room(LOW, frozenset({"attrs"}), IO, OPENS)
_pure = attrs.evolve(_low, ours=PURE, packages=frozenset({"attrs", "msgpack", "zstandard", "orjson"}))
_plugin = Room(PURE, _pure.packages | {"pluggy"}, NETWORK)
_config = Room(PURE | {"config", "plugin"}, frozenset({"attrs"}), NETWORK | {"subprocess", "threading", "time"})
_shell_packages = _plugin.packages | {"trio"}
_sources = Room(PURE | {"plugin", "config", "sources"}, _shell_packages)
_engine = attrs.evolve(
    _sources,
    ours=_sources.ours | {"dispatch", "collector", "enrich", "search", "tls"},
    # The command line of the reactor, and nothing of what it does.
    modules=frozenset({"react.start"}),
)
_everything = _engine.ours | {"testing", "remote", "detect", "hids"}

ROOMS: Final = {
    **dict.fromkeys(LOW, _low),
    **dict.fromkeys(PURE - LOW, _pure),
    "plugin": _plugin,
    "config": _config,
    "sources": _sources,
    # Enrichment reads /proc and the user database in threads of its own; the engine feeds it, it knows no engine.
    "enrich": Room(LOW | {"event", "parse", "config", "enrich"}, frozenset({"attrs"}), NETWORK | {"subprocess"}),
    # Detection is pure; the shell around it reads rules, and is the only one to know pySigma, in a child.
    "detect": attrs.evolve(_pure, ours=PURE | {"detect"}, packages=_pure.packages | {"re2", "ahocorasick_rs"}),
    # What the reactor is asked for, and what is known of an event's process, are the only words of other rooms.
    "hids": attrs.evolve(
        _sources,
        ours=_sources.ours | {"detect", "hids"},
        packages=_shell_packages | {"sigma", "yaml"},
        modules=frozenset({"react.request", "react.head", "enrich.facts"}),
    ),
    "tls": attrs.evolve(_sources, ours=PURE | {"config", "tls"}, packages=_shell_packages),
    "dispatch": _engine,
    "collector": attrs.evolve(_engine, packages=_shell_packages | {"cryptography"}),
    # The sender is a program of its own, with the spool, the log and the actions of the dispatcher.
    "remote": attrs.evolve(_sources, ours=_sources.ours | {"dispatch", "tls", "remote"}),
    # What acts, with rights: it knows no engine, no event and no rule. Of other rooms only a private folder, what the
    # process may do, and whether a cgroup is a container's.
    "react": Room(
        LOW | {"config", "react"},
        frozenset({"attrs", "msgpack", "trio"}),
        frozenset({"asyncio", "logging", "multiprocessing", "random", "tempfile", "threading"}),
        modules=frozenset({"dispatch.folder", "dispatch.privileges", "parse.cgroup"}),
    ),
    "search": _engine,
    "testing": Room(_everything, _shell_packages | {"pytest", "hypothesis"}),
    "cli": Room(_everything | {"cli", "react"}, _shell_packages),
    # The package itself: its version, and nothing that importing it would have to load.
    "__init__": Room(frozenset(), frozenset()),
}
BUNDLED: Final = Room(
    frozenset({"plugin", "wire", "shapes", "tls"}), _shell_packages | {"cryptography", "audisp_plugins"}
)
"""plugins/audisp_plugins: what any stranger's plugin may import, and no more."""


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported; `from audisp import tls` gives audisp.tls."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "." * node.level + (node.module or "")
            elif node.module in ("audisp", "plugins"):
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
            elif node.module:
                yield node.lineno, node.module


def room_of(path: PurePosixPath) -> Room:
    """The room that a file of the checkout belongs to. KeyError for a room that the table does not know."""
    if path.parts[0] == "plugins":
        return BUNDLED
    return ROOMS[path.parts[1].removesuffix(".py")]


def crossings(path: PurePosixPath, source: str) -> list[str]:
    """What this file imports or calls that its room may not."""
    room = room_of(path)
    tree = ast.parse(source)
    found: list[str] = []
    for line, name in imports(tree):
        top, _, rest = name.partition(".")
        if top == "audisp":
            inside = rest.partition(".")[0] in room.ours or (rest == "__version__" and not room.without)
            inside = inside or rest in room.modules
        elif top in STDLIB:
            inside = top not in room.without
        else:
            inside = top in room.packages
        if not inside:
            found.append(f"{path}:{line}: may not import {name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if called in room.calls:
                found.append(f"{path}:{node.lineno}: may not call {called}()")
    return found


def empty_names(path: PurePosixPath, source: str) -> list[str]:
    """The file's own name and those of its classes, where a word of them says nothing."""
    classes = [node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    return [
        f"{path}: {name} says nothing: {word}"
        for name in (*path.with_suffix("").parts, *classes)
        for word in re.findall(r"[A-Z]?[a-z]+", name)
        if word.lower() in EMPTY_WORDS or word.lower().removesuffix("s") in EMPTY_WORDS
    ]


def _files(*folders: str) -> list[PurePosixPath]:
    return sorted(
        PurePosixPath(path.relative_to(ROOT).as_posix()) for folder in folders for path in (ROOT / folder).rglob("*.py")
    )


PACKAGE: Final = _files("audisp", "plugins")
ALL: Final = _files("audisp", "plugins", "tests", "tools")


def _read(path: PurePosixPath) -> str:
    return (ROOT / path).read_text()


def test_there_are_files() -> None:
    assert PurePosixPath("audisp/record.py") in PACKAGE
    assert PurePosixPath("tests/needs.py") in ALL


@pytest.mark.parametrize("path", PACKAGE, ids=str)
def test_layers(path: PurePosixPath) -> None:
    assert crossings(path, _read(path)) == []


@pytest.mark.parametrize("path", ALL, ids=str)
def test_every_file(path: PurePosixPath) -> None:
    source = _read(path)
    assert source.count("\n") <= MAX_LINES, f"{path} is longer than {MAX_LINES} lines"
    assert empty_names(path, source) == []
    names = [name for _, name in imports(ast.parse(source))]
    assert not [name for name in names if name.startswith(("plugins", "."))], "a second copy of the module, or relative"


@pytest.mark.parametrize("path", [path for path in PACKAGE if path.parts[0] == "audisp"], ids=str)
def test_nobody_imports_a_plugin_by_name(path: PurePosixPath) -> None:
    assert not [name for _, name in imports(ast.parse(_read(path))) if name.partition(".")[0] == "audisp_plugins"]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("audisp/record.py", "import msgpack"),
        ("audisp/record.py", "from audisp.parse.lines import LineReader"),
        ("audisp/errors.py", "import time"),
        ("audisp/__init__.py", "from audisp.plugin import hookimpl"),
        ("audisp/parse/lines.py", "import trio"),
        ("audisp/parse/lines.py", "from time import monotonic"),
        ("audisp/parse/lines.py", "def read(path):\n    return open(path)"),
        ("audisp/parse/lines.py", "def read(path):\n    return path.read_bytes()"),
        ("audisp/parse/lines.py", "from audisp.config import grammar"),
        ("audisp/buffer/segment.py", "def seal():\n    import secrets"),
        ("audisp/wire/rmw.py", "import socket"),
        ("audisp/plugin.py", "if TYPE_CHECKING:\n    import trio"),
        ("audisp/plugin.py", "from audisp.dispatch.router import Router"),
        ("audisp/config/grammar.py", "import trio"),
        ("audisp/sources/unix.py", "from audisp.dispatch.router import Router"),
        ("audisp/sources/unix.py", "import requests"),
        ("audisp/enrich/enricher.py", "from audisp.dispatch.router import Router"),
        ("audisp/enrich/proc.py", "import subprocess"),
        ("audisp/react/main.py", "from audisp.dispatch.engine import Engine"),
        ("audisp/react/judge.py", "from audisp.detect.form import RuleSet"),
        ("audisp/react/reactor.py", "from audisp.event import Event"),
        ("audisp/dispatch/main.py", "from audisp import cli"),
        ("audisp/dispatch/main.py", "import audisp_plugins.log"),
        ("audisp/cli/audispd.py", "from audisp_plugins.log import LogConfig"),
        ("plugins/audisp_plugins/log.py", "from audisp.record import Block"),
        ("plugins/audisp_plugins/log.py", "from audisp import dispatch"),
        ("plugins/audisp_plugins/log.py", "import plugins.audisp_plugins.syslog"),
    ],
)
def test_a_crossing_is_found(path: str, source: str) -> None:
    assert len(crossings(PurePosixPath(path), source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("audisp/parse/lines.py", "import re\nfrom audisp.record import Block\nimport zstandard"),
        ("audisp/config/files.py", "import os\nfrom audisp.errors import ConfigError"),
        ("audisp/sources/unix.py", "import socket\nimport trio\nfrom audisp.parse.lines import LineReader"),
        ("plugins/audisp_plugins/log.py", "import os\nimport attrs\nfrom audisp.plugin import hookimpl"),
        ("plugins/audisp_plugins/log.py", "from audisp_plugins.log_files import rotate"),
        ("audisp/cli/audisp.py", "from audisp import __version__\nfrom audisp.cli import check"),
    ],
)
def test_what_is_allowed_is_not_found(path: str, source: str) -> None:
    assert crossings(PurePosixPath(path), source) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("audisp/utils.py", ""),
        ("audisp/dispatch/plugin_manager.py", ""),
        ("audisp/common/__init__.py", ""),
        ("audisp/dispatch/router.py", "class EventHandler: ..."),
        ("audisp/dispatch/router.py", "class BaseRouter: ..."),
    ],
)
def test_an_empty_name_is_found(path: str, source: str) -> None:
    assert len(empty_names(PurePosixPath(path), source)) == 1


def test_a_room_that_the_table_does_not_know_is_an_error() -> None:
    with pytest.raises(KeyError, match="attic"):
        room_of(PurePosixPath("audisp/attic/old.py"))


def _loaded_by(statement: str) -> set[str]:
    program = f"import sys\n{statement}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_plugin_api_loads_no_engine() -> None:
    loaded = _loaded_by("import audisp.plugin")
    assert "audisp.plugin" in loaded
    assert not loaded & {"trio", "asyncio", "ssl", "socket", "logging"}
    assert not loaded & {f"audisp.{room}" for room in ROOMS.keys() - _plugin.ours - {"plugin"}}


def test_importing_the_package_loads_none_of_its_rooms() -> None:
    assert {name for name in _loaded_by("import audisp") if name.startswith("audisp")} == {"audisp"}


def test_the_table_knows_every_room() -> None:
    assert {path.parts[1].removesuffix(".py") for path in PACKAGE if path.parts[0] == "audisp"} <= ROOMS.keys()
