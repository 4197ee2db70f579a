"""Where people ask the running reactor: a socket in its folder, one packet of JSON to ask, one to answer.

The folder is ours alone (0700), the socket has mode 0600 from its first moment, and who connects must be root or our
own user all the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import trio

from audisp.errors import AudispError, StoreError

NAME: Final = "reactor.sock"
MAX_PACKET: Final = 4096
"""Bytes of a question or an answer: each is a word and a number, or a sentence."""
IDLE_SECONDS: Final = 10.0
MAX_CLIENTS: Final = 4
ASK_SECONDS: Final = 320.0
"""Longer than any program of an undo may run (reactions.MAX_DEADLINE)."""

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


def bound(folder: Path) -> socket.socket:
    """The listening socket. Call with the journal's lock: a socket that lies there is a dead reactor's. StoreError."""
    path = folder / NAME
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    old = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen(MAX_CLIENTS)
    except OSError as error:
        listener.close()
        raise StoreError(f"{path}: {error.strerror or error}") from error
    finally:
        os.umask(old)
    return listener


async def serve(listener: socket.socket, answer: Answer) -> None:
    """Answer until cancelled, one client after the other."""
    listening = trio.socket.from_stdlib_socket(listener)
    while True:
        try:
            client, _ = await listening.accept()
        except OSError:
            await trio.sleep(0.1)
            continue
        with client, contextlib.suppress(OSError, trio.TooSlowError):
            await _one(client, answer)


async def _one(client: trio.socket.SocketType, answer: Answer) -> None:
    _, uid, _ = struct.unpack("=iII", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid not in (0, os.geteuid()):
        return
    with trio.fail_after(IDLE_SECONDS):
        data = await client.recv(MAX_PACKET)
    try:
        question = json.loads(data)
        if not isinstance(question, dict):
            raise ValueError("no object")
        found = await answer(question)
    except (ValueError, RecursionError) as error:
        found = {"error": f"that is no question: {error}"}
    except AudispError as error:
        found = {"error": str(error)}
    with trio.fail_after(IDLE_SECONDS):
        await client.send(json.dumps(found).encode()[:MAX_PACKET])


def ask(folder: Path, **question: Any) -> dict[str, Any] | None:
    """What the running reactor answers; None if none runs. StoreError if it does not answer, or says why not."""
    path = folder / NAME
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as client:
        client.settimeout(ASK_SECONDS)
        try:
            client.connect(str(path))
            client.send(json.dumps(question).encode())
            data = client.recv(MAX_PACKET)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror or error}") from error
    try:
        answer = json.loads(data)
    except ValueError:
        raise StoreError(f"{path}: the reactor has not answered") from None
    if "error" in answer:
        raise StoreError(str(answer["error"]))
    return dict(answer)
