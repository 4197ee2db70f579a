"""What the commands' scripts call first: the program again, in the same process and in Python's isolated mode.

Imports nothing but the standard library, so that up to there PYTHON* variables, the user's site-packages and the
working directory have had no say in what runs, perhaps as root; and afterwards they have none.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Final

EARLY: Final = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that ask a daemon for something, and kill a process that does not know them. Loading takes most of a second;
who sends one meanwhile asks for what is about to happen anyway: the configuration is read, the log opened."""


def audispd() -> int:
    """The script `audispd`."""
    for number in EARLY:
        signal.signal(number, signal.SIG_IGN)
    return _start("audisp.cli.audispd")


def audisp_remote() -> int:
    """The script `audisp-remote`."""
    for number in EARLY:
        signal.signal(number, signal.SIG_IGN)
    return _start("audisp.cli.remote")


def audisp() -> int:
    """The script `audisp`."""
    return _start("audisp.cli.audisp")


def audisp_collector() -> int:
    """The script `audisp-collector`."""
    for number in EARLY:
        signal.signal(number, signal.SIG_IGN)
    return _start("audisp.cli.collector")


def _start(module: str) -> int:
    isolate(module, sys.argv[1:])
    status: int = importlib.import_module(module).main()
    return status


def isolate(module: str, argv: list[str]) -> None:
    """Become ``python -I -m MODULE ARGV``. Returns if that is the mode already."""
    if sys.flags.isolated or not sys.executable:
        return
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed by whoever started us
            stream.flush()
    os.execv(sys.executable, [sys.executable, "-I", "-m", module, *argv])  # noqa: S606 - ourselves
