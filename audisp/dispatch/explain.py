"""`audisp explain EVENT-ID`: what became of one event, worked out from `History` when it is asked."""

from __future__ import annotations

import re
import time
from typing import Any, Final

from audisp.dispatch.history import History, Passed
from audisp.dispatch.roster import Entry, Roster
from audisp.event import INCOMPLETE, LATE, TIMED_OUT, Event, as_batch
from audisp.parse.record import RecordReader
from audisp.record import Block

ID: Final = re.compile(r"([0-9]{1,20})\.([0-9]{1,3}):([0-9]{1,20})\Z")
"""``SEC.MSEC:SERIAL``."""
SHOWN: Final = 16
"""Blocks with records of one event that are shown."""

_FLAGS: Final = (
    (TIMED_OUT, "its end never came: it was quiet for end_of_event_timeout"),
    (INCOMPLETE, "put out before its end, by a bound or at the end"),
    (LATE, "records of an event that had been put out before"),
)


def explain(event_id: str, history: History, roster: Roster) -> dict[str, Any]:
    """The answer as plain data; ``{"error": ...}`` for an id that is none. In a worker thread."""
    found = ID.match(event_id)
    if found is None:
        return {"error": f"{event_id[:60]!r} is no event's id: SEC.MSEC:SERIAL, as in msg=audit(...)"}
    stamp, serial = f"msg=audit({found[0]}):".encode(), int(found[3])
    now = time.monotonic()
    entries = dict(roster.entries)
    passed = list(history.find(stamp, serial))
    if not passed:
        return {"id": event_id, "known": False, "plugins": {}}
    blocks = [each for each in passed if not each.events]
    batches = [each for each in passed if each.events]
    return {
        "id": event_id,
        "known": True,
        "records": [_block(each, stamp, now) for each in blocks[:SHOWN]],
        "assembly": [_batch(each, event_id, now) for each in batches[:SHOWN]],
        "plugins": {
            name: _plugin(entry, batches if entry.wanted is not None else blocks, event_id, serial, now)
            for name, entry in entries.items()
        },
    }


def _block(entry: Passed, stamp: bytes, now: float) -> dict[str, Any]:
    text = entry.text()
    return {
        "source": entry.source,
        "seconds_ago": round(now - entry.arrived, 3),
        # Text that is no longer kept: the serials around it are known, and that is all.
        "records": None if text is None else text.count(stamp),
    }


def _event(entry: Passed, event_id: str) -> Event | None:
    text = entry.text()
    if text is None:
        return None
    batch = as_batch(Block(text, text.count(b"\n"), entry.source, entry.arrived), RecordReader())
    batch.marks = entry.marks
    return next((each for each in batch.events if each.stamp == event_id), None)


def _batch(entry: Passed, event_id: str, now: float) -> dict[str, Any]:
    event = _event(entry, event_id)
    view: dict[str, Any] = {
        "source": entry.source,
        "seconds_ago": round(now - entry.offered, 3),
        "waited_seconds": round(entry.offered - entry.arrived, 6),
    }
    if event is not None:
        view |= {
            "records": len(event.records),
            "types": [record.type for record in event.records][:100],
            "flags": [words for flag, words in _FLAGS if event.flags & flag],
            "problems": list(event.problems),
        }
    return view


def _plugin(entry: Entry, passed: list[Passed], event_id: str, serial: int, now: float) -> dict[str, Any]:
    """What one plugin was given of it."""
    name, intake = entry.conf.name, entry.intake
    offered = [(each, dict(each.accepted)[name]) for each in passed if name in dict(each.accepted)]
    if not offered:
        return {"state": "was not there yet" if passed else "not offered: it waits for the end of its event"}
    if entry.wanted is not None and entry.wanted.selection is not None:
        event = _event(offered[-1][0], event_id)
        if event is None:
            return {"state": "no longer known: its filter cannot be tried again"}
        if not entry.wanted.selection.wanted(event):
            return {"state": "filtered", "keep": list(entry.conf.filter_keep), "drop": list(entry.conf.filter_drop)}
    with intake.lock:
        gaps = [*intake.lost_lately, *(gap for gap in (intake.gap, intake.front_gap) if gap is not None)]
        progress = list(intake.progress)
    for gap in gaps:
        if gap.first is not None and gap.last is not None and gap.first <= serial <= gap.last:
            return {"state": "lost", "reason": gap.reason, "first": gap.first, "last": gap.last, "count": gap.count}
    mark = offered[-1][1]
    arrived = offered[0][0].arrived
    if not progress or progress[-1][1] < mark:
        return {"state": "waiting", "for_seconds": round(now - arrived, 3)}
    if progress[0][1] >= mark:
        return {"state": "delivered"}  # before the oldest acknowledgement that is remembered
    when = next(at for at, done in progress if done >= mark)
    return {"state": "delivered", "delay_seconds": round(when - arrived, 6)}


def words(answer: dict[str, Any]) -> list[str]:
    """The answer for people, line by line."""
    if not answer["known"]:
        return [f"event {answer['id']}: no longer known, or never seen (looked back on: 10 minutes, 64 MiB)"]
    lines = [f"event {answer['id']}"]
    for block in answer["records"]:
        count = "text no longer known" if block["records"] is None else f"{block['records']} records"
        lines.append(f"  received  {block['seconds_ago']:.3f} s ago from {block['source']}: {count}")
    for batch in answer["assembly"]:
        lines.append(f"  assembled {batch['seconds_ago']:.3f} s ago, {batch['waited_seconds']:.6f} s after its records")
        if "types" in batch:
            lines.append(f"            {', '.join(batch['types'])}")
            lines += [f"            {each}" for each in (*batch["flags"], *batch["problems"])]
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
        lines.append(f"  {name:<9} {state}")
    return lines
