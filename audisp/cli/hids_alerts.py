"""`audisp hids alerts`: what the plugin `hids` has told, from its file."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, Final

from audisp.config.reactions import LEVELS
from audisp.errors import AudispError
from audisp.hids.alertfile import NAME, read
from audisp.parse.form import terminal_safe

FOLDER: Final = Path("/var/lib/audisp/plugins/hids")
FOLLOW_SECONDS: Final = 0.5
"""Between two looks for more."""
WHY: Final = 3
"""Of what added to a score, the last that are shown."""


def add_alerts(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `alerts`."""
    each = actions.add_parser(
        "alerts",
        help="show what was recognised, and what was done about it",
        description="The alerts of the plugin hids, oldest first: what was found, how often, the scores, and what the "
        "reactor did. Exit status: 0 there is a file of alerts, 2 there is none, or it cannot be read.",
    )
    each.add_argument("--folder", type=Path, default=FOLDER, metavar="DIR", help=f"the plugin's folder ({FOLDER})")
    each.add_argument("--level", choices=LEVELS, default=LEVELS[0], help="the least level shown")
    each.add_argument("--number", type=_positive, metavar="N", help="one alert, whole, with its records")
    each.add_argument("--last", type=_positive, metavar="N", help="only the last N")
    each.add_argument("--follow", action="store_true", help="go on with what comes")
    each.add_argument("--json", action="store_true", help="one JSON object per line, for programs")


def alerts(given: argparse.Namespace) -> int:
    """Do it; the exit status. Raises AudispError, BrokenPipeError, KeyboardInterrupt."""
    least = LEVELS.index(given.level)
    write = _json if given.json else _whole if given.number is not None else line
    last: deque[dict[str, Any]] = deque(maxlen=given.last)
    following = False

    def wait() -> None:
        nonlocal following
        following = True
        while last:
            print(write(last.popleft()))
        sys.stdout.flush()
        time.sleep(FOLLOW_SECONDS)

    try:
        for each in read(given.folder, wait=wait if given.follow else None):
            if not _wanted(each, least, given.number):
                continue
            # Only as many are kept as are asked for: there may be half a gigabyte of them.
            if given.last is not None and not following:
                last.append(each)
            else:
                print(write(each))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise AudispError(f"{given.folder / NAME}: {error.strerror}") from error
    for each in last:
        print(write(each))
    return 0


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 upwards")
    return int(text)


def line(each: dict[str, Any]) -> str:
    """An alert, or what came of it, in one line for people."""
    number = each.get("alert", 0)
    if "reaction" in each:
        text = f"{each.get('outcome')}: {each.get('reaction')}: {each.get('text')}"
        return _safe(f"{number:>6}    {text}" + (f" (act {each['act']})" if each.get("act") else ""))
    score = each.get("score")
    count = f" x{each['count']}" if each.get("count", 1) > 1 else ""
    node = f" {each['node']}" if each.get("node") else ""
    text = (
        f"{number:>6}  {each.get('time')}{node}  {each.get('level')}  {each.get('title')}{count}  {each.get('event')}"
    )
    process = each.get("process")
    if isinstance(process, dict):
        text += f"  pid {process.get('pid')} {process.get('command_line') or process.get('exe') or ''}"
    if isinstance(score, dict):
        why = [str(one.get("reason")) for one in score.get("why", [])[-WHY:]]
        text += f"  ({score.get('score')}: {'; '.join(why)})"
    return _safe(text)


def _whole(each: dict[str, Any]) -> str:
    """All of an alert, for people."""
    head = {name: value for name, value in each.items() if name != "records"}
    lines = [json.dumps(head, indent=2), *[_safe(str(record)) for record in each.get("records", [])]]
    return "\n".join(lines)


def _json(each: dict[str, Any]) -> str:
    return json.dumps(each)


def _safe(text: str) -> str:
    safe = terminal_safe(text.encode("utf-8", "surrogateescape"))
    return safe.encode("utf-8", "backslashreplace").decode()


def _wanted(each: dict[str, Any], least: int, number: int | None) -> bool:
    if number is not None:
        return each.get("alert") == number
    level = each.get("level")
    return level not in LEVELS or LEVELS.index(level) >= least
