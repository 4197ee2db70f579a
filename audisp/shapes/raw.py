"""raw and enriched: an event's records as they are, one line each; with what numbers mean behind 0x1D.

The only shapes with more than one line per event: they are for whoever reads records, not events.
"""

from __future__ import annotations

from collections.abc import Iterable

from audisp.event import Event
from audisp.parse.enriched import Enricher
from audisp.shapes.shape import ShapeSettings


class Raw:
    """The records in string form, in order of arrival, EOE and lines without a stamp included: not one byte differs."""

    name = "raw"

    def __init__(self, settings: ShapeSettings) -> None:
        del settings  # nothing in a record depends on any

    def render(self, event: Event) -> bytes:
        """The event's records, each with its LF."""
        return event.raw

    def render_all(self, events: Iterable[Event]) -> list[bytes]:
        """What `render` gives for each."""
        return [event.raw for event in events]


class Enriched:
    """The records in auditd's ENRICHED format (`audisp.parse.enriched`). What is enriched already stays as it came."""

    name = "enriched"

    def __init__(self, settings: ShapeSettings) -> None:
        self._enricher = Enricher(settings.names)

    def render(self, event: Event) -> bytes:
        """The event's records, each with its LF."""
        return self._enricher.enrich(event.raw, event.arrived)

    def render_all(self, events: Iterable[Event]) -> list[bytes]:
        """What `render` gives for each."""
        return [self._enricher.enrich(event.raw, event.arrived) for event in events]
