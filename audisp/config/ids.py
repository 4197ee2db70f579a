"""ids.conf of upstream's audisp-ids: its thresholds and weights, and its reactions in our words.

What the file says is kept; what is done about it is docs/compatibility.md's table. Facts: upstream.md 7.1.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import attrs

from audisp.config.files import AUDITD_CONF, read_checked
from audisp.config.grammar import ConfigErrors, nearest, parse, shown
from audisp.config.reactions import time
from audisp.config.schema import build, key, keys

NAME: Final = "ids.conf"

REACTIONS: Final[Mapping[str, str | None]] = MappingProxyType(
    {
        "ignore": None,
        "log": None,
        "email": "notify",
        "term_process": "kill_process",
        "term_session": "end_session",
        "lock_account": "lock_account",
        "lock_account_timed": "lock_account",
        "block_address": "block_address",
        "block_address_timed": "block_address",
    }
)
"""Upstream's word, and what we do. None: nothing but the alert, which is there anyway. Locks and blocks all have an
end: what is for ever there lasts lock_account_time or block_address_time here."""

REFUSED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "restrict_role": "it changes the SELinux role of an account for good, and nothing says which it had before",
        "password_reset": "it makes whoever logs in next, an attacker perhaps, choose the new password",
        "system_reboot": "whoever can cause an alert could take the host down",
        "system_single_user": "whoever can cause an alert could take the host down",
        "system_halt": "whoever can cause an alert could take the host down",
    }
)
"""Upstream's words that are not carried out, with the reason."""


def reactions(words: tuple[str, ...]) -> tuple[str, ...]:
    """Upstream's words, separated by commas. Raises ValueError; upstream ignores a word that it does not know, and with
    it a reaction that somebody relies on."""
    found: list[str] = []
    for word in ",".join(words).split(","):
        name = word.strip().lower()
        if not name:
            continue
        if name in REFUSED:
            raise ValueError(f"{name} is not carried out here: {REFUSED[name]}")
        if name not in REACTIONS:
            raise ValueError(f"{shown(word)} is no reaction{nearest(name, [*REACTIONS, *REFUSED])}")
        found.append(name)
    if not found:
        raise ValueError("names no reaction")
    return tuple(dict.fromkeys(found))


def kinds(words: tuple[str, ...]) -> tuple[str, ...]:
    """Our kinds for upstream's words."""
    return tuple(dict.fromkeys(kind for word in words if (kind := REACTIONS[word]) is not None))


def _allowed(words: tuple[str, ...]) -> bool:
    if words not in (("0",), ("1",)):
        raise ValueError(f"{shown(' '.join(words))} is neither 0 nor 1")
    return words == ("1",)


def _reaction(name: str, *default: str) -> Any:
    return key(default, read=reactions, name=f"option_{name}_reaction")


def _weight(name: str, default: int) -> Any:
    return key(default, max=1000, name=f"option_{name}")


def _may(name: str) -> Any:
    return key(False, read=_allowed, name=f"option_{name}_allowed")


@attrs.frozen(kw_only=True)
class IdsConf:
    """ids.conf, with the defaults of upstream's code. Times are seconds."""

    origin_threshold: int = _weight("origin_failed_logins_threshold", 8)
    origin_reaction: tuple[str, ...] = _reaction("origin_failed_logins", "block_address")
    session_threshold: int = _weight("session_badness1_threshold", 8)
    session_reaction: tuple[str, ...] = _reaction("session_badness1", "term_session")
    service_login_allowed: bool = _may("service_login")
    service_login_weight: int = _weight("service_login_weight", 5)
    root_login_allowed: bool = _may("root_login")
    root_login_weight: int = _weight("root_login_weight", 5)
    bad_login_weight: int = _weight("bad_login_weight", 1)
    block_address_time: int = key(12 * 3600, read=functools.partial(time))
    lock_account_time: int = key(20 * 60, read=functools.partial(time))


KEYS: Final = tuple(keys(IdsConf))
"""All keys of ids.conf."""


def read(path: Path) -> IdsConf:
    """The settings of this file. Raises FileNotFoundError, ConfigError (ConfigErrors for several)."""
    return from_bytes(read_checked(path, AUDITD_CONF), path)


def from_bytes(data: bytes, path: Path) -> IdsConf:
    """As `read`, of what is in memory."""
    settings, errors = parse(data, path)
    built, more = build(IdsConf, settings, path)
    errors += more
    if errors:
        raise errors[0] if len(errors) == 1 else ConfigErrors(errors)
    assert built is not None
    return built
