"""A private bus with a fake logind on it: as much of D-Bus as loginctl speaks (the D-Bus specification, 0.38).

It is bus and service in one: it answers Hello as the bus would, and GetSession, GetAll and TerminateSession as logind.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

GUID: Final = b"0123456789abcdef0123456789abcdef"
PATH: Final = "/org/freedesktop/login1/session/_35"
CALL, RETURN, ERROR = 1, 2, 3


@attrs.define
class Session:
    """What the fake says of its one session."""

    id: str = "5"
    audit: int = 5
    user: int = 1001
    leader: int = 4242


class Logind:
    """Listens at `path` until `close`. calls: members called, with their first string."""

    def __init__(self, path: Path, session: Session) -> None:
        self.session: Session | None = session
        self.calls: list[tuple[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client:
                client.settimeout(10)
                try:
                    self._client(client)
                except (OSError, EOFError):
                    continue

    def _client(self, client: socket.socket) -> None:
        stream = client.makefile("rb")
        assert stream.read(1) == b"\0"
        while (line := stream.readline().strip()) != b"BEGIN":
            if not line:
                return
            known = {b"AUTH EXTERNAL": b"DATA", b"NEGOTIATE_UNIX_FD": b"ERROR"}
            client.sendall(known.get(line, b"OK " + GUID) + b"\r\n")
        while True:
            kind, serial, member, text = _message(stream.read)
            if kind == CALL:
                self.calls.append((member, text))
                client.sendall(self._answer(serial, member, text))

    def _answer(self, serial: int, member: str, text: str) -> bytes:
        session = self.session
        match member:
            case "Hello":
                return _made(serial, "s", _string(":1.1"))
            case "GetSession" if session is not None and text == session.id:
                return _made(serial, "o", _string(PATH))
            case "GetAll" if session is not None:
                return _made(serial, "a{sv}", _properties(session))
            case "TerminateSession" if session is not None and text == session.id:
                self.session = None
                return _made(serial, "", b"")
        return _made(serial, "s", _string("No such session"), error="org.freedesktop.login1.NoSuchSession")


def _pad(data: bytes, to: int) -> bytes:
    return data + b"\0" * (-len(data) % to)


def _string(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode() + b"\0"


def _signature(text: str) -> bytes:
    return bytes([len(text)]) + text.encode() + b"\0"


def _properties(session: Session) -> bytes:
    inside = b""
    for name, signature, value in (
        ("Id", "s", _string(session.id)),
        ("Audit", "u", struct.pack("<I", session.audit)),
        ("User", "(uo)", struct.pack("<I", session.user) + _string("/org/freedesktop/login1/user/_1001")),
        ("Leader", "u", struct.pack("<I", session.leader)),
    ):
        # Dictionary entries begin at multiples of 8, of the body: the array's length and 4 bytes of padding come first.
        inside = _pad(inside, 8) + _string(name) + _signature(signature)
        inside = _pad(inside, 8 if signature.startswith("(") else 4) + value
    return struct.pack("<I", len(inside)) + b"\0" * 4 + inside


def _made(serial: int, signature: str, body: bytes, *, error: str = "") -> bytes:
    fields = b"\x05\x01u\0" + struct.pack("<I", serial)
    for code, kind, value in ((4, "s", error), (6, "s", ":1.1"), (7, "s", "org.freedesktop.login1")):
        if value:
            fields = _pad(fields, 8) + bytes([code]) + _signature(kind)
            fields = _pad(fields, 4) + _string(value)
    if signature:
        fields = _pad(fields, 8) + b"\x08\x01g\0" + _signature(signature)
    head = struct.pack("<cBBBII", b"l", ERROR if error else RETURN, 1, 1, len(body), serial + 1000)
    return head + struct.pack("<I", len(fields)) + _pad(fields, 8) + body


def _message(read: Callable[[int], bytes]) -> tuple[int, int, str, str]:
    """Kind, serial, member and the body's first string, if it begins with one."""
    head = read(16)
    if len(head) < 16:
        raise EOFError
    order, kind, _, _, length, serial, size = struct.unpack("<cBBBIII", head)
    assert order == b"l"
    fields = read(size + -size % 8)
    body = read(length)
    member, signature = "", ""
    at = 0
    while at < size:
        at += -at % 8
        code, kinds = fields[at], chr(fields[at + 2])
        at += 4
        if kinds == "g":
            end = at + 1 + fields[at]
            value = fields[at + 1 : end].decode()
            at = end + 1
        elif kinds == "u":
            value, at = "", at + 4
        else:
            (count,) = struct.unpack_from("<I", fields, at)
            value = fields[at + 4 : at + 4 + count].decode()
            at += 5 + count
        if code == 3:
            member = value
        elif code == 8:
            signature = value
    text = ""
    if signature.startswith("s"):
        (count,) = struct.unpack_from("<I", body)
        text = body[4 : 4 + count].decode()
    return kind, serial, member, text
