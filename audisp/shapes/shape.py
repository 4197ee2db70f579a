"""What a shape is: an event in, one line out.

A shape is made once for all who ask for it with the same settings, renders each event once, and everybody gets the
same bytes. It may remember what it has rendered before, in memories that are bounded in bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import attrs

from audisp.event import Batch, Event
from audisp.parse.interpret import Names, Nobody

__all__ = ["Names", "Nobody", "Shape", "ShapeSettings", "render_batch"]


@attrs.frozen
class ShapeSettings:
    """What a shape may want to know beside the event.

    version: `shape_version`; "" for the shape's default. names: for ids that the event brings no name for. host: this
    host's name, for shapes that want one where the event has no node. enrichment: what is known of the event's process
    beyond its records (`audisp.enrich`), None if nothing is looked up.
    """

    version: str = ""
    names: Names = attrs.field(factory=Nobody)
    host: str = ""
    enrichment: Callable[[Event], Any] | None = None


class Shape(Protocol):
    """One way to write events. Used by one thread at a time."""

    def render(self, event: Event) -> bytes:
        """One line with its LF, no other LF in it; b"" for an event that has no line in this shape, such as an EOE that
        came alone. Never raises on an event, whatever is in it."""


def render_batch(shape: Shape, batch: Batch) -> list[bytes]:
    """The text of each of the batch's events, in the quickest way that the shape has: a batch at once, its events at
    once, or one after the other."""
    quickest: Callable[[Batch], list[bytes]] | None = getattr(shape, "render_batch", None)
    if quickest is not None:
        return quickest(batch)
    quick: Callable[[list[Event]], list[bytes]] | None = getattr(shape, "render_all", None)
    return quick(batch.events) if quick is not None else [*map(shape.render, batch.events)]
