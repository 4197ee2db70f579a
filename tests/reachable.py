"""An interpreter that every user may start, with this package and what it needs.

Ours may be root's alone (pyenv below /root), and so may the checkout: then what is needed is copied. Otherwise the
system's interpreter, in the version of ours, is shown where our packages are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

from tests.needs import ROOT

SYSTEM: Final = Path("/usr/bin/python3")
LEFT_OUT: Final = ("atheris*", "mypy*", "pip*", "ruff*", "*pytest*", "psycopg*", "tests", "_tests", "__pycache__")
"""What no plugin needs, and is large."""


def reachable_interpreter(folder: Path) -> str | None:
    """Its path, in a virtual environment made in `folder`, which everybody must be able to enter; None if there is no
    interpreter of the system's in our version."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if not SYSTEM.exists() or not os.path.realpath(SYSTEM).endswith(version):
        return None
    subprocess.run([SYSTEM, "-m", "venv", "--without-pip", "--symlinks", folder], check=True)
    packages = folder / f"lib/python{version}/site-packages"
    ours = Path(sysconfig.get_path("purelib"))
    if open_to_all(ours) and open_to_all(ROOT / "audisp"):
        (packages / "ours.pth").write_text(f"{ROOT}\n{ROOT / 'plugins'}\n{ours}\n")
    else:
        ignore = shutil.ignore_patterns(*LEFT_OUT)
        shutil.copytree(ours, packages, ignore=ignore, dirs_exist_ok=True)
        for name in ("audisp", "plugins/audisp_plugins", "conf"):
            shutil.copytree(ROOT / name, packages / Path(name).name, ignore=shutil.ignore_patterns("__pycache__"))
    # Entry points are found by the package's metadata, which is where our packages are.
    return str(folder / "bin/python3")


def open_to_all(path: Path) -> bool:
    """Whether everybody may go to this folder and read it."""
    return all(folder.stat().st_mode & 0o001 for folder in path.parents) and path.stat().st_mode & 0o005 == 0o005
