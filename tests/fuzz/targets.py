"""What is fuzzed: each target takes bytes, and raises if anything but a declared error comes of them, or an invariant
does not hold. Time and memory are the fuzzer's to watch (tests/fuzz/run.py). Used by hypothesis, atheris and the
replay of what was found."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import Final

from audisp.errors import ParseError
from audisp.event import Batch, Event, as_batch
from audisp.parse import values
from audisp.parse.arch import machine, syscall_name, uringop_name
from audisp.parse.assemble import Assembler
from audisp.parse.enriched import enrich_lines
from audisp.parse.expression import parse
from audisp.parse.filter import Selection, compile_filter
from audisp.parse.form import binary_form, log_form, terminal_safe, with_node
from audisp.parse.frames import FrameReader
from audisp.parse.interpret import interpret
from audisp.parse.lines import LineReader
from audisp.parse.record import Record, RecordReader, arguments, split_enrichment
from audisp.parse.sockaddr import decode, render
from audisp.parse.stream import Reader
from audisp.record import Block
from audisp.shapes.registry import SHAPES, make_shape
from audisp.shapes.shape import Nobody, ShapeSettings, render_batch
from tests.detect import fuzz_targets as detect
from tests.wire import fuzz_targets as wire

LONGEST: Final = 16_384
"""Bytes of an input that are looked at: no record is longer."""
TYPES: Final = (
    *("SYSCALL", "EXECVE", "PATH", "CWD", "PROCTITLE", "SOCKADDR", "EOE", "LOGIN", "AVC", "USER_AVC", "USER_LOGIN"),
    *("USER_CMD", "USER_TTY", "ADD_USER", "CONFIG_CHANGE", "KERN_MODULE", "URINGOP", "BPF", "OBJ_PID", "NETFILTER_PKT"),
    *("SECCOMP", "CAPSET", "MMAP", "DAEMON_START", "SERVICE_START", "CRYPTO_KEY_USER", "ANOM_ABEND", "UNKNOWN[1999]"),
)


def text(data: bytes) -> str:
    """As the text of one line."""
    return data[:LONGEST].replace(b"\n", b" ").decode("latin-1")


def stream(data: bytes) -> bytes:
    """A stream of whole records made of fuzz: a byte chooses type, stamp and node, what follows up to LF the fields."""
    out = []
    for line in data[:LONGEST].split(b"\n"):
        if len(line) < 2:
            continue
        node = (b"", b"node=a ", b"node=b ", b"")[line[0] & 3]
        type_ = TYPES[line[0] >> 2 & 31 if (line[0] >> 2 & 31) < len(TYPES) else 0]
        serial, second = line[1] & 7, 100 + (line[1] >> 3 & 3)
        out.append(b"%btype=%b msg=audit(%d.000:%d): %b\n" % (node, type_.encode(), second, serial, line[2:]))
    return b"".join(out)


def as_events(lines: bytes) -> list[Event]:
    """The events of records."""
    return as_batch(Block(lines, 0, "fuzz", 0.0), RecordReader()).events


def events(data: bytes) -> list[Event]:
    """The events of such a stream."""
    return as_events(stream(data))


def record(data: bytes) -> None:
    """Records taken apart."""
    body = text(data[1:])
    found = Record(TYPES[data[0] % len(TYPES)] if data else "SYSCALL", body)
    own, added = split_enrichment(body)
    assert len(own) + len(added) <= len(body)
    for fields in (found.fields, found.inner, found.enriched):
        # An AVC's permissions are a value made of words that may stand in another one as well.
        assert sum(map(len, fields.values())) <= 2 * len(body) + 32
        for name in fields:
            found.get(name)
            found.added(name)
            found.integer(name)
            found.integer(name, 16)
    argv, _ = arguments([found, found])
    assert sum(map(len, argv)) <= 2 * len(body)


def value(data: bytes) -> None:
    """Values decoded."""
    raw = text(data)
    decoded = values.unquote(raw)
    assert len(decoded) <= len(raw)
    values.string(raw)
    values.argument(raw)
    values.keys(raw)
    values.number(raw)
    values.number(raw, 16)
    assert values.from_text(raw).encode("utf-8", "surrogateescape") == raw.encode("latin-1")


def _feed(reader: Reader, data: bytes, step: int) -> int:
    records = 0
    for at in range(0, len(data), step):
        reader.feed(data[at : at + step])
        good, count = reader.take()
        assert good.count(b"\n") == count
        assert reader.pending <= 2 * LONGEST + step
        records += count
    reader.close()
    good, count = reader.take()
    assert good.count(b"\n") == count
    assert reader.accepted_bytes + reader.rejected_bytes + reader.skipped + reader.pending == len(data)
    return records + count


def line_reader(data: bytes) -> None:
    """The reader of lines: where the stream is cut changes nothing."""
    step = 1 + data[0] % 64 if data else 1
    assert _feed(LineReader(), data[1:], step) == _feed(LineReader(), data[1:], 1 << 20)


def frame_reader(data: bytes) -> None:
    """The reader of auditd's binary frames."""
    step = 1 + data[0] % 64 if data else 1
    _feed(FrameReader(), data[1:], step)


def forms(data: bytes) -> None:
    """Records from one form into another."""
    made = stream(data)
    assert log_form(made).count(b"\n") <= made.count(b"\n")
    assert with_node(made, b"web-1").count(b"\n") == made.count(b"\n")
    reader = FrameReader()
    reader.feed(binary_form(made))
    reader.close()
    safe = terminal_safe(data[:LONGEST])
    assert not {*safe} & {chr(code) for code in (*range(32), *range(127, 160))}


def assemble(data: bytes) -> None:
    """Every record in exactly one event."""
    lines = stream(data).splitlines(keepends=True)
    recorded = bool(data) and data[0] & 1 == 1
    assembler = Assembler("fuzz", RecordReader(), recorded=recorded, max_events=5, max_bytes=20_000)
    out: list[bytes] = []

    def take(batch: Batch | None) -> None:
        if batch is not None:
            assert batch.records == batch.data.count(b"\n")
            out.extend(each.raw for each in batch.events)

    step = 1 + len(data) % 5
    for at in range(0, len(lines), step):
        piece = b"".join(lines[at : at + step])
        take(assembler.feed(Block(piece, piece.count(b"\n"), "fuzz", 0.0), at * 0.5))
        take(assembler.tick(at * 0.5))
        assert assembler.open_events <= 5
        assert assembler.counts.records_in == assembler.counts.records_out + assembler.open_records
    take(assembler.flush(1e9))
    assert sorted(b"".join(out).splitlines()) == sorted(b"".join(lines).splitlines())


def event(data: bytes) -> None:
    """Everything an event can be asked."""
    for each in events(data):
        _ = (each.id, each.time, each.keys, each.success, each.exe, each.comm, each.syscall, each.argv, each.cwd)
        _ = (each.title, each.paths, each.addresses, each.missing_paths, each.problems, each.user("uid"), each.node)
        assert len(each.lines) == each.raw.count(b"\n") == len(each.records)


def address(data: bytes) -> None:
    """Socket addresses."""
    for raw in (data[:LONGEST].hex().upper(), text(data)):
        for order in (None, "little", "big"):
            shown = render(decode(raw, order))
            assert shown.startswith(("{ saddr_fam=", "malformed-host(", "unknown-family(")), shown


def meaning(data: bytes) -> None:
    """Interpretation of every field of every record."""
    names = Nobody()
    for each in events(data):
        for one in each.records:
            for fields in (one.fields, one.inner):
                for name, raw in fields.items():
                    interpret(one.type, name, raw, fields, names)
    raw = text(data[:64])
    machine(raw)
    number = values.number(raw)
    if number is not None:
        uringop_name(number)
        syscall_name("c000003e", number)


def expression(data: bytes) -> None:
    """Filters: text that compiles, or says where not; the same tree from its own text; never a wrong verdict."""
    wanted = data.decode("utf-8", "replace")
    try:
        compiled = compile_filter(wanted)
    except ParseError:
        return
    assert parse(str(compiled.tree)) == compiled.tree
    lines = stream(data + b'\n\x00\x01uid=0 key="a"\n\x04\x02a0="x" a1=2D6C\n')
    sample = as_batch(Block(lines, 0, "s", 0.0), RecordReader())
    selection = Selection((compiled,), ())
    assert selection.select(sample) == [at for at, each in enumerate(sample.events) if selection.wanted(each)]


def enriched(data: bytes) -> None:
    """ENRICHED format: nothing of the record is changed, and no line is made."""
    made = stream(data)
    found = enrich_lines(made, Nobody())
    assert found.count(b"\n") == made.count(b"\n")
    for before, after in zip(made.split(b"\n"), found.split(b"\n"), strict=True):
        assert after.startswith(before.rstrip(b" ")[:8_000])
    if b"\x1d" in made or any(len(line) > 4_000 for line in made.split(b"\n")):
        return  # somebody has written the separator himself; what is long is cut
    # What is said of a record is the same: nothing that was appended is taken for the record's own.
    for one, other in zip(as_events(made), as_events(found), strict=True):
        for raw, shown in zip(one.records, other.records, strict=True):
            _, opened, message = raw.body.partition("msg='")
            if raw.body[-1:].isspace() or (opened and not message.endswith("'")):
                continue  # blanks at the end are cut; the kernel closes every msg=': one that is open has no end
            assert (shown.fields, shown.inner) == (raw.fields, raw.inner)
            text = raw.body.lower()
            assert all(f"{name.removeprefix('OLD-').lower()}=" in text for name in shown.enriched)


def _shape(name: str, version: str = "") -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        shape = make_shape(name, ShapeSettings(version=version, host="host"))
        found = events(data)
        singly = [shape.render(each) for each in found]
        whole = getattr(shape, "render_all", None)
        if whole is not None:
            assert whole(found) == singly
        again = Batch(b"".join([each.raw for each in found]), 0, "fuzz", 0.0, RecordReader())
        assert render_batch(make_shape(name, ShapeSettings(version=version, host="host")), again) == singly
        for each, line in zip(found, singly, strict=True):
            _check(name, each, line)

    run.__doc__ = f"Events in the shape {name} {version}".strip() + "."
    return run


def all_shapes(data: bytes) -> None:
    """Events in every shape there is: where there is time for one run only."""
    for name, versions in SHAPES.items():
        for version in versions or ("",):
            _shape(name, version)(data)


def _check(name: str, each: Event, line: bytes) -> None:
    if name == "raw":
        assert line == each.raw
        return
    if not line:
        assert {one.type for one in each.records} <= {"EOE"}
        return
    assert line.endswith(b"\n")
    if name == "enriched":
        assert line.count(b"\n") == each.raw.count(b"\n")
        return
    assert line.count(b"\n") == 1
    shown = line[:-1].decode("utf-8")
    assert not {*shown} & {chr(code) for code in range(32)}
    if name in ("laurel", "ecs", "ocsf"):
        assert isinstance(json.loads(shown), dict)
    elif name == "csv":
        (row,) = csv.reader(io.StringIO(shown), strict=True)
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row)
    elif name == "cef":
        assert shown.startswith("CEF:")


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "record": record,
    "value": value,
    "lines": line_reader,
    "frames": frame_reader,
    "forms": forms,
    "assemble": assemble,
    "event": event,
    "sockaddr": address,
    "interpret": meaning,
    "filter": expression,
    "enriched-form": enriched,
    "shapes": all_shapes,
    "wire-isolate-up": wire.isolate_up,
    "wire-isolate-down": wire.isolate_down,
    "wire-native-receiver": wire.native_receiver,
    "wire-native-sender": wire.native_sender,
    "wire-rmw-server": wire.rmw_server,
    "wire-rmw-client": wire.rmw_client,
    "detect-form": detect.written_form,
    "detect-events": detect.on_events(stream),
    "detect-scores": detect.on_scores(stream),
    "detect-kept-scores": detect.kept_scores,
    **{f"shape-{name}": _shape(name) for name in SHAPES},
    **{f"shape-{name}-{version}": _shape(name, version) for name in SHAPES for version in SHAPES[name][1:]},
}
"""By name."""


def seeds() -> Iterator[bytes]:
    """Inputs to begin with: lines of the hard ones, in the form that `stream` takes."""
    from tests.parse.nasty import NASTY

    for path in (b'/a msg=\'exe="/b" ', b"/a msg='b'\x1dUID=\"root\"", b'/x } UID="root" exe=/c', b"@\n{ }\xff"):
        yield bytes([TYPES.index("SOCKADDR") << 2 & 0x7C, 1]) + b"saddr=" + b"0100" + path.hex().upper().encode()

    for line in NASTY.read_bytes().split(b"\n"):
        head, sep, fields = line.partition(b"): ")
        if sep and len(line) < 2_000:
            kind = head.rpartition(b"type=")[2].split(b" ")[0].decode("latin-1")
            index = TYPES.index(kind) if kind in TYPES else 0
            yield bytes([index << 2 & 0x7C, 1]) + fields
