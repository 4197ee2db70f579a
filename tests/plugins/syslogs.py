"""Reads RFC 5424 as a receiver would: a parser of its own, written from the RFC's ABNF and not from our code."""

from __future__ import annotations

import re
from typing import Final

import attrs

_NAME: Final = rb"[!#-<>-\\^-~]{1,32}"
_PARAM: Final = rb' %b="(?:[^"\\\]]|\\["\\\]])*"' % _NAME
_ELEMENT: Final = rb"\[%b(?:%b)*\]" % (_NAME, _PARAM)
_MESSAGE: Final = re.compile(
    rb"<(?P<pri>0|[1-9]\d{0,2})>1 "
    rb"(?P<time>-|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,6}Z) "
    rb"(?P<host>[!-~]{1,255}) (?P<app>[!-~]{1,48}) (?P<pid>[!-~]{1,128}) (?P<msgid>[!-~]{1,32}) "
    rb"(?P<data>-|(?:%b)+)"
    rb"(?: (?P<msg>.*))?" % _ELEMENT,
    re.S,
)
BOM: Final = b"\xef\xbb\xbf"


@attrs.frozen
class Parsed:
    """One message. text: without the byte order mark, which `marked` says was there."""

    pri: int
    time: bytes
    host: bytes
    app: bytes
    pid: bytes
    msgid: bytes
    data: bytes
    text: bytes
    marked: bool


def parsed(message: bytes) -> Parsed:
    """A message taken apart. ValueError if it is none; UnicodeDecodeError if it says UTF-8 and is not."""
    found = _MESSAGE.fullmatch(message)
    if found is None:
        raise ValueError(f"no message of RFC 5424: {message[:200]!r}")
    pri = int(found["pri"])
    if pri > 191:
        raise ValueError(f"priority {pri}")
    text = found["msg"] or b""
    marked = text.startswith(BOM)
    if marked:
        text = text.removeprefix(BOM)
        text.decode()
    fields = (found[name] for name in ("time", "host", "app", "pid", "msgid", "data"))
    return Parsed(pri, *fields, text, marked)


def unframed(data: bytes) -> tuple[list[bytes], bytes]:
    """The messages of a stream with octet counting, and what is left behind the last whole one. ValueError if the
    stream is none."""
    messages = []
    while data:
        head = re.match(rb"[1-9]\d{0,6} ", data)
        if head is None:
            if re.fullmatch(rb"[1-9]\d{0,6}", data):
                break
            raise ValueError(f"no length at {data[:80]!r}")
        end = head.end() + int(head[0])
        if len(data) < end:
            break
        messages.append(data[head.end() : end])
        data = data[end:]
    return messages, data


_PART: Final = re.compile(rb"\[part (\d+)/(\d+) ([^ ]+)\] ")


def joined(messages: list[Parsed]) -> list[bytes]:
    """The texts, with those that came in parts put together again. ValueError for a part out of order."""
    texts: list[bytes] = []
    parts: list[bytes] = []
    identity = b""
    for message in messages:
        found = _PART.match(message.text)
        if found is None:
            if parts:
                raise ValueError(f"{identity!r} is not whole")
            texts.append(message.text)
            continue
        number, count = int(found[1]), int(found[2])
        if number != len(parts) + 1 or (parts and identity != found[3]):
            raise ValueError(f"part {number} of {found[3]!r} comes behind {len(parts)} of {identity!r}")
        identity = found[3]
        parts.append(message.text[found.end() :])
        if number == count:
            texts.append(b"".join(parts))
            parts = []
    if parts:
        raise ValueError(f"{identity!r} is not whole")
    return texts
