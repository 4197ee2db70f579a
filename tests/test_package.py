"""What is built from here: true metadata, and a wheel and an sdist that hold what they should and run by themselves."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import entry_points, metadata, version
from pathlib import Path, PurePosixPath
from typing import Any, Final

import attrs
import pytest

import audisp
import audisp_plugins
from tests.needs import ROOT
from tests.test_layers import PACKAGE, STDLIB, imports

PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SHIPPED: Final = sorted(
    path.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*") if path.is_file()
)
SANS_IO: Final = ("parse", "buffer", "wire", "shapes")
"""Test folders that need nothing but the package: they are run against the installed wheel too."""

BUILD_TIMEOUT: Final = 240
"""Seconds for a build or an installation, which fetch packages."""


def _distribution(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found
    return found[0].lower()


def test_version_is_the_installed_one() -> None:
    assert version("audisp") == audisp.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", audisp.__version__)


def test_metadata() -> None:
    about = metadata("audisp")
    assert about["Requires-Python"] == ">=3.11"
    assert about["License-Expression"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_both_packages_are_typed() -> None:
    for package in (audisp, audisp_plugins):
        assert package.__file__ is not None
        assert (Path(package.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize("requirement", PROJECT["dependencies"])
def test_a_dependency_has_a_lower_bound_and_no_upper(requirement: str) -> None:
    assert re.fullmatch(r"[a-z]+>=[\d.]+", requirement)


def test_what_is_imported_is_declared() -> None:
    declared = {_distribution(line) for line in PROJECT["dependencies"]}
    # Rooms that need an extra, and testing/, whose users have what they test with.
    of_rooms = {
        "tls": {"cryptography"},
        "collector": {"cryptography"},
        "detect": {"ahocorasick_rs", "re2"},
        "hids": {"sigma", "yaml"},
        "testing": {"pytest", "hypothesis"},
    }
    undeclared = set()
    for path in PACKAGE:
        room = path.parts[1].removesuffix(".py")
        for _, name in imports(ast.parse((ROOT / path).read_text())):
            top = name.partition(".")[0]
            if top not in STDLIB and top not in {"audisp", "audisp_plugins"} | declared | of_rooms.get(room, set()):
                undeclared.add(f"{path}: {name}")
    assert undeclared == set()


@pytest.mark.parametrize("name", sorted(PROJECT["scripts"]))
def test_every_command_exists(name: str) -> None:
    (point,) = entry_points(group="console_scripts", name=name)
    assert point.value == PROJECT["scripts"][name]
    assert callable(point.load())


@pytest.mark.parametrize("name", sorted(PROJECT["entry-points"]["audisp.plugins"]))
def test_every_bundled_plugin_exists(name: str) -> None:
    (point,) = entry_points(group="audisp.plugins", name=name)
    assert point.value == PROJECT["entry-points"]["audisp.plugins"][name]
    assert name in {type_.name for type_ in point.load().audisp_plugins()}


@attrs.frozen
class Built:
    """A source archive, and the wheel that was built from it."""

    sdist: Path
    wheel: Path


def _run(*command: str | Path, cwd: Path) -> str:
    """Run a command away from the checkout's influence; its output. Fails the test with the output if it fails."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "COV"))}
    done = subprocess.run(
        command, cwd=cwd, env=clean, capture_output=True, text=True, timeout=BUILD_TIMEOUT, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build both, the wheel from the sdist, as an installer does."""
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--outdir", out, ROOT, cwd=out)
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return Built(sdist, wheel)


@pytest.fixture(scope="session")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment with the wheel in it."""
    folder = tmp_path_factory.mktemp("installed")
    _run(sys.executable, "-m", "venv", folder, cwd=folder)
    pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    _run(*pip, f"{built.wheel}[test,tls]", cwd=folder)
    return folder / "bin"


@pytest.mark.build
@pytest.mark.timeout(BUILD_TIMEOUT)
def test_sdist_holds_what_builds_and_proves_it(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert names >= {path.as_posix() for path in PACKAGE}
    assert names >= {f"conf/{name}" for name in SHIPPED}
    assert names >= {"pyproject.toml", "Makefile", "LICENSE", "README.md", ".ci/run", "audisp/py.typed"}
    assert names >= {"tests/conftest.py", "tests/needs.py", "tests/test_package.py"}
    assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", ".git/"))]


@pytest.mark.build
@pytest.mark.timeout(BUILD_TIMEOUT)
def test_wheel_holds_the_packages_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
    modules = {path.as_posix().removeprefix("plugins/") for path in PACKAGE}
    typed = {"audisp/py.typed", "audisp_plugins/py.typed"}
    shipped = {f"audisp/shipped/{name}" for name in SHIPPED}
    expected = modules | typed | shipped
    assert names >= expected
    rest = {name for name in names - expected if not PurePosixPath(name).parts[0].endswith(".dist-info")}
    assert {PurePosixPath(name).parts[0] for name in rest} <= {"audisp", "audisp_plugins"}
    assert not [name for name in rest if name.endswith((".py", ".pyc"))]


@pytest.mark.build
@pytest.mark.timeout(2 * BUILD_TIMEOUT)
def test_every_module_of_the_wheel_imports_by_itself(installed: Path, tmp_path: Path) -> None:
    names = [
        ".".join(path.with_suffix("").parts).removeprefix("plugins.").removesuffix(".__init__") for path in PACKAGE
    ]
    program = (
        "import importlib, sys, audisp\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "assert audisp.__file__.startswith(sys.prefix), audisp.__file__\n"
    )
    _run(installed / "python", "-I", "-W", "error", "-c", program, cwd=tmp_path)


@pytest.mark.build
@pytest.mark.timeout(2 * BUILD_TIMEOUT)
@pytest.mark.parametrize("name", sorted(PROJECT["scripts"]))
def test_every_command_of_the_wheel_starts(name: str, installed: Path, tmp_path: Path) -> None:
    assert re.search(rf"usage: {name}\b", _run(installed / name, "--help", cwd=tmp_path), re.I)


@pytest.mark.build
@pytest.mark.timeout(2 * BUILD_TIMEOUT)
def test_the_wheel_passes_the_tests_that_need_nothing_else(installed: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "docs", tmp_path / "docs")  # its tables are tested
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    folders = [f"tests/{room}" for room in SANS_IO if (tmp_path / "tests" / room).is_dir()]
    assert folders
    where = _run(installed / "python", "-c", "import audisp; print(audisp.__file__)", cwd=tmp_path)
    assert where.startswith(str(installed.parent))
    output = _run(installed / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *folders, cwd=tmp_path)
    assert re.search(r"\d+ passed", output)
