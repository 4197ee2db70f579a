"""The settings of the scores, from what an administrator has: upstream's ids.conf, and passwd(5)."""

from __future__ import annotations

import pwd
from pathlib import PurePosixPath
from typing import Final

import attrs

from audisp.config.ids import IdsConf
from audisp.detect.weights import LEARNING, MIN_PERSON, ScoreSettings

NO_SHELLS: Final = frozenset({"nologin", "false", "sync", "halt", "shutdown"})
"""Programs in place of a shell with which nobody can log in, wherever they are."""


def settings_of(
    conf: IdsConf | None, services: frozenset[str] | None = None, *, learning: float = LEARNING
) -> ScoreSettings:
    """What ids.conf says, and for all else the defaults. services: accounts that no person logs in with; None for the
    usual ones. learning: seconds. Raises ValueError for what makes no sense: a threshold of 0."""
    if conf is None:
        found = ScoreSettings(learning=learning)
        return found if services is None else attrs.evolve(found, services=services)
    found = ScoreSettings(
        learning=learning,
        origin_threshold=conf.origin_threshold,
        session_threshold=conf.session_threshold,
        bad_login_weight=conf.bad_login_weight,
        root_login_weight=conf.root_login_weight,
        root_login_allowed=conf.root_login_allowed,
        service_login_weight=conf.service_login_weight,
        service_login_allowed=conf.service_login_allowed,
    )
    return found if services is None else attrs.evolve(found, services=services)


def service_accounts() -> frozenset[str]:
    """This host's accounts that no person logs in with: below UID_MIN or without a shell, and not root. Asks the user
    database, which may ask the network: once, at the start."""
    return frozenset(
        each.pw_name
        for each in pwd.getpwall()
        if each.pw_uid != 0 and (each.pw_uid < MIN_PERSON or PurePosixPath(each.pw_shell).name in NO_SHELLS)
    )
