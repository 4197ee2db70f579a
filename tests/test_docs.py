"""The documentation says what the code does: links resolve, examples compile, no hook and no key is left out."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import shlex
import sys
import tomllib
import warnings
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import pytest

from audisp import plugin
from audisp.config import schema
from audisp.event import as_batch
from audisp.parse.record import RecordReader
from tests.needs import ROOT
from tests.plugins.booking import BookingHost, block_of, record

PAGES: Final = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not {part for part in path.relative_to(ROOT).parts if part.startswith(".") or part in ("build", "dist")}
)
NAMES: Final = [path.relative_to(ROOT).as_posix() for path in PAGES]
SOURCES: Final = sorted(path for folder in ("audisp", "plugins", "conf") for path in (ROOT / folder).rglob("*.*"))

_FENCE: Final = re.compile(r"^( *)(`{3,}|~{3,})[ ]*([\w+-]*)[^\n]*\n(.*?)^\1\2[ ]*$", re.M | re.S)
_LINK: Final = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)(?: \"[^\"]*\")?\)")
_HEADING: Final = re.compile(r"^#{1,6} +(.+?) *#*$", re.M)
_NAMED: Final = re.compile(r"\bdocs/[\w/-]+\.md\b")

CONFIGURED: Final = (
    ("audisp.config.auditd", "KEYS", "configuration.md"),
    ("audisp.config.audispd", "KEYS", "configuration.md"),
    ("audisp.config.plugins", "HOST_KEYS", "configuration.md"),
    ("audisp.config.remote", "KEYS", "remote.md"),
    ("audisp.config.collector", "KEYS", "collector.md"),
    ("audisp.config.reactions", "KEYS", "reactions.md"),
    ("audisp.config.ids", "KEYS", "compatibility.md"),
)
"""Where the keys of each kind of file are declared, and the page that explains them."""

UPSTREAM: Final = ("active", "direction", "path", "type", "args", "format", "plugin")
"""What plugins.d/NAME.conf holds (auditd-plugins(5)), and our `plugin`, which stands instead of `path`."""


def _fences(text: str) -> Iterator[tuple[str, str, int]]:
    """Language, code and first line of each fenced block."""
    for found in _FENCE.finditer(text):
        indent = found[1]
        code = "".join(line.removeprefix(indent) for line in found[4].splitlines(keepends=True))
        yield found[3].lower(), code, text.count("\n", 0, found.start(4)) + 1


def _prose(text: str) -> str:
    """The page without its fenced blocks and code spans: what is in them is no link and no heading."""
    return re.sub(r"`[^`\n]*`", lambda found: "x" * len(found[0]), _FENCE.sub("", text))


def _anchors(text: str) -> set[str]:
    """The anchors a forge makes of the headings: lower case, punctuation gone, spaces to hyphens, repeats numbered."""
    anchors: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = sum(1 for known in anchors if re.fullmatch(rf"{re.escape(anchor)}(-\d+)?", known))
        anchors.add(f"{anchor}-{count}" if count else anchor)
    return anchors


def _says(text: str, word: str) -> bool:
    """Whether the word stands in the text by itself."""
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text) is not None


def _guides() -> str:
    """All pages for users, as one text; decisions and change fragments do not count as documentation."""
    pages = [path for path in PAGES if path.is_relative_to(ROOT / "docs")]
    return "\n".join(path.read_text() for path in pages if path.parent.name not in ("decisions", "changes"))


def test_readme_says_how_to_run_and_how_to_test() -> None:
    commands = "".join(code for _, code, _ in _fences((ROOT / "README.md").read_text()))
    assert re.search(r"^make run\b", commands, re.M)
    assert re.search(r"^make test\b", commands, re.M)


def test_every_make_target_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {
        (name, target)
        for name, path in zip(NAMES, PAGES, strict=True)
        for target in re.findall(r"(?:^|`)make ([a-z]+)\b", path.read_text(), re.M)
    }
    assert named
    assert not {(name, target) for name, target in named if target not in targets}


@pytest.mark.parametrize("name", NAMES)
def test_links(name: str) -> None:
    page = ROOT / name
    text = page.read_text()
    broken: list[str] = []
    for target in _LINK.findall(_prose(text)):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        file, _, anchor = unquote(target).partition("#")
        to = (page.parent / file).resolve() if file else page
        if not to.exists():
            broken.append(f"{target}: there is no {file}")
        elif anchor and to.suffix == ".md" and anchor not in _anchors(to.read_text()):
            broken.append(f"{target}: there is no such heading")
    assert broken == []


@pytest.mark.parametrize("name", NAMES)
def test_python_examples_compile(name: str) -> None:
    for language, code, line in _fences((ROOT / name).read_text()):
        if language in ("python", "py"):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                compile(code, f"{name}:{line}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("name", NAMES)
def test_toml_examples_parse(name: str) -> None:
    for language, code, _ in _fences((ROOT / name).read_text()):
        if language == "toml":
            tomllib.loads(code)


@pytest.mark.parametrize("name", NAMES)
def test_shell_examples_are_whole(name: str) -> None:
    for language, code, _ in _fences((ROOT / name).read_text()):
        if language in ("sh", "bash", "shell"):
            shlex.split(code, comments=True)


def test_every_page_that_the_code_names_exists() -> None:
    missing = {
        f"{path.relative_to(ROOT)} names {page}"
        for path in (*SOURCES, *PAGES)
        if path.suffix in (".py", ".md", ".conf", ".audisp")
        for page in _NAMED.findall(path.read_text())
        if not (ROOT / page).is_file()
    }
    assert missing == set()


def _public(cls: type) -> list[str]:
    return [name for name, _ in inspect.getmembers(cls) if not name.startswith("_")]


@pytest.mark.parametrize("hook", _public(plugin.Hooks))
def test_every_hook_is_documented(hook: str) -> None:
    assert _says(_guides(), hook)


@pytest.mark.parametrize("member", _public(plugin.Host))
def test_everything_the_host_offers_is_documented(member: str) -> None:
    assert re.search(rf"host\.{member}\b", _guides()), f"host.{member} is in no guide"


@pytest.mark.parametrize("name", plugin.__all__)
def test_everything_a_plugin_author_imports_is_documented(name: str) -> None:
    assert _says(_guides(), name)


@pytest.mark.parametrize(("module", "keys", "page"), CONFIGURED)
def test_every_key_is_documented(module: str, keys: str, page: str) -> None:
    names: tuple[str, ...] = getattr(importlib.import_module(module), keys)
    assert names
    text = (ROOT / "docs" / page).read_text()
    assert not {name for name in names if not re.search(rf"^\|.*`{name}`.*\|.*\|", text, re.M)}


def test_every_key_of_a_plugin_s_file_is_documented() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    assert not {name for name in UPSTREAM if not _says(text, name)}


BUNDLED: Final = sorted(
    point.name
    for point in entry_points(group="audisp.plugins")
    if point.module.startswith(("audisp_plugins.", "audisp."))
)


def test_the_bundled_plugins_are_registered() -> None:
    assert set(BUNDLED) >= {"af_unix", "log", "stdout", "syslog"}


@pytest.mark.parametrize("name", BUNDLED)
def test_every_key_of_a_bundled_plugin_is_documented(name: str) -> None:
    (point,) = entry_points(group="audisp.plugins", name=name)
    page: Path = ROOT / "docs" / "plugins" / f"{name}.md"
    if importlib.util.find_spec(point.module) is None:
        pytest.skip(f"{point.module} does not exist")
    text = page.read_text()
    declared: list[plugin.PluginType] = point.load().audisp_plugins()
    assert name in {type_.name for type_ in declared}
    for type_ in declared:
        assert not {key for key in schema.keys(type_.config) if not _says(text, key)}


@pytest.mark.parametrize("page", ["writing-plugins.md", "events.md"])
async def test_the_example_of_one_function_works(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / page).read_text()
    (code,) = [code for language, code, _ in _fences(text) if language == "python" and "def audisp_events" in code]
    (tmp_path / "shadow.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shadow", raising=False)
    example = importlib.import_module("shadow")
    fields = b'success=no auid=1000 exe="/bin/cat" key="passwd"\x1dAUID="alice"'
    lines = b"".join(b"type=SYSCALL msg=audit(1700000000.123:%d): %b\n" % (serial, fields) for serial in (1, 2))
    lines += lines.replace(b"success=no", b"success=yes").replace(b":1)", b":3)").replace(b":2)", b":4)")
    example.audisp_events(as_batch(plugin.Block(lines, 4, "test", 0.0), RecordReader()))
    assert capsys.readouterr().out == "2023-11-14 22:13:20.123000+00:00 alice /bin/cat\n" * 2


async def test_the_example_plugin_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (ROOT / "docs" / "writing-plugins.md").read_text()
    (code,) = [code for language, code, _ in _fences(guide) if language == "python" and "audisp_plugins" in code]
    (tmp_path / "pick.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    example = importlib.import_module("pick")
    monkeypatch.setitem(sys.modules, "pick", example)
    (declared,) = example.audisp_plugins()
    config = declared.config(out=tmp_path / "out", only="CWD")
    host = BookingHost("pick", str(tmp_path), owner=False)
    async with declared.open(config, host) as deliver:
        deliver(block_of([record(7, kind=b"SYSCALL"), record(7, b'cwd="/root"', kind=b"CWD"), record(7, b"", b"EOE")]))
    assert (tmp_path / "out").read_bytes() == b'type=CWD msg=audit(1700000000.123:7): cwd="/root"\n'
    assert host.counts == {"picked": 1}
    assert set(schema.keys(declared.config)) == {"out", "only"}
