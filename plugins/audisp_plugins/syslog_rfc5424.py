"""Messages of RFC 5424 out of lines: records in string form, or whatever shape the host renders events in.

``<PRI>1 TIMESTAMP HOSTNAME audisp PID MSGID STRUCTURED-DATA MSG``. No I/O, no clock. The rules for what is in MSG:

- the first 0x1D of a record becomes a space, as audisp-syslog has it; every other control character (C0, DEL) becomes
  ``#`` and three octal digits, the form that RFC 5424 section 6.4 gives as its example and rsyslog writes by itself;
- text that is UTF-8 and not only ASCII gets a byte order mark in front (MSG-UTF8, unless the configuration says no);
- bytes that are not UTF-8 are sent as they are, without the mark (MSG-ANY): nothing is replaced, and who knows in what
  character set the machine's users write can still read them;
- what does not fit into one message is sent in parts, cut between characters, each of them a message of its own.
"""

from __future__ import annotations

import re
import time
from typing import Final

from audisp.plugin import ConfigError

BOM: Final = b"\xef\xbb\xbf"
NIL: Final = b"-"
APP_NAME: Final = b"audisp"

MAX_SEQUENCE: Final = 2**31 - 1
"""Largest sequenceId; the next one is 1 (RFC 5424 section 7.3.1)."""

MAX_HOSTNAME: Final = 255
MAX_MSGID: Final = 32
MAX_SD_NAME: Final = 32
"""Longest fields of the header and of structured data, in bytes (RFC 5424 section 6)."""

MAX_SD: Final = 256
"""Most bytes of structured data. With the longest header there are then still some 400 bytes for the text in the
smallest message that can be configured."""

MIN_MESSAGE: Final = 1_024
"""Smallest limit of a message. RFC 5424 has every receiver take 480 bytes, too few for our longest head and a text."""

REGISTERED: Final = ("meta", "origin", "timeQuality")
"""Names of structured data that belong to nobody (RFC 5424 section 7); all others need an enterprise number."""

_HEAD: Final = re.compile(rb"(?:node=([^ \n]+) )?type=([^ \n]+) msg=audit\(((\d{1,20})\.(\d{1,3}):\d{1,20})\)")
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_NAME: Final = re.compile(rb"[!-~]+\Z")
_SD_NAME: Final = re.compile(rf"[!#-<>-\\^-~]{{1,{MAX_SD_NAME}}}\Z")
"""Printable ASCII without ``=``, ``]``, ``"`` and space."""
_ENTERPRISE: Final = re.compile(r"[^@]+@[0-9]+(?:\.[0-9]+)*\Z")


def escape_controls(text: bytes) -> bytes:
    """C0 characters and DEL as ``#`` and three octal digits."""
    return _CONTROL.sub(lambda found: b"#%03o" % found[0][0], text)


def escape_value(value: str) -> str:
    """A value of structured data: backslash, quote and bracket get a backslash in front (section 6.3.3)."""
    return re.sub(r'([\\"\]])', r"\\\1", value)


def field(text: bytes, limit: int) -> bytes:
    """A header field: at most `limit` bytes of printable ASCII without space, else the nil value."""
    return text if len(text) <= limit and _NAME.match(text) else NIL


def element(line: str) -> tuple[str, bytes]:
    """Name and text of one element of structured data from ``NAME@NUMBER param=value ...``. Raises ConfigError.

    Values have no spaces, because words of the configuration have none.
    """

    def wrong(message: str) -> ConfigError:
        return ConfigError(message, key="structured_data")

    name, *params = line.split(" ")
    if not _SD_NAME.match(name) or not (name in REGISTERED or _ENTERPRISE.match(name)):
        raise wrong(
            f"{name!r} is neither {', '.join(REGISTERED)} nor NAME@NUMBER with your organisation's enterprise number"
        )
    parts = [name]
    for param in params:
        key, equals, value = param.partition("=")
        if not equals or not _SD_NAME.match(key):
            raise wrong(f"{param!r} is not name=value with a name of at most {MAX_SD_NAME} ASCII characters")
        if not value.isprintable():
            raise wrong(f"the value of {key} has characters that cannot be printed, or is not UTF-8")
        parts.append(f'{key}="{escape_value(value)}"')
    return name, f"[{' '.join(parts)}]".encode()


def structured(lines: tuple[str, ...], *, sequence: bool) -> bytes:
    """All elements in a row. sequence: room for ours, [meta sequenceId], is needed. Raises ConfigError."""
    names: set[str] = {"meta"} if sequence else set()
    text = b""
    for line in lines:
        name, part = element(line)
        if name in names:
            raise ConfigError(f"there can be only one element {name!r}", key="structured_data")
        names.add(name)
        text += part
    if len(text) > MAX_SD:
        raise ConfigError(f"{len(text)} bytes are more than a message has room for ({MAX_SD})", key="structured_data")
    return text


class Rfc5424:
    """Lines to messages. One per plugin; keeps the text of the last second, and counts."""

    def __init__(
        self,
        priority: int,
        hostname: bytes,
        pid: int,
        limit: int,
        *,
        structured_data: bytes = b"",
        sequence: bool = False,
        bom: bool = True,
    ) -> None:
        """priority: facility times 8 plus level. limit: bytes of a message, at least MIN_MESSAGE."""
        self._start = b"<%d>1 " % priority
        self._hostname = field(hostname, MAX_HOSTNAME)
        self._middle = b" %b %d " % (APP_NAME, pid)
        self._limit = limit
        self._structured = structured_data
        self._number = 0 if sequence else None
        self._bom = bom
        self._second = -1
        self._clock = b""
        self._splits = 0

    def of(self, line: bytes, arrived: float) -> list[bytes]:
        """The messages for one line (LF or not). arrived: seconds since the epoch, for a line without a stamp."""
        text = line.removesuffix(b"\n")
        found = _HEAD.match(text)
        if found is None:
            second, milli = divmod(int(arrived * 1000), 1000)
            stamp, hostname, name, identity = self._stamp(second, milli), self._hostname, _kind(text), None
        else:
            node, kind, identity, seconds, millis = found.groups()
            stamp = self._stamp(int(seconds), int(millis))
            hostname = self._hostname if node is None else field(node, MAX_HOSTNAME)
            name = field(kind, MAX_MSGID)
            text = text.replace(b"\x1d", b" ", 1)
        if _CONTROL.search(text):
            text = escape_controls(text)
        mark = BOM if self._bom and not text.isascii() and _is_utf8(text) else b""
        # The longest sequenceId stands for what comes, so that the room does not depend on the number.
        head = self._start + stamp + b" " + hostname + self._middle + name + b" "
        room = self._limit - len(head) - self._data_size() - 1 - len(mark)
        if len(text) <= room:
            return [head + self._data() + b" " + mark + text]
        return self._parts(head, mark, text, room, identity)

    def _parts(self, head: bytes, bom: bytes, text: bytes, room: int, identity: bytes | None) -> list[bytes]:
        if identity is None:
            # Nothing in the text says which parts belong together; lines of one shape differ by this number.
            self._splits += 1
            identity = b"n%d" % self._splits
        digits = 1
        while True:
            mark = len(b"[part / ] ") + 2 * digits + len(identity)
            pieces = _cut(text, room - mark, whole_characters=bool(bom))
            if len(str(len(pieces))) <= digits:
                break
            digits += 1
        return [
            head + self._data() + b" " + bom + b"[part %d/%d %b] " % (number, len(pieces), identity) + piece
            for number, piece in enumerate(pieces, 1)
        ]

    def _data(self) -> bytes:
        if self._number is None:
            return self._structured or NIL
        self._number = self._number % MAX_SEQUENCE + 1
        return self._structured + b'[meta sequenceId="%d"]' % self._number

    def _data_size(self) -> int:
        if self._number is None:
            return len(self._structured) or len(NIL)
        return len(self._structured) + len(b'[meta sequenceId="%d"]' % MAX_SEQUENCE)

    def _stamp(self, second: int, milli: int) -> bytes:
        if second != self._second:
            self._second = second
            try:
                found = time.gmtime(second)
            except (OverflowError, OSError, ValueError):
                found = None
            # A stamp that no calendar reaches, of a forged record: the nil value says that the time is not known.
            known = found is not None and found.tm_year <= 9999
            self._clock = time.strftime("%Y-%m-%dT%H:%M:%S", found).encode() if found and known else b""
        return self._clock + b".%03dZ" % milli if self._clock else NIL


def _kind(text: bytes) -> bytes:
    # What a line is that is no record: only what its first bytes say.
    if text.startswith(b"{"):
        return b"JSON"
    return b"CEF" if text.startswith(b"CEF:") else NIL


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _cut(text: bytes, room: int, *, whole_characters: bool) -> list[bytes]:
    pieces = []
    start = 0
    while start < len(text):
        end = start + room
        while whole_characters and end < len(text) and text[end] & 0xC0 == 0x80:
            end -= 1  # at most three times: the text is UTF-8
        pieces.append(text[start:end])
        start = end
    return pieces


def framed(messages: list[bytes]) -> bytes:
    """Octet counting: before each message its length in decimal digits and a space (RFC 6587 section 3.4.1, 5425)."""
    return b"".join([b"%d %b" % (len(message), message) for message in messages])
