"""A syslog server for the tests. It reads RFC 5424 by a parser of its own, written from the RFC's ABNF and not from our
code."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
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
    return Parsed(
        pri, found["time"], found["host"], found["app"], found["pid"], found["msgid"], found["data"], text, marked
    )


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


RECEIVER: Final = """
import os, socket, ssl, sys
family, port, certificate, key, ca, pause, out = sys.argv[1:]
context = None
if certificate:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if ca:
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED
listener = socket.socket(int(family))
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
# What the kernel holds unread is then less than what the plugin sends again.
listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
listener.bind(("::1" if int(family) == socket.AF_INET6 else "127.0.0.1", int(port)))
listener.listen()
print(listener.getsockname()[1], flush=True)
number = 0
import threading, time
def serve(sock, number):
    file = os.open(f"{out}.{number:06d}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        if context:
            sock = context.wrap_socket(sock, server_side=True)
        while data := sock.recv(int(pause) or 65536):
            os.write(file, data)
            if int(pause):
                time.sleep(0.001)
    except OSError as error:
        print(f"connection {number}: {error}", file=sys.stderr, flush=True)
    finally:
        sock.close()
        os.close(file)
while True:
    sock, _ = listener.accept()
    threading.Thread(target=serve, args=(sock, number), daemon=True).start()
    number += 1
"""
"""A syslog server in a process of its own: writes what it reads, one file for each connection. With `pause` it reads so
many bytes at a time, a thousand times a second at most."""


class Receiver:
    """That process. It can be killed, stopped and started again on the same port."""

    def __init__(
        self,
        folder: Path,
        *,
        family: int = socket.AF_INET,
        tls: tuple[Path, Path] | None = None,
        ca: Path | None = None,
    ) -> None:
        self.folder = folder
        self.port = 0
        self.pause = 0
        self._family, self._tls, self._ca = family, tls, ca
        self._starts = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Listen; returns when it does."""
        assert self.process is None
        self._starts += 1
        certificate, key = self._tls or ("", "")
        arguments = (self._family, self.port, certificate, key, self._ca or "", self.pause, self._out)
        self.process = subprocess.Popen(
            [sys.executable, "-c", RECEIVER, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    @property
    def _out(self) -> Path:
        return self.folder / f"out{self._starts:03d}"

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            assert self.process.stdout is not None
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process = None

    def streams(self) -> list[bytes]:
        """What each connection has brought, in order."""
        return [path.read_bytes() for path in sorted(self.folder.glob("out*.*"))]

    def messages(self) -> list[Parsed]:
        """All whole messages, in order."""
        return [parsed(message) for stream in self.streams() for message in unframed(stream)[0]]


def unrepeated(texts: Iterable[bytes]) -> list[bytes]:
    """Each text once, where it came first."""
    return list(dict.fromkeys(texts))
