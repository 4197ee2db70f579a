"""`audisp`: the command for people: check, status, reload, rotate, resume."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Final

from audisp import __version__
from audisp.cli.check import check
from audisp.config import audispd
from audisp.dispatch.control import ask
from audisp.dispatch.host import settings_for
from audisp.dispatch.plan import CONF_DIR
from audisp.dispatch.summary import duration, ledger_table
from audisp.errors import AudispError

WATCH_SECONDS: Final = 1.0
"""Between two tables of `status --watch`."""
EXIT_FAILED: Final = 1
"""No dispatcher answers."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="audisp", allow_abbrev=False, description="Look after an audispd.")
    parser.add_argument("--version", action="version", version=f"audisp {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    each = commands.add_parser(
        "check",
        help="validate a configuration without running it",
        description="Read a configuration folder as audispd would and print every problem as FILE:LINE: KEY: MESSAGE. "
        "Exit status: 0 all is well, 1 problems were found, 2 the folder cannot be read.",
    )
    each.add_argument("folder", nargs="?", type=Path, default=CONF_DIR, metavar="DIR", help="default /etc/audit")
    each.add_argument("-l", dest="allow_links", action="store_true", help="allow symlinks, as audispd -l does")
    each = commands.add_parser("status", help="show sources, plugins, queues and the ledger")
    each.add_argument("--json", action="store_true", help="one JSON object, for programs")
    each.add_argument("--watch", action="store_true", help="again every second, until Ctrl-C")
    _add_runtime(each)
    for name, text in (
        ("reload", "read the configuration again, as SIGHUP does"),
        ("rotate", "rotate the log, as SIGUSR1 does"),
        ("resume", "go on after a suspension, as SIGUSR2 does"),
        ("stop", "drain and end, as SIGTERM does"),
    ):
        _add_runtime(commands.add_parser(name, help=text))
    return parser


def _add_runtime(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runtime-dir",
        type=Path,
        default=audispd.AudispdConf().runtime_dir,
        metavar="DIR",
        help="of the instance; default %(default)s",
    )


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    given = _parser().parse_args(argv)
    if given.command == "check":
        try:
            status = check(given.folder.absolute(), settings_for, allow_links=given.allow_links)
            sys.stdout.flush()
        except BrokenPipeError:
            return _unread()
        return status
    try:
        if given.command == "status":
            return _status(given.runtime_dir, as_json=given.json, watch=given.watch)
        answer = ask(given.runtime_dir, given.command)
    except OSError as error:
        print(f"audisp: {_unreachable(given.runtime_dir, error)}", file=sys.stderr)
        return EXIT_FAILED
    except AudispError as error:
        print(f"audisp: {error}", file=sys.stderr)
        return EXIT_FAILED
    if not answer.get("ok"):
        print(f"audisp: {answer.get('error', 'refused')}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _unreachable(folder: Path, error: OSError) -> str:
    """Why nobody answers, in words for who asked."""
    if isinstance(error, PermissionError):
        return f"{folder}: only root, and the user that audispd runs as, may ask it"
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return f"no audispd runs at {folder} (an instance with a runtime_dir of its own is found by --runtime-dir)"
    return f"no audispd answers at {folder}: {error.strerror or error}"


def _unread() -> int:
    """Standard output has no reader any more (`| head`): the end, and the interpreter must not trip over it again."""
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return EXIT_FAILED


def _status(folder: Path, *, as_json: bool, watch: bool) -> int:
    try:
        while True:
            snapshot = ask(folder, "status")
            if as_json:
                text = json.dumps(snapshot)
            else:
                # Home and clear to the end: a table that stays in place flickers less than a cleared screen.
                head = "\x1b[H\x1b[J" if watch and sys.stdout.isatty() else ""
                up = duration(snapshot["uptime_seconds"])
                title = f"audispd {snapshot['version']}, pid {snapshot['pid']}, up {up}"
                text = f"{head}{title}\n\n{ledger_table(snapshot)}"
            try:
                print(text, flush=True)
            except BrokenPipeError:
                return _unread()
            if not watch:
                return 0
            time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
