"""`audisp hids test --scores`: where its settings come from, and how a score is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from audisp.config.ids import read
from audisp.detect.scores import Scores
from audisp.detect.standing import Scored
from audisp.errors import ConfigError
from audisp.hids.scoring import settings_of
from audisp.hids.told import standing, when
from audisp.parse.form import terminal_safe


def scores_of(ids_conf: Path | None) -> Scores:
    """New scores. Raises ConfigError for an ids.conf that is not there, or cannot be used."""
    if ids_conf is None:
        return Scores()
    try:
        return Scores(settings_of(read(ids_conf)))
    except FileNotFoundError as error:
        raise ConfigError("there is no such file", path=ids_conf) from error
    except ValueError as error:
        raise ConfigError(str(error), path=ids_conf) from error


def scored(given: Scored) -> dict[str, Any]:
    """As an object for JSON: `docs/hids.md` names the keys."""
    id_ = given.event.id
    return {
        **standing(given),
        "serial": id_.serial,
        "node": id_.node,
        "time": when(given.event),
        "event": str(id_),
    }


def scored_object(given: Scored) -> bytes:
    """A line of JSON."""
    return json.dumps(scored(given)).encode() + b"\n"


def scored_line(given: Scored) -> bytes:
    """A line for people, in which nothing steers a terminal."""
    node = given.event.node
    why = ", ".join(f"{reason} +{weight:g}" for _, weight, reason in given.contributions)
    firm = "" if given.sure else f", {given.firm:.1f} of it firm"
    line = (
        f"{when(given.event)}{' ' + node if node else ''} score {given.kind} {given.key} "
        f"{given.score:.1f} of {given.threshold:g}{firm} {given.event.id}: {why}"
    )
    return terminal_safe(line.encode("utf-8", "surrogateescape")).encode("utf-8", "backslashreplace") + b"\n"
