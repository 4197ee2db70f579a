"""What counts how much: the settings of the scores, and why each default is what it is.

Upstream's models keep upstream's numbers (upstream.md 7.1); all else is measured against its thresholds of 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, get_args

import attrs

EntityKind: TypeAlias = Literal["address", "account", "session", "tree"]
KINDS: Final[tuple[EntityKind, ...]] = get_args(EntityKind)

LEVEL_WEIGHTS: Final[Mapping[str, float]] = MappingProxyType(
    {"informational": 0, "low": 1, "medium": 2, "high": 4, "critical": 8}
)
"""By Sigma's levels. One critical finding is a threshold, as its level says; two high ones are, four medium ones."""
KEY_WEIGHTS: Final[Mapping[str, float]] = MappingProxyType(
    {"ids-recon": 2, "ids-archive": 5, "ids-mkexec": 4, "ids-connections": 6}
)
"""By audit keys; upstream's."""
THRESHOLDS: Final[Mapping[EntityKind, float]] = MappingProxyType({"address": 8, "account": 24, "session": 8, "tree": 8})
"""Upstream's for addresses and sessions. A tree is to a service what a session is to a person. An account adds up over
all its sessions, and over failures that anybody can cause: three times that."""
HOUR: Final = 3600
HALF_LIVES: Final[Mapping[EntityKind, int]] = MappingProxyType(
    {"address": 6 * HOUR, "account": 6 * HOUR, "session": HOUR, "tree": HOUR}
)
"""Seconds until half of a score is left. Of an address, a wrong password every 69 minutes adds up to 8 in the end, and
three a day to 1.7. What belongs together in a session follows within minutes: archive (5) and mkexec (4) are 8 together
if they are no more than 19 minutes apart, and no longer on the next day."""
NEARLY: Final = 0.9875
"""Of a threshold, what counts as having reached it: eight failures are eight, also after the ten minutes in which they
have lost a tenth of one."""
CAP: Final = 4
"""Thresholds that a score has at most, so that two and three half-lives after the worst it is below half of one."""
RULE_LIMIT: Final = 2
"""Times its weight that one rule is of a present score: what fires every second because it fits the host badly is no
attack by itself, unless it is of level high or above."""
FIRST_SEEN: Final = 1
FIRST_SEEN_LIMIT: Final = 3
"""Of a present score; and never more than FIRST_SEEN_SHARE of a threshold. Something new happens on every host after
every upgrade."""
FIRST_SEEN_SHARE: Final = 0.4
TACTIC_BONUS: Final = 2
"""For each ATT&CK tactic beyond the first: an attack goes on to the next, a rule that fits badly stays with its own."""
LINKED: Final = 2
"""What an address gets for a session or a tree that came from it and reached its threshold; upstream's."""
LEARNING: Final = 7 * 86_400
"""Seconds: a week has each weekly job in it."""
MIN_SUPPORT: Final = 20
"""Observations of a user, or of a parent, before something new about it means anything."""
MAX_ENTITIES: Final = 4_096
"""Of each kind. Some 3 KiB each at most: 48 MiB for all when every one is full of reasons, a quarter in practice."""
MAX_PAIRS: Final = 16_384
"""Remembered of each kind of first-seen, at some 300 bytes: a busy host has two thousand."""

MAX_ROWS: Final = 1 << 16
"""What max_entities and max_pairs may be at most: 192 MiB of a kind."""

SERVICES: Final = frozenset(
    {
        "daemon",
        "bin",
        "sys",
        "sync",
        "games",
        "man",
        "lp",
        "mail",
        "news",
        "uucp",
        "proxy",
        "www-data",
        "backup",
        "list",
    }
    | {"irc", "_apt", "nobody", "sshd", "messagebus", "postgres", "mysql", "nginx", "apache", "ftp", "systemd-network"}
    | {
        "systemd-resolve",
        "systemd-timesync",
        "polkitd",
        "tss",
        "chrony",
        "redis",
        "halt",
        "shutdown",
        "operator",
        "adm",
    }
)
"""Accounts that no person logs in with, where nobody has looked into passwd(5): Debian's and Fedora's."""
MIN_PERSON: Final = 1000
"""The first number of a person's account (UID_MIN of login.defs)."""


def _positive(_: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{attribute.name}: {value} is not above 0")


def _rows(_: object, attribute: attrs.Attribute[Any], value: int) -> None:
    if not 2 <= value <= MAX_ROWS:
        raise ValueError(f"{attribute.name}: {value} is not from 2 to {MAX_ROWS:,}")


def _kinds(_: object, attribute: attrs.Attribute[Any], value: Mapping[EntityKind, float]) -> None:
    if set(value) != set(KINDS) or not all(0 < each < float("inf") for each in value.values()):
        raise ValueError(f"{attribute.name}: a number above 0 for each of {', '.join(KINDS)} is wanted")


@attrs.frozen(kw_only=True)
class ScoreSettings:
    """Defaults are upstream's code's where it has any. ValueError for what makes no sense.

    origin_threshold and session_threshold, and the fields of logins, are as ids.conf names them; account_threshold and
    tree_threshold are ours. half_lives and learning: seconds of the events' own time. services: accounts that no person
    logs in with; who can read passwd(5) says better which. max_entities: of each kind.
    """

    origin_threshold: float = attrs.field(default=THRESHOLDS["address"], validator=_positive)
    session_threshold: float = attrs.field(default=THRESHOLDS["session"], validator=_positive)
    account_threshold: float = attrs.field(default=THRESHOLDS["account"], validator=_positive)
    tree_threshold: float = attrs.field(default=THRESHOLDS["tree"], validator=_positive)
    bad_login_weight: float = 1
    root_login_weight: float = 5
    root_login_allowed: bool = False
    service_login_weight: float = 5
    service_login_allowed: bool = False
    services: frozenset[str] = SERVICES
    levels: Mapping[str, float] = LEVEL_WEIGHTS
    keys: Mapping[str, float] = KEY_WEIGHTS
    anomaly_weight: float = 2
    """Of an AVC and of ANOM_PROMISCUOUS, ANOM_ABEND, ANOM_LINK, ANOM_CREAT."""
    fanotify_weight: float = 12
    linked_weight: float = LINKED
    tactic_bonus: float = TACTIC_BONUS
    first_seen_weight: float = FIRST_SEEN
    half_lives: Mapping[EntityKind, float] = attrs.field(default=HALF_LIVES, validator=_kinds)
    cap: float = attrs.field(default=CAP, validator=_positive)
    learning: float = LEARNING
    min_support: int = MIN_SUPPORT
    max_entities: int = attrs.field(default=MAX_ENTITIES, validator=_rows)
    max_pairs: int = attrs.field(default=MAX_PAIRS, validator=_rows)

    def threshold(self, kind: EntityKind) -> float:
        """Of a kind of entity."""
        return {
            "address": self.origin_threshold,
            "session": self.session_threshold,
            "account": self.account_threshold,
            "tree": self.tree_threshold,
        }[kind]
