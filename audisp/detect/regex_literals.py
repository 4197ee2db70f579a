"""Texts of which one must occur wherever a regular expression matches, read off its surface.

Only what is certain is said: runs of plain characters outside of any bracket, and small choices between single
characters within a run. Anything else ends a run. Nothing is said of an expression with a choice at the top, or one
that changes its own flags in between.
"""

from __future__ import annotations

import re
from typing import Final

MAX_CHOICES: Final = 16
"""Texts made of one run with choices in it."""
LONGEST: Final = 64
"""Characters of a run that are used."""

_SPECIAL: Final = frozenset("\\^$.|?*+()[]{}")
_FOLDED: Final = frozenset("kKsS")
"""Letters that are also others beyond ASCII (the Kelvin sign, the long s), which no text in lower case shows."""
_QUANTIFIER: Final = re.compile(r"[?*+]|\{[0-9]*,?[0-9]*\}")
_CHOICE: Final = re.compile(r"\((?:\?:)?([^\\^$.|?*+()\[\]{}](?:\|[^\\^$.|?*+()\[\]{}])*)\)")
_SET: Final = re.compile(r"\[([A-Za-z0-9_/ ]{1,8})\]")


def required(pattern: str, flags: str) -> list[str] | None:
    """The texts, in the pattern's own letters; None if nothing is certain. flags: as of `audisp.detect.form.Regex`."""
    fold = "i" in flags
    if pattern.startswith("(?i)"):
        pattern, fold = pattern[4:], True
    if "x" in flags or "(?" in pattern.replace("(?:", ""):
        return None
    best: list[str] = []
    for run in _runs(pattern, fold=fold) or ():
        if _worth(run) > _worth(best):
            best = run
    return best or None


def _worth(texts: list[str]) -> float:
    return min(map(len, texts), default=0) - len(texts) / 100


def _runs(pattern: str, *, fold: bool) -> list[list[str]] | None:
    """Each run as the texts it may be; None for a choice at the top. fold: capital letters do not count."""
    runs: list[list[str]] = []
    current = [""]
    at = 0
    while at < len(pattern):
        step = _atom(pattern, at)
        if step is None:
            return None
        choices, end = step
        if fold and not _FOLDED.isdisjoint("".join(choices)):
            choices = []
        quantified = _QUANTIFIER.match(pattern, end)
        fits = choices and quantified is None and len(current) * len(choices) <= MAX_CHOICES
        if fits and len(current[0]) < LONGEST:
            current = [text + each for text in current for each in choices]
        else:
            runs.append(current)
            current = [""]
        at = end if quantified is None else quantified.end()
    runs.append(current)
    return [[text for text in run if text] for run in runs]


def _atom(pattern: str, at: int) -> tuple[list[str], int] | None:
    """What stands at a place: the characters it may be ([]: not said), and where it ends. None for a choice."""
    char = pattern[at]
    if char == "|":
        return None
    if char == "\\":
        following = pattern[at + 1 : at + 2]
        # \Q begins a quotation, \x, \p and \1 mean something else, \d and \s a class.
        if not following or following == "Q":
            return None
        return ([following] if not following.isalnum() else []), _escape_end(pattern, at)
    if char == "(":
        choice = _CHOICE.match(pattern, at)
        if choice is not None:
            return choice[1].split("|"), choice.end()
        end = _closing(pattern, at)
        return None if end is None else ([], end)
    if char == "[":
        found = _SET.match(pattern, at)
        if found is not None:
            return list(dict.fromkeys(found[1])), found.end()
        return [], _set_end(pattern, at)
    return ([] if char in _SPECIAL else [char]), at + 1


def _escape_end(pattern: str, at: int) -> int:
    """Behind an escape: ``\\x{41}``, ``\\x41``, ``\\p{L}``, ``\\pL``, ``\\012``, or one character."""
    found = re.compile(r"\\(?:x(?:\{[^}]*\}|[0-9A-Fa-f]{0,2})|[pP](?:\{[^}]*\}|.)|[0-7]{1,3}|.)", re.S).match(
        pattern, at
    )
    return len(pattern) if found is None else found.end()


def _set_end(pattern: str, at: int) -> int:
    """Behind a set of characters. A ``]`` that comes first is in it."""
    at += 1
    if pattern[at : at + 1] == "^":
        at += 1
    first = True
    while at < len(pattern):
        if pattern[at] == "\\":
            at = _escape_end(pattern, at)
        elif pattern.startswith("[:", at):
            end = pattern.find(":]", at)
            at = len(pattern) if end < 0 else end + 2
        elif pattern[at] == "]" and not first:
            return at + 1
        else:
            at += 1
        first = False
    return at


def _closing(pattern: str, at: int) -> int | None:
    """Behind the bracket that closes the one here."""
    depth = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            if pattern[at + 1 : at + 2] == "Q":
                return None
            at = _escape_end(pattern, at)
            continue
        if char == "[":
            at = _set_end(pattern, at)
            continue
        depth += (char == "(") - (char == ")")
        at += 1
        if not depth:
            return at
    return None
