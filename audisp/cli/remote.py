"""`audisp-remote`: the sender's command line. The C program's has no arguments."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from audisp import __version__
from audisp.cli.audispd import name_process
from audisp.cli.start import isolate
from audisp.config.remote import NAME
from audisp.remote.main import run

CONF: Final = Path("/etc/audit") / NAME
"""Where the C program looks."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="audisp-remote",
        allow_abbrev=False,
        description="Take audit records on standard input, keep them in a spool, and send them to a collector.",
        epilog="Exit status: 0 all was sent, 1 records wait in the spool, or it cannot run, 2 usage, "
        "6 bad configuration.",
    )
    parser.add_argument("--config", metavar="FILE", type=Path, default=CONF, help=f"default {CONF}")
    parser.add_argument("--version", action="version", version=f"audisp-remote {__version__}")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point. With argv given (in a test) the process stays what it is."""
    if argv is None:
        isolate("audisp.cli.remote", sys.argv[1:])
        name_process("audisp-remote")
    return run(_parser().parse_args(argv).config.absolute())


if __name__ == "__main__":
    sys.exit(main())
