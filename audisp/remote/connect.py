"""A connection to one server: name, TCP, TLS, each within one deadline, and nothing of it holds up the loop."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any, Final

import attrs
import trio

from audisp.config.network import Endpoint
from audisp.config.remote import RemoteConf
from audisp.errors import AudispError, ConfigError
from audisp.tls.context import ClientContext
from audisp.tls.failures import TLSError
from audisp.tls.keyring import read_client_key
from audisp.tls.settings import CryptoSettings, Profile
from audisp.tls.stream import TLSStream
from audisp.wire.native import ALPN

MAX_ADDRESSES: Final = 8
"""Of one name that are tried; each has its share of the deadline."""
LOOKUPS: Final = 1
"""Lookups of one name at a time. One that hangs (resolv.conf(5): 5 s a try) is left behind when the deadline is over,
and must take neither the threads that the spool needs nor another server's place. An address takes no place at all."""

Stream = trio.SocketStream | TLSStream


class LinkError(AudispError):
    """There is no connection to this server. local: it is our own key, settings or library that is wrong."""

    def __init__(self, message: str, *, local: bool = False) -> None:
        self.local = local
        super().__init__(message)


@attrs.frozen(eq=False)
class Link:
    """A connection. native: our own protocol was agreed on. cipher: of TLS, "" without."""

    server: Endpoint
    stream: Stream
    native: bool
    peer: str
    cipher: str = ""


class Connector:
    """Makes connections by a configuration. Keys are read once, when it is made."""

    def __init__(self, conf: RemoteConf) -> None:
        """Raises ConfigError: the key file, or a list that libssl does not take."""
        self.notices: list[str] = []
        self._conf = conf
        # By name; there are no more than the configuration has servers.
        self._lookups: dict[str, trio.CapacityLimiter] = {}
        self._context: ClientContext | None = None
        if conf.transport == "tls":
            self._context = self._tls(conf)
            self.notices += self._context.notices

    def _tls(self, conf: RemoteConf) -> ClientContext:
        assert conf.tls_psk_file is not None
        assert conf.tls_psk_identity is not None
        identity = conf.tls_psk_identity.encode("ascii")
        identity, key = read_client_key(conf.tls_psk_file, identity)
        settings = CryptoSettings(Profile(conf.profile), conf.tls_cipher_suites, conf.tls_key_exchange)
        alpn = () if conf.speaks == "rmw" else (ALPN,)
        try:
            return ClientContext(identity, key, settings=settings, alpn=alpn)
        except TLSError as error:
            raise ConfigError(str(error), key="transport") from error

    async def connect(self, server: Endpoint) -> Link:
        """To this server, within max_time_per_record. Raises LinkError, which says what was wrong."""
        seconds = float(self._conf.max_time_per_record)
        started = trio.current_time()
        with trio.move_on_after(seconds):
            plain = await self._connect_tcp(server, started + seconds)
            try:
                if self._context is None:
                    return Link(server, plain, False, _peer(plain))
                return await self._shake(server, plain, self._context)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(plain)
                raise
        raise LinkError(f"{server}: no connection within {seconds:g} s")

    async def _shake(self, server: Endpoint, plain: trio.SocketStream, context: ClientContext) -> Link:
        stream = TLSStream(plain, context)
        try:
            await stream.do_handshake()
        except TLSError as error:
            await stream.aclose()
            raise LinkError(f"{server}: {error}") from error
        session = stream.session
        return Link(server, stream, session.alpn == ALPN, _peer(plain), f"{session.cipher} {session.group}")

    async def _connect_tcp(self, server: Endpoint, deadline: float) -> trio.SocketStream:
        found = await self._look_up(server)
        problem = "the name has no address"
        for number, (family, address) in enumerate(found):
            share = (deadline - trio.current_time()) / (len(found) - number)
            sock = trio.socket.socket(family, socket.SOCK_STREAM)
            done = False
            try:
                with trio.move_on_after(share):
                    await self._bind(sock, family)
                    await sock.connect(address)
                    # RMW's small messages must not wait for each other, and a peer that is gone must be noticed.
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    done = True
                    return trio.SocketStream(sock)
                problem = f"{address[0]}: no answer"
            except OSError as error:
                problem = f"{address[0]}: {os.strerror(error.errno) if error.errno else error}"
            finally:
                if not done:
                    sock.close()
        raise LinkError(f"{server}: {problem}")

    async def _bind(self, sock: Any, family: int) -> None:
        if self._conf.local_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            await sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", self._conf.local_port))  # noqa: S104

    async def _look_up(self, server: Endpoint) -> list[tuple[int, Any]]:
        def look(flags: int = 0) -> list[Any]:
            return socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM, flags=flags)

        try:
            found = look(socket.AI_NUMERICHOST)  # asks nobody
        except (OSError, UnicodeError):
            limiter = self._lookups.setdefault(server.host, trio.CapacityLimiter(LOOKUPS))
            try:
                found = await trio.to_thread.run_sync(look, abandon_on_cancel=True, limiter=limiter)
            except (OSError, UnicodeError) as error:
                raise LinkError(f"{server}: {getattr(error, 'strerror', None) or error}") from error
        return [(family, address) for family, _, _, _, address in found[:MAX_ADDRESSES]]


def _peer(stream: trio.SocketStream) -> str:
    with contextlib.suppress(OSError):
        return str(stream.socket.getpeername()[0])
    return "gone"
