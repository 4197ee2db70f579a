"""`af_unix`: the stream on a local socket, with the arguments of auditd's af_unix plugin, for many clients.

Each client has a queue of its own, so that a slow one loses records (and is told so) and no other does. Clients see
what comes after they connected. Without a client records are let go and counted, as audisp-af_unix lets them go.
"""

from __future__ import annotations

import difflib
import errno
import os
import random
import stat
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, Literal

import attrs
import trio

from audisp.plugin import MAX_RECORD, Block, ConfigError, Delivery, Host, PluginType, binary_form, hookimpl
from audisp_plugins.af_unix_client import Client, Loss
from audisp_plugins.af_unix_socket import Peer, Seat, may_read, peer_of

SLOT: Final = 8_970
"""Bytes that auditd sets aside for one entry of a queue (MAX_AUDIT_MESSAGE_LENGTH). depth counts these."""

MAX_DEPTH: Final = 100_000
"""Largest depth: about 900 MB per client."""

SUN_PATH: Final = 107
"""Longest path of a socket (sockaddr_un)."""

WAIT: Final = 0.1
"""Seconds that a block waits when every client's queue is full. Long enough for a client that reads at all; after
that the clients lose the block, since the plugin's own queue would otherwise only fill up behind stopped ones."""

DRAIN: Final = 2.0
"""Seconds at the end for clients to read what waits for them. The host's own deadline for the exit is longer."""

ACCEPT_PAUSE: Final = 0.1
"""Seconds before accept() is tried again when descriptors or memory ran out."""

DAEMON_ERR: Final = "DAEMON_ERR"


@attrs.frozen
class Arguments:
    """audisp-af_unix's arguments and their defaults (upstream.md 2.5)."""

    mode: int = 0o640
    path: Path = Path("/run/audit/audispd_events")
    form: Literal["string", "binary"] = "string"
    depth: int = 512


@attrs.frozen
class AfUnixConfig:
    """Keys of `af_unix`."""

    args: tuple[str, ...] = ()
    """In any order: octal mode, path, string or binary, queue depth (the second number)."""
    max_clients: int = attrs.field(default=16, metadata={"min": 1, "max": 1024})
    """Connections at one time. Each may hold depth times 8,970 bytes."""

    def __attrs_post_init__(self) -> None:
        self.arguments()
        if not 1 <= self.max_clients <= 1024:
            raise ConfigError(f"{self.max_clients} is out of range: 1 to 1024", key="max_clients")

    def arguments(self) -> Arguments:
        """The arguments, understood. Raises ConfigError."""
        found = Arguments()
        numbers = 0
        for word in self.args:
            if word[:1].isascii() and word[:1].isdigit():
                numbers += 1
                if numbers == 1:
                    found = attrs.evolve(found, mode=_mode(word))
                elif numbers == 2:
                    found = attrs.evolve(found, depth=_depth(word))
                else:
                    raise ConfigError(f"{word!r} is a third number; there are a mode and a queue depth", key="args")
            elif "/" in word:
                found = attrs.evolve(found, path=_path(word))
            elif word == "string":
                found = attrs.evolve(found, form="string")
            elif word == "binary":
                found = attrs.evolve(found, form="binary")
            else:
                near = difflib.get_close_matches(word.lower(), ("string", "binary"), 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ConfigError(f"{word!r} is no mode, depth, path with a '/', string or binary{hint}", key="args")
        return found


def _mode(word: str) -> int:
    if len(word) > 5 or set(word) - set("01234567") or int(word, 8) > 0o777:
        raise ConfigError(f"{word!r} is not an octal mode from 0 to 0777", key="args")
    return int(word, 8)


def _depth(word: str) -> int:
    if not word.isdigit() or len(word) > 9 or not 1 <= int(word) <= MAX_DEPTH:
        raise ConfigError(f"{word!r} is not a queue depth from 1 to {MAX_DEPTH}", key="args")
    return int(word)


def _path(word: str) -> Path:
    path = Path(word)
    if not path.is_absolute() or len(os.fsencode(path)) > SUN_PATH:
        raise ConfigError(f"{word!r} is not an absolute path of at most {SUN_PATH} bytes", key="args")
    return path


class Server:
    """All clients of one socket. Everything here runs in the trio loop."""

    def __init__(self, arguments: Arguments, max_clients: int, seat: Seat, host: Host) -> None:
        self._arguments, self._max_clients, self._seat, self._host = arguments, max_clients, seat, host
        self._portion = max(arguments.depth * SLOT // 2, MAX_RECORD)
        self._clients: dict[int, Client] = {}
        self._number = 0
        self._serial = random.randrange(10_000)  # noqa: S311 - a starting number, as auditd's own records have one
        self._peak = 0
        self._moved = trio.Event()
        self._closing = False

    async def deliver(self, block: Block) -> None:
        """Queue the block for every client. Waits, at most WAIT, only while no client at all has room."""
        await trio.lowlevel.checkpoint()
        if not self._clients:
            self._host.count("no_client", block.records)
            return
        deadline = trio.current_time() + WAIT
        rest: Block | None = block
        while rest is not None:
            # A block larger than a queue goes in by portions, so that a client that reads gets all of it.
            portion, rest = rest.split(self._portion)
            assert portion is not None
            encoded = self._encode(portion)
            with trio.move_on_at(deadline):
                await self._wait_for_room(len(encoded))
            for client in self._clients.values():
                client.offer(portion, encoded)
        self._peak = max([self._peak, *(client.records for client in self._clients.values())])

    async def _wait_for_room(self, size: int) -> None:
        while self._clients and not any(client.has_room(size) for client in self._clients.values()):
            self._moved = trio.Event()
            with ExitStack() as stack:
                for client in self._clients.values():
                    stack.enter_context(client.telling(self._moved))
                await self._moved.wait()

    def _encode(self, block: Block) -> bytes:
        return binary_form(block.data) if self._arguments.form == "binary" else block.data

    def _marker(self, number: int, loss: Loss) -> Block:
        # In the client's own stream, in the form that the host gives its loss markers.
        self._serial += 1
        now = time.time()
        first, last = ("?" if serial is None else serial for serial in (loss.first, loss.last))
        text = (
            f"type={DAEMON_ERR} msg=audit({int(now)}.{int(now * 1000) % 1000:03d}:{self._serial}): op=lost "
            f"plugin={self._host.name} client={number} count={loss.count} first={first} last={last} "
            "reason=client-queue-full res=failed\n"
        )
        return Block(text.encode("utf-8", "surrogateescape"), 1, self._host.name, time.monotonic())

    async def accept(self, listener: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        """Take connections until cancelled."""
        while True:
            try:
                sock, _ = await listener.accept()
            except trio.ClosedResourceError:
                return  # for the drain
            except OSError as error:
                if error.errno == errno.EBADF:
                    return  # likewise
                self._host.say("warning", f"socket {self._seat.path}: accept: {error.strerror}")
                await trio.sleep(ACCEPT_PAUSE)
                continue
            self._welcome(sock, nursery)

    def _welcome(self, sock: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        try:
            peer = peer_of(sock)
        except OSError as error:
            self._host.say("warning", f"socket {self._seat.path}: a client without credentials: {error.strerror}")
            sock.close()
            return
        if not may_read(peer, self._arguments.mode, self._seat.owner, self._seat.group):
            self._refuse(sock, peer, "the socket's mode does not let it in")
        elif len(self._clients) >= self._max_clients:
            self._refuse(sock, peer, f"there are max_clients = {self._max_clients} already")
        else:
            self._number += 1
            nursery.start_soon(self._serve, self._number, peer, trio.SocketStream(sock))

    def _refuse(self, sock: trio.socket.SocketType, peer: Peer, why: str) -> None:
        sock.close()
        self._host.count("clients_refused")
        self._host.say("warning", f"socket {self._seat.path}: {peer} refused: {why}")

    async def _serve(self, number: int, peer: Peer, stream: trio.SocketStream) -> None:
        limit = self._arguments.depth * SLOT
        client = Client(number, peer, stream, limit, self._encode, self._marker, self._host)
        self._clients[number] = client
        self._moved.set()
        self._host.count("clients_accepted")
        self._host.say("info", f"socket {self._seat.path}: client {number} is {peer}")
        try:
            await client.serve()
        finally:
            del self._clients[number]
            self._moved.set()
            with trio.CancelScope(shield=True):
                await client.close()
        self._host.say("info", f"socket {self._seat.path}: client {number} left")

    async def drain(self) -> None:
        """Wait until every client has got what waits for it."""
        while any(not client.idle for client in self._clients.values()):
            self._moved = trio.Event()
            with ExitStack() as stack:
                for client in self._clients.values():
                    stack.enter_context(client.telling(self._moved))
                await self._moved.wait()

    def state(self) -> dict[str, str]:
        """The lines of audisp-af_unix's state file, the lengths those of the longest queue; and how many clients."""
        clients = list(self._clients.values())
        return {
            "client_connected": "yes" if clients else "no",
            "queue_length": str(max([client.records for client in clients], default=0)),
            "max_queue_length": str(self._peak),
            "queue_size": str(self._arguments.depth),
            "clients": str(len(clients)),
        }


@asynccontextmanager
async def open_af_unix(config: AfUnixConfig, host: Host) -> AsyncIterator[Delivery]:
    """Open `af_unix`. Raises PluginError if the socket cannot be had."""
    arguments = config.arguments()
    seat = Seat(arguments.path, arguments.mode)
    sock = seat.listen()
    folder = os.stat(arguments.path.parent)
    if folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        host.say("warning", f"{arguments.path.parent}: others may write there, and put a socket in our socket's place")
    server = Server(arguments, config.max_clients, seat, host)
    listener = trio.socket.from_stdlib_socket(sock)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.accept, listener, nursery)
            try:
                yield Delivery(server.deliver, state=server.state)
            finally:
                listener.close()
                with trio.move_on_after(DRAIN, shield=True):
                    await server.drain()
                nursery.cancel_scope.cancel()
    finally:
        listener.close()
        seat.leave()


@hookimpl
def audisp_plugins() -> list[PluginType]:
    """The plugin type `af_unix`."""
    return [PluginType("af_unix", AfUnixConfig, open_af_unix)]
