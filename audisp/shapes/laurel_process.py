"""What enrichment knows of an event's process, under laurel's keys. What is not known has no key.

0.5: ``PID``, ``PPID``, ``LABELS`` and ``SCRIPT`` in SYSCALL, ``ENV`` in EXECVE, ``CONTAINER_INFO`` in the event, as
laurel 0.5.1 writes them of live processes. 0.8: the container and the units are in ``PID``, ``PPID`` is the event that
started the parent or else its start time, and ``SPAWNED_BY`` says what the process was before (peers.md 4.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from audisp.shapes.activity_process import Known, container, parent
from audisp.shapes.json_text import string
from audisp.shapes.laurel_exact import Added

Pairs = Iterable[tuple[str, str | int | None]]


def added(known: Known, ppid: int | None, *, newer: bool) -> Added:
    """What is known of a process. ppid: as the event says. newer: laurel 0.8's keys."""
    process, holder, maker = known.process, container(known), parent(known, ppid)
    pid = "" if process is None else _pairs([("EVENT_ID", process.event_id)])
    call, last = "", ""
    if newer:
        if holder is not None:
            pid = _joined(pid, f'"container":{{"id":{_text(holder.id)}}}')
        units = [unit for unit in (known.slice, known.unit, known.user_unit) if isinstance(unit, str)]
        if units:
            pid = _joined(pid, f'"systemd_service":[{",".join(map(_text, units))}]')
        if maker is not None and maker.event_id is not None:
            call += f',"PPID":{{{_pairs([("EVENT_ID", maker.event_id)])}}}'
        elif maker is not None:
            call += f',"PPID":{{"START_TIME":"{maker.born // 1000}.{maker.born % 1000:03d}"}}'
        spawner = None if process is None else process.spawner
        if spawner is not None:
            pairs: Pairs = [
                ("EVENT_ID", spawner.event_id),
                ("pid", spawner.pid),
                ("comm", spawner.comm),
                ("exe", spawner.exe),
            ]
            call += f',"SPAWNED_BY":{{{_pairs(pairs)}}}'
    else:
        if maker is not None:
            pairs = [("EVENT_ID", maker.event_id), ("comm", maker.comm), ("exe", maker.exe), ("ppid", maker.ppid)]
            call += f',"PPID":{{{_pairs(pairs)}}}'
        if holder is not None:
            last = f',"CONTAINER_INFO":{{"ID":{_text(holder.id)}}}'
    if pid:
        call += f',"PID":{{{pid}}}'
    if isinstance(known.script, str):
        call += f',"SCRIPT":{_text(known.script)}'
    if known.labels:
        call += f',"LABELS":[{",".join(map(_text, known.labels))}]'
    return Added(call, _variables(known.environment), last)


def _text(text: str) -> str:
    """A decoded text as a JSON string, in the latin-1 view."""
    return string(text.encode("utf-8", "surrogateescape").decode("latin-1"))


def _pairs(pairs: Pairs) -> str:
    """The inside of an object, without what is not known."""
    found = [(name, value) for name, value in pairs if value is not None]
    return ",".join([f'"{name}":{value if isinstance(value, int) else _text(value)}' for name, value in found])


def _joined(*parts: str) -> str:
    return ",".join([part for part in parts if part])


def _variables(variables: Mapping[str, str]) -> str:
    if not variables:
        return ""
    return "{" + ",".join([f"{_text(name)}:{_text(value)}" for name, value in variables.items()]) + "}"
