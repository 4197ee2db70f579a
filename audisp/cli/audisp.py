"""`audisp`: the command for people: cat, tail, explain, check, hids, key, status, reload, rotate, resume.

What a command needs is imported when it runs: `audisp cat` in a pipe has no use for the daemon's parts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Final

from audisp import __version__
from audisp.cli.hids import add_hids
from audisp.cli.key import add_key
from audisp.errors import AudispError, ConfigError, ParseError
from audisp.shapes.registry import SHAPES, make_shape
from audisp.shapes.shape import Names, Nobody, ShapeSettings

WATCH_SECONDS: Final = 1.0
"""Between two tables of `status --watch`."""
EXPLAIN_SECONDS: Final = 30.0
"""The dispatcher unpacks what it looks into, beside its work."""
EXIT_FAILED: Final = 1
"""No dispatcher answers; the event is not known."""
EXIT_INTERRUPTED: Final = 130
"""As a shell says of a program that Ctrl-C has ended."""
EXIT_USAGE: Final = 2
"""As argparse's own for arguments that make no sense."""
CONF_DIR: Final = Path("/etc/audit")
"""As auditd's -c."""
RUNTIME_DIR: Final = Path("/run/audisp")
"""As audispd.conf's default."""


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
    each = commands.add_parser(
        "cat",
        help="show recorded logs as events",
        description="Read audit logs, plain or compressed (gzip, xz, zstd; - is standard input), put their records "
        "together to events, and write each in one line. Give rotated logs oldest first: "
        "audisp cat audit.log.2 audit.log.1 audit.log. Exit status: 0 there were events, 1 there were none, 2 a file "
        "could not be read.",
    )
    each.add_argument("files", nargs="+", metavar="FILE")
    _add_shape(each)
    each.add_argument(
        "--names", action="store_true", help="take names for ids from this host, where the records bring none along"
    )
    each = commands.add_parser(
        "tail",
        help="show events as they pass through the running audispd",
        description="Attach to the running audispd and show events as they are completed, until Ctrl-C. When this "
        "cannot keep up it loses the oldest, and says so in a line of its own; nobody else is held up.",
    )
    _add_shape(each)
    _add_runtime(each)
    each = commands.add_parser(
        "explain",
        help="say what became of one event",
        description="Of an event that passed lately (10 minutes, 64 MiB of stream): where it came from, how it was put "
        "together, what each plugin's filter said, and when each plugin had it. Exit status: 0 it is known, 1 it is "
        "not, or no longer, or no audispd answers, 2 that is no event's id.",
    )
    each.add_argument("event", metavar="EVENT-ID", help="SEC.MSEC:SERIAL, as in msg=audit(1700000000.123:4567)")
    each.add_argument("--json", action="store_true", help="one JSON object, for programs")
    _add_runtime(each)
    add_hids(commands)
    add_key(commands)
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
        default=RUNTIME_DIR,
        metavar="DIR",
        help="of the instance; default %(default)s",
    )


def _add_shape(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shape", choices=list(SHAPES), default="text", metavar="SHAPE", help=f"{', '.join(SHAPES)}; default text"
    )
    parser.add_argument("--shape-version", default="", metavar="V", help="for shapes that have several")
    parser.add_argument(
        "--filter", metavar="EXPR", help="only events for which this is true, for example 'key i= exec && uid r= 0'"
    )


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    given = _parser().parse_args(argv)
    if given.command == "cat":
        return _cat(given)
    if given.command == "key":
        from audisp.cli.key_actions import key

        return key(given)
    if given.command == "hids":
        return _hids(given)
    if given.command == "check":
        from audisp.cli.check import check
        from audisp.dispatch.host import settings_for

        try:
            status = check(given.folder.absolute(), settings_for, allow_links=given.allow_links)
            sys.stdout.flush()
        except BrokenPipeError:
            return _unread()
        return status
    from audisp.dispatch.control import ask

    try:
        if given.command == "tail":
            return _tail(given)
        if given.command == "explain":
            return _explain(given)
        if given.command == "status":
            return _status(given.runtime_dir, as_json=given.json, watch=given.watch)
        answer = ask(given.runtime_dir, given.command)
    except OSError as error:
        print(f"audisp: {_unreachable(given.runtime_dir, error)}", file=sys.stderr)
        return EXIT_FAILED
    except (ConfigError, ParseError) as error:
        print(f"audisp: {error}", file=sys.stderr)
        return EXIT_USAGE
    except AudispError as error:
        print(f"audisp: {error}", file=sys.stderr)
        return EXIT_FAILED
    if not answer.get("ok"):
        print(f"audisp: {answer.get('error', 'refused')}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _shape_version(given: argparse.Namespace) -> str:
    """Raises ConfigError for a version that the shape has not."""
    version: str = given.shape_version
    if version and version not in SHAPES[given.shape]:
        there = ", ".join(SHAPES[given.shape]) or "no versions"
        raise ConfigError(f"--shape-version {version}: {given.shape} has {there}")
    return version


def _cat(given: argparse.Namespace) -> int:
    from audisp.cli.cat import cat

    pick = None
    try:
        settings = ShapeSettings(version=_shape_version(given), names=_host_names() if given.names else Nobody())
        if given.filter is not None:
            from audisp.parse.filter import Selection, compile_filter

            pick = Selection((compile_filter(given.filter, settings.names),), ()).pick
    except (ConfigError, ParseError) as error:
        print(f"audisp: {error}", file=sys.stderr)
        return EXIT_USAGE
    shape = make_shape(given.shape, settings)
    try:
        return cat(given.files, shape, head=getattr(shape, "header", b""), pick=pick)
    except BrokenPipeError:
        return _unread()
    except AudispError as error:
        print(f"audisp: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _hids(given: argparse.Namespace) -> int:
    from audisp.cli.hids import hids

    try:
        status = hids(given)
        sys.stdout.flush()
    except BrokenPipeError:
        return _unread()
    except AudispError as error:
        print(f"audisp hids: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return status


def _host_names() -> Names:
    from audisp.enrich.names import UserNames

    return UserNames()


def _tail(given: argparse.Namespace) -> int:
    """Raises OSError or AudispError if the dispatcher cannot be reached, or refuses."""
    from audisp.cli.tail import tail

    request = {"shape": given.shape, "shape_version": _shape_version(given)}
    if given.filter is not None:
        from audisp.parse.filter import compile_filter

        compile_filter(given.filter)  # before anybody is asked
        request["filter"] = given.filter
    head = getattr(make_shape(given.shape, ShapeSettings()), "header", b"")
    try:
        return tail(given.runtime_dir, request, head)
    except BrokenPipeError:
        return _unread()
    except KeyboardInterrupt:
        return 0


def _explain(given: argparse.Namespace) -> int:
    """Raises OSError or AudispError if the dispatcher cannot be reached."""
    from audisp.dispatch.control import ask
    from audisp.dispatch.explain import ID, words

    wanted = given.event.removeprefix("msg=").removeprefix("audit(").removesuffix(":").removesuffix(")")
    if ID.match(wanted) is None:
        raise ConfigError(f"{wanted[:60]!r} is no event's id: SEC.MSEC:SERIAL, as in msg=audit(...)")
    answer = ask(given.runtime_dir, "explain", EXPLAIN_SECONDS, id=wanted)
    if "error" in answer:
        print(f"audisp: {answer['error']}", file=sys.stderr)
        return EXIT_USAGE
    if given.json:
        print(json.dumps(answer))
    else:
        from audisp.parse.form import terminal_safe

        print("\n".join(terminal_safe(line) for line in words(answer)))
    return 0 if answer["known"] else EXIT_FAILED


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
    from audisp.dispatch.control import ask
    from audisp.dispatch.summary import duration, ledger_table
    from audisp.remote.look import add_senders

    try:
        while True:
            snapshot = add_senders(ask(folder, "status"))
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
