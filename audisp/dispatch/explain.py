"""`audisp explain EVENT-ID`: what became of one event, worked out from `History` when it is asked."""

from __future__ import annotations

import re
import time
from typing import Any, Final

import attrs

from audisp.dispatch.history import History, Passed
from audisp.dispatch.roster import Entry, Roster
from audisp.event import INCOMPLETE, LATE, TIMED_OUT, Event, Run, as_batch
from audisp.parse.record import RecordReader
from audisp.record import Block

ID: Final = re.compile(r"([0-9]{1,20})\.([0-9]{1,3}):([0-9]{1,20})\Z")
"""``SEC.MSEC:SERIAL``."""
SHOWN: Final = 16
"""Blocks with records of one event, and events of one id (of several nodes, or late ones), that are shown."""
TYPES_SHOWN: Final = 100
"""Record types of one event."""

_FLAGS: Final = (
    (TIMED_OUT, "its end never came: it was quiet for end_of_event_timeout"),
    (INCOMPLETE, "put out before its end, by a bound or at the end"),
    (LATE, "records of an event that had been put out before"),
)


@attrs.frozen(eq=False)
class _Put:
    """One event that was put out. event None: the text is not kept."""

    passed: Passed
    event: Event | None


def explain(event_id: str, history: History, roster: Roster) -> dict[str, Any]:
    """The answer as plain data; ``{"error": ...}`` for an id that is none. In a worker thread."""
    found = ID.match(event_id)
    if found is None:
        return {"error": f"{event_id[:60]!r} is no event's id: SEC.MSEC:SERIAL, as in msg=audit(...)"}
    # As the kernel writes it: three digits of milliseconds.
    head, serial = f"audit({found[1]}.{int(found[2]):03d}:{found[3]}):".encode(), int(found[3])
    now = time.monotonic()
    passed = list(history.find(head, serial))
    if not passed:
        return {"id": event_id, "known": False, "plugins": {}}
    blocks = [(entry, runs) for entry, runs in passed if not entry.events]
    put = [each for entry, runs in passed if entry.events for each in _events(entry, runs)]
    return {
        "id": event_id,
        "known": True,
        "records": [_block(entry, runs, now) for entry, runs in blocks[:SHOWN]],
        "assembly": [_assembled(each, now) for each in put[:SHOWN]],
        "plugins": {
            name: _by_event(entry, put[:SHOWN], serial, now)
            if entry.wanted is not None
            else _fate(entry, [each for each, _ in blocks], serial, now)
            for name, entry in dict(roster.entries).items()
        },
    }


def _block(entry: Passed, runs: list[Run] | None, now: float) -> dict[str, Any]:
    return {
        "source": entry.source,
        "seconds_ago": round(now - entry.arrived, 3),
        # Text that is no longer kept: the serials around it are known, and that is all.
        "records": None if runs is None else sum(lines.count(b"\n") for lines, _, _ in runs),
    }


def _events(entry: Passed, runs: list[Run] | None) -> list[_Put]:
    """The events of the id in one batch: of each node one."""
    if runs is None:
        return [_Put(entry, None)]
    text = entry.text() or b""
    batch = as_batch(Block(text, text.count(b"\n"), entry.source, entry.arrived), RecordReader())
    batch.marks = entry.marks
    wanted = {(node, head) for _, node, head in runs}
    return [_Put(entry, event) for event in batch.events if event.same in wanted]


def _assembled(put: _Put, now: float) -> dict[str, Any]:
    entry, event = put.passed, put.event
    view: dict[str, Any] = {
        "source": entry.source,
        "seconds_ago": round(now - entry.offered, 3),
        "waited_seconds": round(entry.offered - entry.arrived, 6),
    }
    if event is not None:
        view |= {
            "node": event.node,
            "records": len(event.records),
            "types": [record.type for record in event.records][:TYPES_SHOWN],
            "flags": [words for flag, words in _FLAGS if event.flags & flag],
            "problems": list(event.problems),
        }
    return view


def _by_event(entry: Entry, put: list[_Put], serial: int, now: float) -> dict[str, Any]:
    """What became of the event for a plugin that is fed by events. Of several with this id (of other nodes, or late
    records): of the first that its filters let pass, else of the first."""
    if not put:
        return {"state": "not offered: it waits for the end of its event"}
    selection = None if entry.wanted is None else entry.wanted.selection
    if selection is None:
        return _fate(entry, [put[0].passed], serial, now)
    if any(each.event is None for each in put):
        return {"state": "no longer known: its filter cannot be tried again"}
    passing = [each for each in put if each.event is not None and selection.wanted(each.event)]
    if not passing:
        return {"state": "filtered", "keep": list(entry.conf.filter_keep), "drop": list(entry.conf.filter_drop)}
    return _fate(entry, [passing[0].passed], serial, now)


def _fate(entry: Entry, passed: list[Passed], serial: int, now: float) -> dict[str, Any]:
    """What a plugin was given of these blocks or batches."""
    name, intake = entry.conf.name, entry.intake
    offered = [(each, dict(each.accepted)[name]) for each in passed if name in dict(each.accepted)]
    if not offered:
        return {"state": "was not there yet"}
    with intake.lock:
        gaps = [*intake.lost_lately, *(gap for gap in (intake.gap, intake.front_gap) if gap is not None)]
        progress = list(intake.progress)
    for gap in gaps:
        if gap.first is not None and gap.last is not None and gap.first <= serial <= gap.last:
            return {"state": "lost", "reason": gap.reason, "first": gap.first, "last": gap.last, "count": gap.count}
    last, mark = offered[-1]
    if not progress or progress[-1][1] < mark:
        return {"state": "waiting", "for_seconds": round(now - last.arrived, 3)}
    if progress[0][1] >= mark:
        return {"state": "delivered"}  # before the oldest acknowledgement that is remembered
    when = next(at for at, done in progress if done >= mark)
    return {"state": "delivered", "delay_seconds": round(when - last.arrived, 6)}


def words(answer: dict[str, Any]) -> list[str]:
    """The answer for people, line by line."""
    if not answer["known"]:
        return [f"event {answer['id']}: no longer known, or never seen (looked back on: 10 minutes, 64 MiB)"]
    lines = [f"event {answer['id']}"]
    for block in answer["records"]:
        count = "text no longer known" if block["records"] is None else f"{block['records']} records"
        lines.append(f"  received  {block['seconds_ago']:.3f} s ago from {block['source']}: {count}")
    for batch in answer["assembly"]:
        of = f" of node {batch['node']}" if batch.get("node") else ""
        waited = f"{batch['waited_seconds']:.6f} s after its records"
        lines.append(f"  assembled {batch['seconds_ago']:.3f} s ago{of}, {waited}")
        if "types" in batch:
            lines.append(f"            {', '.join(batch['types'])}")
            lines += [f"            {each}" for each in (*batch["flags"], *batch["problems"])]
    width = max([9, *map(len, answer["plugins"])])
    for name, plugin in answer["plugins"].items():
        state = plugin["state"]
        if "delay_seconds" in plugin:
            state += f" {plugin['delay_seconds']:.6f} s after it was received"
        elif "for_seconds" in plugin:
            state += f" for {plugin['for_seconds']:.3f} s"
        elif state == "lost":
            state += f" ({plugin['reason']}): {plugin['count']} records, serials {plugin['first']} to {plugin['last']}"
        elif state == "filtered":
            state += "".join(f"; filter_{key}: {' | '.join(plugin[key])}" for key in ("keep", "drop") if plugin[key])
        lines.append(f"  {name:<{width}} {state}")
    return lines
