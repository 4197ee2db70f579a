"""`audisp hids`: its arguments. What it does is in `audisp.cli.hids_test` and `hids_check`, imported when asked for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from audisp.cli.hids_alerts import add_alerts
from audisp.cli.hids_reactions import add_reactions

EXIT_USAGE: Final = 2
"""As argparse's own for arguments that make no sense, and for rules or files that cannot be used."""


def add_hids(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `hids` and its subcommands."""
    parser = commands.add_parser(
        "hids",
        help="test and check detection rules",
        description="Detection rules in Sigma's format, on audit events. Needs the optional extra hids "
        "(pip install 'audisp[hids]').",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    each = actions.add_parser(
        "test",
        help="replay logs against rules",
        description="Read audit logs, plain or compressed (gzip, xz, zstd; - is standard input), oldest first, and say "
        "which rules are true of which events. Rules that cannot be used are counted on standard error; audisp hids "
        "check lists them. Exit status: 0 all was read, whether or not anything was found, 2 a file or the rules could "
        "not be used.",
    )
    each.add_argument("files", nargs="+", metavar="FILE")
    _add_rules(each)
    each.add_argument("--json", action="store_true", help="one JSON object per finding and line, for programs")
    each.add_argument(
        "--timing", action="store_true", help="on standard error, how long each rule took, the most expensive first"
    )
    each.add_argument(
        "--no-prefilter",
        dest="prefilter",
        action="store_false",
        help="ask every rule of every record of its type; finds the same, slowly",
    )
    each.add_argument(
        "--scores",
        action="store_true",
        help="say as well which address, account, session or process tree reached its threshold, and why",
    )
    each.add_argument(
        "--ids-conf",
        type=Path,
        metavar="FILE",
        help="weights and thresholds of logins and sessions from upstream's ids.conf; with --scores, which it implies",
    )
    each = actions.add_parser(
        "check",
        help="say which rules can be used, and what they need",
        description="Load all rules; list those that are refused, with the reason, those that are loaded and cannot "
        "fire, and the audit rules (auditctl's -w and -S) that each needs and that are missing here. Exit status: 0 "
        "every rule for audit records is loaded, 1 some are refused, 2 the rules could not be read.",
    )
    _add_rules(each)
    each.add_argument("--json", action="store_true", help="one JSON object, for programs")
    each.add_argument(
        "--audit-rules",
        type=Path,
        metavar="FILE",
        help="compare with this file of auditctl's lines; by default with what the kernel has loaded",
    )
    add_alerts(actions)
    add_reactions(actions)


def _add_rules(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rules",
        type=Path,
        action="append",
        required=True,
        metavar="DIR",
        help="a folder with rules (*.yml) or one such file; repeatable",
    )


def hids(given: argparse.Namespace) -> int:
    """Do it; returns the exit status. Raises BrokenPipeError if standard output has no reader, KeyboardInterrupt."""
    if given.action == "reactions":
        from audisp.cli.hids_reactions import reactions

        return reactions(given)
    if given.action == "alerts":
        from audisp.cli.hids_alerts import alerts

        return alerts(given)
    from audisp.hids.load import require_extra

    require_extra()
    if given.action == "test":
        from audisp.cli.hids_test import test

        return test(
            given.files,
            given.rules,
            as_json=given.json,
            timing=given.timing,
            prefilter=given.prefilter,
            scoring=given.scores,
            ids_conf=given.ids_conf,
        )
    from audisp.cli.hids_check import check

    return check(given.rules, given.audit_rules, as_json=given.json)
