"""The control socket: one JSON request per line, one JSON answer per line. For root and for our own user alone."""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

import trio

from audisp.errors import AudispError, SourceError

NAME: Final = "control.sock"
MODE: Final = 0o600
MAX_REQUEST: Final = 4096
"""Bytes of one request: the longest has well under a hundred."""
MAX_ANSWER: Final = 16 << 20
"""Bytes of one answer: a status of a thousand plugins has about one MiB."""
MAX_CLIENTS: Final = 16
"""Clients at a time; one more waits in the listen queue, whose length is the same."""
IDLE_SECONDS: Final = 30.0
"""A client that says nothing for this long is let go, so that it cannot hold one of the places."""

ACCEPT_PAUSE: Final = 0.1
"""Seconds before the next client is accepted after an error."""

Answer = Callable[[dict[str, Any]], dict[str, Any]]
Stream = Callable[[trio.socket.SocketType, dict[str, Any]], Awaitable[None]]
"""Takes a connection over. Raises AudispError, with nothing sent, for what cannot be met."""
STREAMS: Final = frozenset({"tail", "explain"})
"""Requests that take a connection over: their answer is long, or long in coming."""


async def serve_control(
    folder: Path,
    answer: Answer,
    stream: Stream | None = None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen until cancelled. Raises SourceError if the socket cannot be made. Call under the instance's lock: a socket
    file that lies there is a dead instance's."""
    path = folder / NAME
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        pass
    listener = trio.socket.from_stdlib_socket(_bound(path))
    try:
        places = trio.CapacityLimiter(MAX_CLIENTS)
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                await places.acquire_on_behalf_of(token := object())
                client = await _accept(listener)
                nursery.start_soon(_serve_client, client, answer, stream, places, token)
    finally:
        listener.close()
        path.unlink(missing_ok=True)


def _bound(path: Path) -> socket.socket:
    """The listening socket, nobody else's from its first moment. Not a checkpoint, because the umask is everybody's."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    old = os.umask(0o777 & ~MODE)
    try:
        listener.bind(str(path))
        listener.listen(MAX_CLIENTS)
    except OSError as error:
        listener.close()
        raise SourceError(f"control socket {path}: {error.strerror or error}") from error
    finally:
        os.umask(old)
    return listener


async def _accept(listener: trio.socket.SocketType) -> trio.socket.SocketType:
    while True:
        try:
            client, _ = await listener.accept()
        except OSError:
            # The client is gone again, or we are out of descriptors: neither is for ever, and no reason to end.
            await trio.sleep(ACCEPT_PAUSE)
        else:
            return client


def _allowed(client: trio.socket.SocketType | socket.socket) -> bool:
    _, uid, _ = struct.unpack("=iII", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return uid in (0, os.geteuid())


async def _serve_client(
    client: trio.socket.SocketType, answer: Answer, stream: Stream | None, places: trio.CapacityLimiter, token: object
) -> None:
    try:
        with client:
            if not _allowed(client):
                return
            pending = b""
            while True:
                with trio.fail_after(IDLE_SECONDS):
                    data = await client.recv(MAX_REQUEST)
                if not data:
                    return
                pending += data
                if len(pending) > MAX_REQUEST:
                    return
                while b"\n" in pending:
                    line, pending = pending.split(b"\n", 1)
                    request = _request(line)
                    if stream is not None and isinstance(request, dict) and request.get("op") in STREAMS:
                        await _serve_stream(client, request, stream)
                        return
                    with trio.fail_after(IDLE_SECONDS):
                        await send_all(client, _reply(request, answer))
    except (OSError, trio.TooSlowError):
        return  # the client's loss, and it knows
    finally:
        places.release_on_behalf_of(token)


def _request(line: bytes) -> dict[str, Any] | str:
    """The request of a line, or what is wrong with it."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        return str(error)
    return request if isinstance(request, dict) else "a request is a JSON object"


def _reply(request: dict[str, Any] | str, answer: Answer) -> bytes:
    found = {"error": request} if isinstance(request, str) else answer(request)
    return json.dumps(found).encode() + b"\n"


async def _serve_stream(client: trio.socket.SocketType, request: dict[str, Any], stream: Stream) -> None:
    try:
        await stream(client, request)
    except AudispError as error:
        await send_all(client, json.dumps({"error": str(error)}).encode() + b"\n")


async def send_all(client: trio.socket.SocketType, data: bytes) -> None:
    """All of it. Raises OSError."""
    view = memoryview(data)
    while view:
        sent = await client.send(view)
        view = view[sent:]


def ask(folder: Path, operation: str, seconds: float = 5.0, **more: Any) -> dict[str, Any]:
    """One request from another process. Raises OSError if nobody listens, SourceError for an answer that is none."""
    with connect(folder, seconds) as sock, sock.makefile("rb") as file:
        sock.sendall(json.dumps({"op": operation, **more}).encode() + b"\n")
        return read_answer(file)


def connect(folder: Path, seconds: float) -> socket.socket:
    """A connection to the dispatcher of that runtime_dir. Raises OSError, or SourceError if it is somebody else's."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(seconds)
        sock.connect(str(folder / NAME))
        if not _allowed(sock):
            raise SourceError(f"{folder / NAME} is served by another user, who could answer anything")
    except BaseException:
        sock.close()
        raise
    return sock


def read_answer(file: BufferedReader) -> dict[str, Any]:
    """One answer. Raises SourceError for one that is none."""
    line = file.readline(MAX_ANSWER)
    try:
        found = json.loads(line)
    except ValueError as error:
        raise SourceError("the dispatcher gave no answer") from error
    if not isinstance(found, dict):
        raise SourceError("the dispatcher gave no answer")
    return found
