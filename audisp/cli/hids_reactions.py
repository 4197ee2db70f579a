"""`audisp hids reactions`: what the reactor has done, undoing one act, closing the breaker."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from audisp.config.grammar import shown
from audisp.errors import AudispError

if TYPE_CHECKING:
    from audisp.react.books import Act, Now

CONFIG: Final = Path("/etc/audit/reactions.conf")
STATE: Final = Path("/var/lib/audisp/reactor")
EXIT_FAILED: Final = 1


def add_reactions(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `reactions` and its subcommands."""
    parser = actions.add_parser(
        "reactions",
        help="show what was done, undo it, close the breaker",
        description="What the reactor has done (docs/reactions.md). list reads its journal; undo and resume ask the "
        "running reactor, and without one do it themselves. Exit status: 0 done, 1 it could not be undone, or the "
        "breaker was closed already, 2 there is no such act, or the journal cannot be used.",
    )
    asked = parser.add_subparsers(dest="asked", required=True, metavar="WHAT")
    each = asked.add_parser("list", help="acts, oldest first, and the breaker")
    each.add_argument("--json", action="store_true", help="one JSON object per act and line, for programs")
    each.add_argument("--open", action="store_true", help="only what is in force")
    _add_places(each)
    each = asked.add_parser("undo", help="undo one act before its time")
    each.add_argument("id", type=int, metavar="ID", help="the act's number, as list shows it")
    _add_places(each)
    each = asked.add_parser("resume", help="close the breaker, so that acts are allowed again")
    _add_places(each)


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--state", type=Path, default=STATE, metavar="DIR", help=f"the journal's folder ({STATE})")
    parser.add_argument(
        "--config", type=Path, default=CONFIG, metavar="FILE", help=f"used where no reactor runs ({CONFIG})"
    )


def reactions(given: argparse.Namespace) -> int:
    """Do it; the exit status. Raises AudispError."""
    if given.asked == "list":
        return _list(given.state, as_json=given.json, only_open=given.open)
    from audisp.react import alone
    from audisp.react.control import ask

    try:
        if given.asked == "undo":
            answer = ask(given.state, op="undo", id=given.id)
            if answer is None:
                result = alone.undo(given.config, given.state, given.id)
                answer = {"outcome": result.outcome.value, "text": result.text}
            print(shown(str(answer["text"]), 1000).strip("'"))
            return 0 if answer["outcome"] == "undone" else EXIT_FAILED
        answer = ask(given.state, op="resume")
        was_open = alone.resume(given.config, given.state) if answer is None else bool(answer["was_open"])
    except FileNotFoundError as error:
        raise AudispError(f"{error.filename}: is missing") from error
    print("the breaker is closed" if was_open else "the breaker was not open")
    return 0 if was_open else EXIT_FAILED


def _list(state: Path, *, as_json: bool, only_open: bool) -> int:
    from audisp.react.books import Books
    from audisp.react.clock import Clock
    from audisp.react.journal import look

    if not state.is_dir():
        print(f"{state}: no journal, so nothing was ever done", file=sys.stderr)
        return 0
    books = Books()
    for entry in look(state):
        books.take(entry)
    now = Clock()()
    acts = [act for _, act in sorted(books.acts.items()) if act.undoable or not only_open]
    for act in acts:
        print(json.dumps(_told(act, now)) if as_json else _line(act, now))
    if books.breaker and not as_json:
        print(f"the breaker is open: {shown(books.breaker, 200)}; close it with: audisp hids reactions resume")
    return 0


def _told(act: Act, now: Now) -> dict[str, Any]:
    import attrs

    told = attrs.asdict(act, filter=lambda field, _: field.name not in ("saved", "boot", "boot_id"))
    left = max(0, int(act.left(now))) if act.undoable and act.seconds else None
    return {**told, "in_force": act.undoable, "left": left}


def _line(act: Act, now: Now) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(act.wall))
    step = act.step
    if act.undoable:
        step = f"in force, {max(0, int(act.left(now)))} s left" if act.seconds else "in force"
    return f"{act.id:>6}  {when}  {act.kind:<14} {shown(act.subject, 80)}  {step}  {act.level} {shown(act.rule, 80)}"
