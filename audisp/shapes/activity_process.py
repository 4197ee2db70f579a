"""What is known of an event's process beyond its records, as shapes see it: `audisp.enrich` finds it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from audisp.event import Event
from audisp.parse.cgroup import Container
from audisp.parse.processes import Process


class Known(Protocol):
    """The part of `audisp.enrich.facts.Enrichment` that shapes read. What is no str, or no Container, is not known."""

    @property
    def process(self) -> Process | None:
        """Itself."""

    @property
    def container(self) -> object:
        """The container it is in."""

    @property
    def unit(self) -> object:
        """systemd's unit."""

    @property
    def user_unit(self) -> str | None:
        """The unit of the user's systemd."""

    @property
    def slice(self) -> str | None:
        """systemd's slice."""

    @property
    def cgroup(self) -> object:
        """Its control group."""

    @property
    def parents(self) -> tuple[Process, ...]:
        """Its ancestors, the nearest first."""

    @property
    def script(self) -> object:
        """What its interpreter was started for."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Chosen variables of its environment."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels by rule."""

    @property
    def unknown(self) -> tuple[str, ...]:
        """The parts that could not be found out."""


def known(enrichment: Callable[[Event], Any] | None, event: Event) -> Known | None:
    """What is known of the event's process; None if nothing is looked up."""
    found: Known | None = None if enrichment is None else enrichment(event)
    return found


def container(of: Known) -> Container | None:
    """The container, if it is in one and that is known."""
    found = of.container
    return found if isinstance(found, Container) else None


def parent(of: Known, ppid: int | None) -> Process | None:
    """The parent, if that is the one the event names."""
    found = of.parents[0] if of.parents else None
    return found if found is not None and ppid in (None, found.pid) else None


def rest(of: Known) -> dict[str, Any]:
    """What no schema has a place for, by our names."""
    out: dict[str, Any] = {}
    for name in ("unit", "user_unit", "slice", "cgroup", "script"):
        text = getattr(of, name)
        if isinstance(text, str):
            out[name] = text
    if of.labels:
        out["labels"] = list(of.labels)
    if of.environment:
        out["environment"] = dict(of.environment)
    ancestors = [_ancestor(each) for each in of.parents]
    if ancestors:
        out["parents"] = ancestors
    if of.unknown:
        out["unknown"] = list(of.unknown)
    return out


def _ancestor(of: Process) -> dict[str, Any]:
    found: dict[str, Any] = {"pid": of.pid}
    for name in ("exe", "comm", "event_id"):
        text = getattr(of, name)
        if text is not None:
            found[name] = text
    if of.argv is not None:
        found["argv"] = list(of.argv)
    return found
