"""From an attrs class to the keys of a file: what is missing, misspelt or out of range becomes a located error.

Field types: str, int (0 to INT_MAX unless min and max say otherwise), float (seconds), bool (yes/no), pathlib.Path,
tuple[str, ...] (words), Literal of words (case does not matter, the class's spelling is stored), and any of these with
`| None`. A field without default is mandatory. A later occurrence of a key replaces an earlier one, as in auditd.

Field metadata (all optional, see `key`): min, max (inclusive, int and float), repeat (a tuple[str, ...] field collects
every occurrence, one item per line), rest (a str takes the rest of the line), check (of a rest: raises ValueError),
read (own reader: words -> value, raises ValueError with a message), name (the key, where it is not the field's name),
show (text of the range in messages).
"""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin

import attrs

from audisp.config.grammar import MAX_ERRORS, Setting, nearest, shown
from audisp.errors import ConfigError

INT_MAX: Final = 2**31 - 1
"""Largest plain number, as in auditd, which stores most of them in an int."""

DIGITS: Final = 20
"""Most digits of a number: more than 64 bits need. Bounds the work that a line of digits can ask for."""

_NO_LIMITS: Final[Mapping[str, Any]] = types.MappingProxyType({})

Reader = Callable[[tuple[str, ...]], Any]
T = TypeVar("T")


def key(
    default: Any = attrs.NOTHING,
    *,
    min: int | float | None = None,
    max: int | float | None = None,
    repeat: bool = False,
    rest: bool = False,
    read: Reader | None = None,
    name: str | None = None,
    check: Callable[[str], None] | None = None,
) -> Any:
    """An attrs field that is a key of a file, with its limits. Plain attrs fields work too."""
    given = {"min": min, "max": max, "repeat": repeat, "rest": rest, "read": read, "name": name, "check": check}
    return attrs.field(default=default, metadata={word: value for word, value in given.items() if value})


def keys(cls: type) -> dict[str, attrs.Attribute[Any]]:
    """The keys that `cls` declares, with their fields, types resolved. Raises TypeError if cls is no attrs class."""
    if not attrs.has(cls):
        raise TypeError(f"{cls!r} is no attrs class")
    attrs.resolve_types(cls)
    return {
        field.metadata.get("name") or field.name.lower(): field
        for field in attrs.fields(cls)
        if field.init and not field.metadata.get("internal")
    }


def build(
    cls: type[T],
    settings: Iterable[Setting],
    path: Path | str,
    *,
    ignore: Collection[str] = (),
    hints: Collection[str] = (),
) -> tuple[T | None, list[ConfigError]]:
    """One `cls` from the settings of a file; or None and every reason why not.

    Keys in `ignore` are somebody else's and skipped; `hints` are other words that a misspelt key may have meant. An
    error is located in the setting's own file, `path` is for what has none. Raises TypeError if `cls` has a field of a
    type that no key can have: that is the author's mistake, not the file's.
    """
    fields = keys(cls)
    values: dict[str, Any] = {}
    collected: dict[str, list[str]] = {}
    seen: dict[str, Setting] = {}
    errors: list[ConfigError] = []
    for setting in settings:
        if len(errors) >= MAX_ERRORS:
            errors.append(ConfigError("too many errors, the rest is not shown", path=path, line=setting.line))
            break
        field = fields.get(setting.key)
        if field is None:
            if setting.key not in ignore:
                errors.append(unknown(setting, path, [*fields, *ignore, *hints]))
            continue
        seen[setting.key] = setting
        try:
            value = _value(field, setting)
        except ValueError as problem:
            errors.append(located(setting, str(problem), path))
            continue
        alias = field.alias or field.name
        if field.metadata.get("repeat"):
            collected.setdefault(alias, []).append(value)
        else:
            values[alias] = value
    for name, field in fields.items():
        if field.default is attrs.NOTHING and name not in seen:
            errors.append(ConfigError("is missing, and has no default", path=path, key=name))
    if errors:
        return None, errors
    values.update((alias, tuple(items)) for alias, items in collected.items())
    try:
        return cls(**values), []
    except ConfigError as problem:
        # A check of several keys at once, which names one of them: we know where that stands.
        if problem.path is None and problem.key in seen:
            return None, [located(seen[problem.key], problem.message, path)]
        return None, [problem if problem.path else ConfigError(problem.message, path=path, key=problem.key)]
    except (ValueError, TypeError) as problem:
        # An author's own attrs validator said no. Its first argument is the message; attrs adds the rest.
        message = problem.args[0] if problem.args else str(problem)
        return None, [ConfigError(str(message), path=path)]


def located(setting: Setting, message: str, path: Path | str) -> ConfigError:
    """The error of one setting; `path` if the setting has no file."""
    return ConfigError(message, path=setting.file or path, line=setting.line, key=setting.key)


def unknown(setting: Setting, path: Path | str, valid: Iterable[str]) -> ConfigError:
    """The error for a key that nobody knows, with the nearest one that somebody does."""
    return ConfigError(
        f"unknown key {shown(setting.key)}{nearest(setting.key, valid)}",
        path=setting.file or path,
        line=setting.line,
    )


def _value(field: attrs.Attribute[Any], setting: Setting) -> Any:
    """The setting as a value of the field's type. Raises ValueError with what is wrong."""
    read: Reader | None = field.metadata.get("read")
    if read is not None:
        return read(setting.words)
    kind = _bare(field.type)
    if field.metadata.get("rest") or (field.metadata.get("repeat") and len(setting.words) > 1):
        check: Callable[[str], None] | None = field.metadata.get("check")
        if check is not None:
            check(setting.text)
        return setting.text
    if get_origin(kind) is tuple:
        return setting.words[0] if field.metadata.get("repeat") else setting.words
    word = one(setting.words)
    if kind is bool:
        return yes_no(word)
    if kind is int:
        return number(word, field.metadata)
    if kind is float:
        return seconds(word, field.metadata)
    if kind is str:
        return word
    if kind is Path:
        return Path(word)
    if get_origin(kind) is Literal:
        return choice(word, get_args(kind))
    raise TypeError(f"{field.name}: no key can have the type {field.type!r}")


def _bare(kind: Any) -> Any:
    """The type without `| None`."""
    if get_origin(kind) in (Union, types.UnionType):
        left = [part for part in get_args(kind) if part is not type(None)]
        if len(left) == 1:
            return left[0]
    return kind


def one(words: tuple[str, ...]) -> str:
    """The only word. Raises ValueError if there are more."""
    if len(words) > 1:
        hint = ": a comment needs a line of its own" if words[1].startswith("#") else ""
        raise ValueError(f"takes one value, but there is {shown(' '.join(words[1:]))} behind it{hint}")
    return words[0]


def yes_no(word: str) -> bool:
    """yes or no, in any case. Raises ValueError."""
    return choice(word, ("yes", "no")) == "yes"


def choice(word: str, choices: Collection[str]) -> str:
    """The one of `choices` that `word` is, whatever its case. Raises ValueError."""
    lower = word.lower()
    for valid in choices:
        if valid.lower() == lower:
            return valid
    raise ValueError(f"{shown(word)} is not one of {', '.join(choices)}{_hint(word, choices)}")


def _hint(word: str, choices: Collection[str]) -> str:
    if "\t" in word:
        return " (a tab does not separate words, use spaces)"
    return nearest(word, choices)


def number(word: str, limits: Mapping[str, Any] = _NO_LIMITS) -> int:
    """A whole number in decimal digits. limits: min (default 0), max (default INT_MAX). Raises ValueError."""
    low, high = limits.get("min") or 0, limits.get("max") or INT_MAX
    digits = word.removeprefix("-") if low < 0 else word
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"{shown(word)} is not a whole number")
    value = int(word) if len(word) <= DIGITS else None
    if value is None or not low <= value <= high:
        raise ValueError(f"{shown(word)} is out of range: {low} to {high}")
    return value


def seconds(word: str, limits: Mapping[str, Any] = _NO_LIMITS) -> float:
    """A time in seconds, as digits with at most one point. limits as for `number`. Raises ValueError."""
    low, high = limits.get("min") or 0, limits.get("max") or INT_MAX
    whole, _, part = word.partition(".")
    if len(word) > DIGITS or not (whole + part).isascii() or not whole.isdigit() or (part and not part.isdigit()):
        raise ValueError(f"{shown(word)} is not a number of seconds")
    value = float(word)
    if not low <= value <= high:
        raise ValueError(f"{shown(word)} is out of range: {low} to {high}")
    return value
