"""What the scores are to go by on this host: ids.conf's thresholds and weights, and who is no person here."""

from __future__ import annotations

import pwd

from audisp.config.ids import IdsConf
from audisp.detect.weights import MIN_PERSON, SERVICES, ScoreSettings


def settings_of(ids: IdsConf | None, learning: float, services: frozenset[str] = SERVICES) -> ScoreSettings:
    """ids.conf's keys mean what they mean there; the rest are our defaults. learning: seconds."""
    if ids is None:
        return ScoreSettings(learning=learning, services=services)
    return ScoreSettings(
        origin_threshold=max(ids.origin_threshold, 1),
        session_threshold=max(ids.session_threshold, 1),
        bad_login_weight=ids.bad_login_weight,
        root_login_weight=ids.root_login_weight,
        root_login_allowed=ids.root_login_allowed,
        service_login_weight=ids.service_login_weight,
        service_login_allowed=ids.service_login_allowed,
        learning=learning,
        services=services,
    )


def services_here() -> frozenset[str]:
    """Accounts of this host that no person logs in with, beside those that are known anywhere: numbers below a
    person's, root aside."""
    return SERVICES | {entry.pw_name for entry in pwd.getpwall() if 0 < entry.pw_uid < MIN_PERSON}
