"""`audisp-collector`: the daemon, and what is asked of its store: cat, hosts, verify."""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from audisp import __version__
from audisp.cli.start import isolate
from audisp.errors import AudispError, ConfigError
from audisp.shapes.registry import SHAPES

CONF_DIR: Final = Path("/etc/audit")
OK, FAILED, EXIT_USAGE = 0, 1, 2
UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
MILLI: Final = 1_000
COMMANDS: Final = frozenset({"cat", "hosts", "verify"})
FORMATS: Final = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%d")
"""Of a time, in this host's zone."""


def _daemon_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="audisp-collector",
        allow_abbrev=False,
        description="Receive other hosts' audit records, store them on disk, and then acknowledge them.",
        epilog="Commands, instead of options: cat, hosts, verify; each has its own --help. Exit status: 0 ended as "
        "asked, 1 cannot start or run, 2 usage, 6 bad configuration.",
    )
    parser.add_argument("-f", dest="foreground", action="store_true", help="stay in the foreground, log to stderr")
    parser.add_argument("-l", dest="allow_links", action="store_true", help="allow symlinks to configuration files")
    _add_folder(parser)
    parser.add_argument("--version", action="version", version=f"audisp-collector {__version__}")
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="audisp-collector", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    each = commands.add_parser(
        "cat",
        help="records of a host, or of all",
        description="Write records out of the store to standard output, in the order in which they were stored; "
        "without --shape as they were sent, for ausearch and aureport to read from a pipe. Exit status: 0 there were "
        "records, 1 there were none, 2 the store cannot be read.",
    )
    each.add_argument("--host", metavar="H", help="identity; default: all hosts")
    each.add_argument("--since", metavar="T", help="seconds since the epoch, 2026-11-26T19:00, or 2h (ago); s m h d w")
    each.add_argument("--until", metavar="T", help="the same")
    _add_store(each)
    each.add_argument("--shape", choices=list(SHAPES), default="raw", metavar="SHAPE", help=", ".join(SHAPES))
    _add_folder(each)
    each = commands.add_parser("hosts", help="who is connected, and how far everybody is")
    each.add_argument("--json", action="store_true", help="one JSON object, for programs")
    _add_folder(each)
    each = commands.add_parser(
        "verify",
        help="whether what is stored is what was stored",
        description="Check every frame of the store, and the chain of each sender. Exit status: 0 intact, 1 it is not, "
        "2 the store cannot be read.",
    )
    each.add_argument("--host", metavar="H", help="only this one")
    _add_store(each)
    _add_folder(each)
    return parser


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store", metavar="DIR", type=Path, help="the store; default: as DIR/audisp-collector.conf says"
    )


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", dest="conf_dir", metavar="DIR", type=Path, default=CONF_DIR, help="default %(default)s")


def main(argv: list[str] | None = None) -> int:
    """Entry point. With argv given (in a test) the process stays what it is."""
    words = sys.argv[1:] if argv is None else argv
    if argv is None:
        isolate("audisp.cli.collector", words)
    try:
        if words and words[0] in COMMANDS:
            return _command(_parser().parse_args(words))
        given = _daemon_parser().parse_args(words)
        if argv is None:
            from audisp.cli.audispd import name_process

            name_process("audisp-collector"[:15])
        from audisp.collector.main import Options, run

        return run(Options(given.conf_dir.absolute(), given.foreground, given.allow_links))
    except BrokenPipeError:
        return _unread()


def _command(given: argparse.Namespace) -> int:
    from audisp.config.collector import NAME, load
    from audisp.config.grammar import ConfigErrors

    try:
        path = given.conf_dir.absolute() / NAME
        if given.command == "hosts":
            return _hosts(load(path)[0].runtime_dir, as_json=given.json)
        store = given.store or load(path)[0].store_dir
        return _cat(store, given) if given.command == "cat" else _verify(store, given.host)
    except ConfigErrors as errors:
        for each in errors.errors:
            print(f"audisp-collector: {each}", file=sys.stderr)
    except AudispError as error:
        print(f"audisp-collector: {error}", file=sys.stderr)
    return EXIT_USAGE


def moment(text: str, now: float) -> int:
    """A time as --since takes it, in milliseconds since the epoch. ConfigError."""
    if text.isascii() and text.isdigit():
        return int(text) * MILLI
    number, unit = text[:-1], text[-1:]
    if number.isascii() and number.isdigit() and unit in UNITS and len(number) < 10:
        return max(0, int(now) - int(number) * UNITS[unit]) * MILLI
    for form in FORMATS:
        try:
            # In local time, as it is meant by who types it.
            return max(0, int(datetime.strptime(text, form).timestamp())) * MILLI
        except (ValueError, OverflowError):
            continue
    raise ConfigError(f"{text!r:.60} is no time: give 1764187200, 2026-11-26T19:00 or 2h")


def _cat(store: Path, given: argparse.Namespace) -> int:
    from audisp.cli.cat import Catting, Sink
    from audisp.collector.reading import FOREVER, Reader, Window
    from audisp.shapes.registry import make_shape
    from audisp.shapes.shape import Nobody, ShapeSettings

    now = time.time()
    since = 0 if given.since is None else moment(given.since, now)
    until = FOREVER if given.until is None else moment(given.until, now)
    sink = Sink(sys.stdout.fileno())
    shape = make_shape(given.shape, ShapeSettings(names=Nobody()))
    # One for each host: an event belongs to whose records it is made of, whatever they say of themselves.
    hosts: dict[str, Catting] = {}
    found = False
    with Reader(store, host=given.host, window=Window(since, until)) as reader:
        if given.shape != "raw":
            sink.write(getattr(shape, "header", b""))
        for chunk in reader:
            found = True
            if given.shape == "raw":
                sink.write(chunk.data)
                continue
            if chunk.identity not in hosts:
                hosts[chunk.identity] = Catting(shape, sink.write)
            hosts[chunk.identity].take(iter((chunk.data,)))
        for catting in hosts.values():
            catting.finish()
        if reader.damage:
            print(f"audisp-collector: {reader.damage} damaged places were left out: see verify", file=sys.stderr)
    return OK if found else FAILED


def _verify(store: Path, host: str | None) -> int:
    from audisp.collector.chain import verify, words

    report = verify(store, host)
    print("\n".join(words(report)))
    return report.status


def _hosts(folder: Path, *, as_json: bool) -> int:
    from audisp.dispatch.control import ask

    try:
        found = ask(folder, "hosts", 30.0)
    except OSError as error:
        print(f"audisp-collector: {folder}: no collector answers: {error.strerror or error}", file=sys.stderr)
        return FAILED
    if "hosts" not in found:
        print(f"audisp-collector: {found.get('error', 'refused')}", file=sys.stderr)
        return FAILED
    if as_json:
        print(json.dumps(found))
        return OK
    print("\n".join(table(found["hosts"], time.time())))
    return OK


def table(hosts: list[dict[str, Any]], now: float) -> list[str]:
    """The hosts for people."""
    rows = [("HOST", "PROTOCOL", "FROM", "LAG", "RATE", "RECORDS", "MISSING", "SEEN", "")]
    for host in hosts:
        connections = host["connections"]
        notes = []
        if not host["authenticated"]:
            notes.append("unauthenticated")
        if len(host["nodes"]) > 1:
            notes.append(f"says to be {len(host['nodes'])} nodes: {', '.join(host['nodes'])}")
        if host["holes"]:
            notes.append(f"{host['holes']} holes")
        rows.append(
            (
                host["host"],
                "+".join(sorted({each["protocol"] for each in connections})) or "-",
                connections[-1]["address"] if connections else "-",
                "-" if host["lag"] is None else f"{host['lag']:,}",
                f"{host['rate']:.1f}/s",
                f"{host['records']:,}",
                f"{host['missing']:,}",
                _ago(host["seen"], now),
                "; ".join(notes),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _ago(seen: float | None, now: float) -> str:
    if seen is None:
        return "never"
    seconds = max(0, int(now - seen))
    for unit in ("d", "h", "m"):
        if seconds >= 2 * UNITS[unit]:
            return f"{seconds // UNITS[unit]}{unit} ago"
    return f"{seconds}s ago"


def _unread() -> int:
    """Nobody reads any more, which is no failure; and nothing may be said about it at exit."""
    import os

    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return OK


if __name__ == "__main__":
    sys.exit(main())
