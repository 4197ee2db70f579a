"""A process table as bytes, to be kept over a restart, and back.

One msgpack map: ``{"audisp": "processes", "version": 1, "boot": ID, "rows": [ROW, ...]}``, the most recently used entry
first, so that a bound cuts what matters least. Numbers and start times mean nothing after another boot, so a dump of
one is left out as a whole. Of the rest an entry counts as living only if /proc shows its number with its start time;
what has no start time, or ended in between, is kept only as an ancestor of what lives: that is a fact of the past, and
linked by key, it can be taken for nobody else.

The file lies in a folder of root's, but its content is judged as anything from outside: every field is checked, and a
damaged dump is a ParseError and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs
import msgpack  # type: ignore[import-untyped]  # the package ships no types

from audisp.errors import ParseError
from audisp.parse.cgroup import MAX_PATH, Container, Placement
from audisp.parse.labels import MAX_NAME, MAX_RULES
from audisp.parse.processes import (
    ARGV_BYTES,
    ARGV_WORDS,
    COMM,
    EVENT_ID,
    MAX_STAMP,
    TEXT,
    UNKNOWN,
    Image,
    Key,
    Process,
    ProcessTable,
    Unknown,
)

VERSION: Final = 1
"""Raised with every change of a row; another version is left out as a whole."""
MAX_DUMP: Final = 8 << 20
"""Bytes of a dump, written or read. The 8,192 entries of a full table take about 3 MiB (350 bytes each)."""
MAX_ROWS: Final = 65_536
"""Entries of a dump: more than any table is configured to hold."""
_HEAD: Final = 128
"""Bytes left for what stands around the rows."""
_PIDS: Final = 1 << 31
PROCESS_FIELDS: Final = 14
"""Of a row: those that are the process's own."""
_ROW: Final = 18


@attrs.frozen
class Restored:
    """What became of a dump's entries. why: of all being dropped, "" otherwise."""

    living: int = 0
    ancestors: int = 0
    dropped: int = 0
    why: str = ""


def dump(table: ProcessTable, boot: str, limit: int = MAX_DUMP) -> bytes:
    """The table, in at most `limit` bytes. boot: /proc/sys/kernel/random/boot_id."""
    packer = msgpack.Packer(unicode_errors="surrogatepass")
    rows: list[bytes] = []
    room = limit - _HEAD - len(boot)
    for entry in reversed(list(table)):
        row: bytes = packer.pack([*process_row(entry.process), entry.seen, entry.ended, entry.certain, entry.nested])
        room -= len(row)
        if room < 0:
            break
        rows.append(row)
    head: bytes = packer.pack_map_header(4)
    for part in ("audisp", "processes", "version", VERSION, "boot", boot, "rows"):
        head += packer.pack(part)
    return b"".join([head, packer.pack_array_header(len(rows)), *rows])


def restore(table: ProcessTable, data: bytes, boot: str, alive: Mapping[int, int]) -> Restored:
    """Put into the table what a dump of this boot holds. alive: number and start in ticks of all processes in /proc.

    Raises ParseError for a dump that is damaged; nothing is taken from it then.
    """
    if len(data) > MAX_DUMP:
        raise ParseError(f"a dump of processes has at most {MAX_DUMP} bytes, not {len(data)}")
    try:
        found = msgpack.unpackb(
            data, unicode_errors="surrogatepass", strict_map_key=True, max_array_len=MAX_ROWS, max_map_len=16
        )
    except (ValueError, msgpack.UnpackException) as problem:
        raise ParseError(f"no dump of processes: {problem}") from problem
    rows = found.get("rows") if isinstance(found, dict) else None
    if not isinstance(found, dict) or found.get("audisp") != "processes" or not isinstance(rows, list):
        raise ParseError("no dump of processes")
    if found.get("version") != VERSION:
        return Restored(dropped=len(rows), why=f"version {found.get('version')!a} is not {VERSION}")
    if not boot or found.get("boot") != boot:
        return Restored(dropped=len(rows), why="it is of another boot")
    read = [_Row(row) for row in rows]
    by_key = {row.process.key: row for row in read}
    living = [row for row in read if row.ended is None and alive.get(row.process.pid, -1) == row.process.ticks]
    wanted = {row.process.key for row in living}
    ancestors: list[_Row] = []
    for row in living:
        parent = row.process.parent
        while parent is not None and parent not in wanted and parent in by_key:
            wanted.add(parent)
            ancestors.append(by_key[parent])
            parent = by_key[parent].process.parent
    # The most recently used last, as the table keeps them; parents before those that link them.
    for row in reversed(ancestors):
        table.put(row.process, seen=row.seen, ended=row.seen if row.ended is None else row.ended, certain=row.certain)
    for row in sorted(living, key=lambda row: row.process.born):
        entry = table.put(row.process, seen=row.seen, ended=None, certain=row.certain)
        entry.nested = row.nested
    return Restored(len(living), len(ancestors), len(read) - len(living) - len(ancestors))


def process_row(process: Process) -> list[Any]:
    """One process as plain values, PROCESS_FIELDS of them: for a dump, and for whoever else has to write it down."""
    place = process.place
    box = None if place is None else place.container
    return [
        process.pid,
        process.born,
        process.ticks,
        process.ppid,
        process.parent,
        process.exe,
        process.comm,
        process.argv,
        process.argv_cut,
        process.event_id,
        False if process.script is UNKNOWN else process.script,
        None
        if place is None
        else [
            place.cgroup,
            None if box is None else [box.id, box.runtime, box.pod, box.user, box.inner],
            place.unit,
            place.user_unit,
            place.slice,
        ],
        process.labels,
        None
        if process.spawner is None
        else [
            process.spawner.pid,
            process.spawner.born,
            process.spawner.exe,
            process.spawner.comm,
            process.spawner.event_id,
        ],
    ]


class _Row:
    """One row, every field checked. Raises ParseError."""

    def __init__(self, row: object) -> None:
        parts = _list(row, _ROW)
        self.process = read_process(parts[:PROCESS_FIELDS])
        self.seen = _number(parts[14], 0, MAX_STAMP)
        self.ended = _or_none(parts[15])
        self.certain = _flag(parts[16])
        self.nested = None if parts[17] is None else _flag(parts[17])


def read_process(row: object) -> Process:
    """What `process_row` made, every field checked. Raises ParseError."""
    parts = _list(row, PROCESS_FIELDS)
    argv = parts[7]
    return Process(
        _number(parts[0], 1, _PIDS),
        _number(parts[1], 0, MAX_STAMP),
        _or_none(parts[2]),
        _or_none(parts[3], _PIDS),
        _key(parts[4]),
        _text(parts[5], TEXT),
        _text(parts[6], COMM),
        None if argv is None else _words(argv, ARGV_WORDS, ARGV_BYTES),
        _flag(parts[8]),
        _text(parts[9], EVENT_ID),
        _script(parts[10]),
        _place(parts[11]),
        _words(parts[12], MAX_RULES, MAX_NAME),
        _image(parts[13]),
    )


def _list(value: object, length: int) -> list[Any]:
    if not isinstance(value, list) or len(value) != length:
        raise ParseError(f"a dump of processes: a list of {length} expected")
    return value


def _number(value: object, low: int, high: int) -> int:
    if type(value) is not int or not low <= value < high:
        raise ParseError(f"a dump of processes: a number from {low} expected")
    return value


def _or_none(value: object, high: int = MAX_STAMP) -> int | None:
    return None if value is None else _number(value, 0, high)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ParseError("a dump of processes: true or false expected")
    return value


def _text(value: object, limit: int) -> str | None:
    if value is not None and (not isinstance(value, str) or len(value) > limit):
        raise ParseError(f"a dump of processes: a text of at most {limit} expected")
    return value


def _words(value: object, count: int, limit: int) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > count:
        raise ParseError(f"a dump of processes: a list of at most {count} texts expected")
    for word in value:
        if not isinstance(word, str) or len(word) > limit:
            raise ParseError(f"a dump of processes: a text of at most {limit} expected")
    return tuple(value)


def _key(value: object) -> Key | None:
    if value is None:
        return None
    pid, born = _list(value, 2)
    return _number(pid, 1, _PIDS), _number(born, 0, MAX_STAMP)


def _script(value: object) -> str | Unknown | None:
    return UNKNOWN if value is False else _text(value, TEXT)


def _image(value: object) -> Image | None:
    if value is None:
        return None
    pid, born, exe, comm, event_id = _list(value, 5)
    return Image(
        _number(pid, 1, _PIDS),
        _number(born, 0, MAX_STAMP),
        _text(exe, TEXT),
        _text(comm, COMM),
        _text(event_id, EVENT_ID),
    )


def _place(value: object) -> Placement | None:
    if value is None:
        return None
    path, box, unit, user_unit, slice_ = _list(value, 5)
    path = _text(path, MAX_PATH)
    if path is None:
        raise ParseError("a dump of processes: a cgroup expected")
    container = None
    if box is not None:
        id_, runtime, pod, user, inner = _list(box, 5)
        id_ = _text(id_, MAX_PATH)
        if id_ is None:
            raise ParseError("a dump of processes: the id of a container expected")
        container = Container(
            id_, _text(runtime, MAX_NAME), _text(pod, MAX_NAME), _or_none(user), _text(inner, MAX_PATH)
        )
    return Placement(path, container, _text(unit, MAX_PATH), _text(user_unit, MAX_PATH), _text(slice_, MAX_PATH))
