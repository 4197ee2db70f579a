"""Where the benchmarks work: a scratch folder that is root's alone, with the C programs and a copy of our code in it.

The copy is what is measured, so that the figures of one run are of one state of the code, whoever edits the checkout
meanwhile.
"""

from __future__ import annotations

import compileall
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from tests.needs import ROOT

SCRATCH: Final = Path("/var/lib")
"""Its folder's ancestors must be writable for nobody but root: plugins are loaded from it, and auditd 4.2 logs only to
such a place. /tmp is none."""
NATIVE: Final = ROOT / "tests" / "native"
CODE: Final = "code"
"""The copy of our code, in the scratch folder; whoever runs it runs in there."""
_START: Final = (
    "import os, runpy, sys; sys.path.insert(0, os.getcwd()); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
PROGRAM_MODE: Final = 0o750
"""auditd runs no plugin that others may write to, and upstream's check wants group execution."""


@attrs.frozen
class Place:
    """folder: scratch, gone at the end; our packages are in CODE below it. The others: programs of tests/native."""

    folder: Path
    gen: Path
    sink: Path
    reader: Path
    relay: Path

    def fresh(self, name: str) -> Path:
        """An empty folder of this name."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(0o750)
        return folder


@contextlib.contextmanager
def place() -> Iterator[Place]:
    """Make the scratch folder and what is in it. CalledProcessError: the C does not compile, or our code not start."""
    os.umask(0o022)
    folder = Path(tempfile.mkdtemp(prefix="audisp-bench-", dir=SCRATCH))
    try:
        _copy(folder / CODE)
        yield Place(folder, *(build(name, folder) for name in ("gen", "sink", "reader", "relay")))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def program(module: str) -> tuple[str, ...]:
    """How a program of ours is started out of the copy, by whoever stands in its folder.

    In isolated mode, as it runs in earnest. It would start itself anew in that mode otherwise, and find what is
    installed, which is the checkout.
    """
    return (sys.executable, "-I", "-c", _START, module)


def _copy(code: Path) -> None:
    """The packages as an interpreter that starts in this folder finds them, before those that are installed."""
    ignore = shutil.ignore_patterns("__pycache__")
    for package, name in ((ROOT / "audisp", "audisp"), (ROOT / "plugins" / "audisp_plugins", "audisp_plugins")):
        shutil.copytree(package, code / name, ignore=ignore)
    for name in ("stamped.py", "crowd.py"):
        shutil.copyfile(ROOT / "tests" / "bench" / name, code / name)
    # The first start is not to be the one that compiles; and code that does not start is to be found out now.
    compileall.compile_dir(code, quiet=1)
    subprocess.run([*program("audisp.cli.audispd"), "--version"], cwd=code, stdout=2, check=True)


def build(name: str, folder: Path) -> Path:
    """Compile tests/native/NAME.c into the folder."""
    program = folder / name
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, NATIVE / f"{name}.c"], check=True)
    program.chmod(PROGRAM_MODE)
    return program
