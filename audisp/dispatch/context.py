"""What this host knows of an event's process, looked up while the event is fresh and carried along with its batch.

Asked once per event, in the source's thread, in the order of completion: the table of processes lives on that order
(docs/decisions/0009). Reading /proc is bounded there (`audisp.enrich.proc`): an event waits for its deadline at most.
"""

from __future__ import annotations

from pathlib import Path

from audisp.config.audispd import AudispdConf
from audisp.enrich import kept
from audisp.enrich.enricher import Enricher
from audisp.enrich.events import facts_of
from audisp.enrich.facts import PARTS, Enrichment, EnrichSettings, Name
from audisp.enrich.live import begin, finish
from audisp.enrich.worker import Say
from audisp.event import Batch, Event
from audisp.parse.labels import LabelRules, rule


def settings(own: AudispdConf) -> EnrichSettings:
    """What audispd.conf asks for."""
    rules = [*(rule(text.split()) for text in own.label), *(rule(text.split(), remove=True) for text in own.unlabel)]
    wanted = {*own.enrich, *(("environment",) if own.enrich_env else ())}
    parts: frozenset[Name] = frozenset(part for part in PARTS if part in wanted)
    labels = LabelRules(rules, own.label_inherit)
    return EnrichSettings(parts, own.enrich_env, labels, own.enrich_inherit, own.enrich_processes)


class Contexts:
    """Adds to each batch what is known of its events' processes. node: our own name in records, "" without."""

    def __init__(self, enricher: Enricher, node: str) -> None:
        self.enricher = enricher
        self._nodes = frozenset({"", node})

    def add(self, batch: Batch) -> None:
        """Events of other nodes are not this host's, and have none."""
        batch.contexts = [self._context(event) for event in batch.events]
        for event, context in zip(batch.events, batch.contexts, strict=True):
            event.context = context

    def _context(self, event: Event) -> Enrichment | None:
        if event.node not in self._nodes:
            return None
        facts = facts_of(event)
        return None if facts is None else self.enricher.enrich(facts)


def start(own: AudispdConf, node: str, say: Say) -> Contexts:
    """Fill the table. Blocks for seconds at most; starts a thread."""
    return Contexts(begin(settings(own), say, own.state_dir / kept.NAME), node)


def end(contexts: Contexts, state_dir: Path, say: Say) -> None:
    """Keep the table for the next start."""
    finish(contexts.enricher, state_dir / kept.NAME, say)


def of(event: Event) -> Enrichment | None:
    """For shapes: what was found out when the event was fresh."""
    context = event.context
    return context if isinstance(context, Enrichment) else None
