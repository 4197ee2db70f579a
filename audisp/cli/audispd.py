"""`audispd`: the daemon's command line. auditd's options, and ours."""

from __future__ import annotations

import argparse
import ctypes
import sys
from pathlib import Path
from typing import Final

from audisp import __version__
from audisp.cli.start import isolate
from audisp.dispatch.daemonize import EXIT_USAGE
from audisp.dispatch.main import run
from audisp.dispatch.plan import CONF_DIR, Options
from audisp.errors import ConfigError
from audisp.sources.contract import parse_source

_CONF_HELP: Final = f"folder of auditd.conf and audispd.conf; default {CONF_DIR}"

PR_SET_NAME: Final = 15
"""prctl(2); linux/prctl.h."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="audispd",
        allow_abbrev=False,
        description="Read the Linux audit stream and fan it out to plugins, each behind a queue of its own.",
        epilog="Exit status: 0 ended as asked, 1 cannot start or run, 2 usage, 4 not permitted, 6 bad configuration.",
    )
    parser.add_argument("-f", dest="foreground", action="store_true", help="foreground: no log file, records to stdout")
    parser.add_argument("-n", dest="no_fork", action="store_true", help="stay in the foreground, but act as the daemon")
    parser.add_argument("-l", dest="allow_links", action="store_true", help="allow symlinks to configuration files")
    parser.add_argument("-c", dest="conf_dir", metavar="DIR", type=Path, default=CONF_DIR, help=_CONF_HELP)
    parser.add_argument(
        "-s",
        dest="enable",
        choices=("enable", "disable", "nochange"),
        default="enable",
        help="what to do with the kernel's audit flag at start; default enable",
    )
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="SOURCE",
        help="netlink, multicast, unix:PATH, stdin, file:PATH, follow:PATH; repeatable; replaces those of audispd.conf",
    )
    parser.add_argument(
        "--observe",
        action="store_true",
        help="watch without owning, configuring or writing anything: plugins of conf/observe, best live source",
    )
    parser.add_argument(
        "--collector",
        action="store_true",
        help="with --observe: also start a collector on loopback, with a key made on the spot, and forward to it",
    )
    parser.add_argument("--plugins", dest="plugin_dir", metavar="DIR", type=Path, help="instead of plugin_dir")
    parser.add_argument("--runtime-dir", metavar="DIR", type=Path, help="instead of runtime_dir; books go below it")
    parser.add_argument("--version", action="version", version=f"audispd {__version__}")
    return parser


def name_process(name: str) -> None:
    """Be called audispd in ps and pgrep, as the script was before `isolate`."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


def main(argv: list[str] | None = None) -> int:
    """Entry point. With argv given (in a test) the process stays what it is."""
    if argv is None:
        isolate("audisp.cli.audispd", sys.argv[1:])
        name_process("audispd")
    parser = _parser()
    given = parser.parse_args(argv)
    try:
        sources = tuple(_absolute(text) for text in given.source)
    except ConfigError as error:
        parser.print_usage(sys.stderr)
        print(f"audispd: --source: {error.message}", file=sys.stderr)
        return EXIT_USAGE
    if given.collector and not given.observe:
        parser.print_usage(sys.stderr)
        print("audispd: --collector goes with --observe; a real one is audisp-collector", file=sys.stderr)
        return EXIT_USAGE
    plugin_dir = given.plugin_dir.absolute() if given.plugin_dir else None
    options = Options(
        conf_dir=None if given.observe else given.conf_dir.absolute(),
        foreground=given.foreground,
        no_fork=given.no_fork,
        allow_links=given.allow_links,
        enable=given.enable,
        observe=given.observe,
        sources=sources,
        plugin_dir=plugin_dir,
        runtime_dir=given.runtime_dir.absolute() if given.runtime_dir else None,
    )
    if given.collector:
        from audisp.cli.loopback import run_with_collector

        return run_with_collector(options, run)
    return run(options)


def _absolute(text: str) -> str:
    spec = parse_source(text)
    if spec.type == "file" and spec.path is not None:
        return f"file:{Path(spec.path).absolute()}"
    return str(spec)


if __name__ == "__main__":
    sys.exit(main())
