"""The forms one record can take, and the ways between them.

String form is the canonical one (``audisp.record``). Log form is what auditd writes to its log, binary form what it
sends to a plugin with ``format = binary`` (``docs/formats``; upstream.md 2.1 to 2.3). All functions take and give
whole lines; none looks inside the fields.
"""

from __future__ import annotations

import re
import struct
import unicodedata
from typing import Final

from audisp.errors import ParseError
from audisp.parse.types import type_name, type_number

MAX_PAYLOAD: Final = 8_970
"""MAX_AUDIT_MESSAGE_LENGTH of libaudit: the most a netlink payload, or the payload of a binary frame, may have."""

MAX_LOG_LINE: Final = 8_937
"""Longest log line without ``node=``, LF not counted: auditd keeps 32 bytes and a NUL of its 8,970 free."""

MAX_NODE_LINE: Final = 8_969
"""Longest line with ``node=``, LF not counted: formatted into 9,192 bytes, then cut to MAX_PAYLOAD less a NUL."""

MAX_NODE: Final = 255
"""Longest node name: _POSIX_HOST_NAME_MAX, which is what auditd's buffer adds for it."""

HEADER: Final = struct.Struct("=4I")
"""Header of a binary frame: version, header length (16), record type, payload size; native byte order."""

ENRICHMENT: Final = b"\x1d"
"""Between a record's own text and the fields that auditd's ENRICHED format appends."""

_EOE: Final = re.compile(rb"\n(?:node=[^ \n]+ )?type=EOE [^\n]*")
_TRAILING: Final = re.compile(rb" \n")  # re looks for two bytes twice as fast as bytes.find and bytes.replace do
_NODE_NAME: Final = re.compile(rb"[!-~]{1,%d}\Z" % MAX_NODE)
_HEAD: Final = re.compile(rb"type=([^ \n]+) msg=")


def longest_exceeds(data: bytes, limit: int) -> bool:
    """Whether a line of `data` has more than `limit` bytes, LF not counted. Looks at one LF per `limit` bytes."""
    start, end = 0, len(data)
    while end - start > limit:
        start = data.rfind(b"\n", start, start + limit + 1) + 1 or end + 1
        if start > end:
            return True
    return False


def log_form(data: bytes) -> bytes:
    """String form to log form: no EOE records, one trailing space less per line, lines cut where auditd cuts them.

    What is cut off is lost to the log, as with auditd. It is cut all the same: readers of the log (ausearch, laurel)
    have buffers of that size, and would take the rest of a longer line for a record of its own.
    """
    # An LF is put before the first line so that every line's start is an LF, which the search skips along with memchr.
    data = _EOE.sub(b"", b"\n" + data)[1:] if data.startswith((b"type=EOE ", b"node=")) else _EOE.sub(b"", data)
    data = _TRAILING.sub(b"\n", data)
    return _cut_lines(data) if longest_exceeds(data, MAX_LOG_LINE) else data


def with_node(data: bytes, node: bytes) -> bytes:
    """Log form of `data` with ``node=NODE `` before each line, EOE records kept; a line that has a node keeps it.

    This is what a plugin gets in either format once ``name_format`` is set. `node` must be 1 to 255 printable ASCII
    bytes without a space, else ParseError.
    """
    if not _NODE_NAME.match(node):
        raise ParseError(f"node name {node[:80]!r}: not 1 to {MAX_NODE} printable characters without a space")
    if not data:
        return data
    data = _TRAILING.sub(b"\n", data)
    mark = b"node=" + node + b" "
    if data.startswith(b"node=") or b"\nnode=" in data:
        lines = data.split(b"\n")
        tail = lines.pop()
        data = b"".join([(line if line.startswith(b"node=") else mark + line) + b"\n" for line in lines]) + tail
    else:
        data = mark + data[:-1].replace(b"\n", b"\n" + mark) + data[-1:]
    return _cut_lines(data) if longest_exceeds(data, MAX_LOG_LINE) else data


def _cut_lines(data: bytes) -> bytes:
    lines = data.split(b"\n")
    return b"\n".join([line[: MAX_NODE_LINE if line.startswith(b"node=") else MAX_LOG_LINE] for line in lines])


def from_kernel(type_: int, payload: bytes) -> bytes:
    """One netlink payload as a line of string form.

    As auditd does: the text ends at the first NUL (libaudit takes it as a C string), each LF becomes a space, and
    more than MAX_PAYLOAD bytes are cut off. So no payload, whoever wrote it, makes more than one line.
    """
    if b"\0" in payload:
        payload = payload[: payload.index(b"\0")]
    if b"\n" in payload:
        payload = payload.replace(b"\n", b" ")
    return b"type=%b msg=%b\n" % (type_name(type_), payload[:MAX_PAYLOAD])


def binary_form(data: bytes) -> bytes:
    """String form to the frames of auditd's binary protocol, one per line.

    A line that starts with ``type=`` and is not enriched becomes version 0 (payload from after ``msg=``); any other
    becomes version 1 (the whole line). A payload holds no LF. What exceeds MAX_PAYLOAD is cut off, because readers of
    this protocol refuse or overrun on a larger size.
    """
    frames: list[bytes] = []
    add, pack, head = frames.append, HEADER.pack, _HEAD.match
    numbers: dict[bytes, int] = {}
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    enriched = ENRICHMENT in data
    for line in lines:
        found = head(line)
        if found is None:
            add(pack(1, 16, _node_type(line), min(len(line), MAX_PAYLOAD)))
            add(line[:MAX_PAYLOAD])
            continue
        name = found[1]
        number = numbers.get(name)
        if number is None:
            number = numbers[name] = type_number(name)
        if enriched and ENRICHMENT in line:
            payload, version = line[:MAX_PAYLOAD], 1
        else:
            payload, version = line[found.end() : found.end() + MAX_PAYLOAD], 0
        add(pack(version, 16, number, len(payload)))
        add(payload)
    return b"".join(frames)


def _node_type(line: bytes) -> int:
    # Type of a line that does not start with type=; 0 where auditd too would not find one.
    found = _HEAD.match(line, line.find(b" ") + 1) if line.startswith(b"node=") else None
    return type_number(found[1]) if found else 0


_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL, C1: cursor movement, OSC, CSI in one byte
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidi: text shown in another order than it has
    "\u200b-\u200d\u2060-\u2065\u206a-\u206f\ufeff\u00ad\u034f"  # zero width: two names that look the same
    "\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\u2800"  # letters and signs that are blank
    "\ufe00-\ufe0f\U000e0100-\U000e01ef"  # variation selectors
    "\u2028\u2029"  # separators that some viewers break lines at
    "\ufff9-\ufffb\U000e0000-\U000e007f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"  # annotation, tags, format
    "\ud800-\udfff]"  # surrogates, which UTF-8 output would refuse
)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x80:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:  # a byte that surrogateescape carried through str
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def terminal_safe(text: bytes | str, width: int | None = None) -> str:
    """`text` as one line that cannot move a cursor, reorder or hide anything on a terminal, or break a log.

    Control, bidi, zero-width and separator characters become ``\\xNN`` (below U+0080) or ``\\uNNNN``, bytes that are
    not UTF-8 become ``\\xNN``. With `width`, at most that many columns, the last one ``…`` if something was cut off.
    """
    more = width is not None and len(text) > width * 4 + 4
    if more and width is not None:
        text = text[: width * 4 + 4]  # a column rarely takes more than four bytes; the rest would not be seen
    shown = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text
    if not (shown.isascii() and shown.isprintable()):
        shown = _UNSAFE.sub(_escape, shown)
    if width is None or (not more and shown.isascii() and len(shown) <= width):
        return shown
    return _fit(shown, width, more)


def _fit(shown: str, width: int, more: bool) -> str:
    # Columns, not characters: East Asian wide ones take two, combining ones none.
    columns, cut = 0, 0
    for index, character in enumerate(shown):
        columns += _columns(character)
        if columns > width:
            more = True
            break
        if columns <= width - 1:
            cut = index + 1
    return shown[:cut] + "…"[:width] if more else shown


def _columns(character: str) -> int:
    if character.isascii():
        return 1
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
