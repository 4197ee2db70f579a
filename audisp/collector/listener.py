"""The network side: who connects, in what protocol, and what becomes of those who may not.

TLS with ALPN `audisp/1` is our own protocol, TLS without is the C programs', and so is plain TCP where it is allowed.
One port takes all of them: a connection that begins with a TLS record is TLS. What holds:

- Whatever one connection does ends that connection, and no other. Each has a task of its own, whose errors end in it.
- A refusal is one line in the log, of which a few of one kind are written in a while; the peer is told no reason that
  would help it to guess (`tls.context`).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Sequence
from typing import Any, Final

import attrs
import trio

from audisp.collector.admission import Admission, NotAdmitted, surplus
from audisp.collector.hosts import Connection, Host
from audisp.collector.services import Services, Stream
from audisp.collector.session_native import NativeSession
from audisp.collector.session_rmw import RmwSession
from audisp.collector.store_frames import address_identity, authenticated
from audisp.config.collector import ListenConf
from audisp.config.network import Endpoint
from audisp.errors import ConfigError, RemoteProtocolError
from audisp.sources.contract import is_local_name
from audisp.tls.context import ServerContext
from audisp.tls.failures import LocalTLSError, TLSError
from audisp.tls.keyring import KeyFiles, KeyRing, Verdict
from audisp.tls.settings import CryptoSettings, Profile
from audisp.tls.stream import TLSStream
from audisp.wire.native import ALPN

TLS_RECORD: Final = 22
"""First byte of a TLS connection: a handshake record (RFC 8446 section 5.1). No C program's frame begins with it."""

KEEPALIVE: Final = (
    (socket.TCP_KEEPIDLE, 60),
    (socket.TCP_KEEPINTVL, 20),
    (socket.TCP_KEEPCNT, 3),
    (socket.TCP_USER_TIMEOUT, 120_000),
)
"""A peer that is gone without a word, which the C programs' protocol cannot notice, is noticed after two minutes."""

ACCEPT_PAUSE: Final = 0.1
"""Seconds before the next connection is accepted when there are no descriptors."""

WANTING: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

LOST: Final = frozenset({"cut-off", "connection-lost"})
"""Reasons of TLS that mean that a host, or the network, went away."""

ALIVE_SHARE: Final = 2
"""A sender that was heard within this part of `idle_timeout` is well: our own says something every third of it."""

EVERYWHERE: Final = "::"
"""Every address of this host, IPv4's too."""


def bind(conf: ListenConf) -> list[socket.socket]:
    """The listening sockets, bound; ConfigError for an address that cannot be. To be called before privileges go."""
    opened: list[socket.socket] = []
    try:
        for endpoint in conf.endpoints or (None,):
            opened.append(_bound(endpoint, conf))
    except BaseException:
        for each in opened:
            each.close()
        raise
    return opened


def _bound(endpoint: Endpoint | None, conf: ListenConf) -> socket.socket:
    port = conf.tcp_listen_port if endpoint is None or endpoint.port is None else endpoint.port
    host = EVERYWHERE if endpoint is None else endpoint.host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if endpoint is None and not socket.has_dualstack_ipv6():
            family, host = socket.AF_INET, "0.0.0.0"  # noqa: S104 - every address is what was asked for
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, endpoint is not None)
            sock.bind((host, port))
            sock.listen(conf.tcp_listen_queue)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        where = f"{host}:{port}" if family == socket.AF_INET else f"[{host}]:{port}"
        raise ConfigError(f"cannot listen at {where}: {os.strerror(error.errno or 0)}", key="listen") from error
    return sock


def key_ring(conf: ListenConf) -> KeyRing | None:
    """The keys of those who may come in; None if there is no TLS. ConfigError."""
    if conf.transport == "tcp":
        return None
    identity = conf.tls_psk_identity
    shared_alone = conf.tls_allowed_clients is None
    return KeyRing(
        KeyFiles(
            acl=conf.tls_allowed_clients,
            shared=conf.tls_psk_file,
            identity=identity.encode("ascii") if identity is not None and shared_alone else None,
            master=conf.tls_psk_master,
            epochs=conf.tls_psk_epochs,
        )
    )


def context(conf: ListenConf, ring: KeyRing) -> ServerContext:
    """TLS as configured. ConfigError."""
    settings = CryptoSettings(Profile(conf.profile), conf.tls_cipher_suites, conf.tls_key_exchange)
    try:
        return ServerContext(ring.lookup, settings=settings, alpn=(ALPN,))
    except TLSError as error:
        raise ConfigError(str(error), key="transport") from error


@attrs.define(eq=False)
class Listener:
    """Accepts, and serves each connection. ring, tls: None if there is no TLS."""

    services: Services
    ring: KeyRing | None
    tls: ServerContext | None
    admission: Admission

    async def run(self, sockets: Sequence[socket.socket], sessions: trio.Nursery) -> None:
        """Accept until cancelled; closes the sockets. sessions: where connections live, which outlast this."""
        listeners = [trio.socket.from_stdlib_socket(each) for each in sockets]
        try:
            async with trio.open_nursery() as nursery:
                for each in listeners:
                    nursery.start_soon(self._accept, each, sessions)
        finally:
            for each in listeners:
                each.close()

    async def _accept(self, listener: trio.socket.SocketType, sessions: trio.Nursery) -> None:
        while True:
            try:
                sock, address = await listener.accept()
            except OSError as error:
                if error.errno in WANTING:
                    self._say("error", f"no connection can be accepted: {os.strerror(error.errno or 0)}", "accept")
                    await trio.sleep(ACCEPT_PAUSE)
                # Else the client is gone again.
                continue
            sessions.start_soon(self._serve, sock, address)

    def revoke(self) -> int:
        """After a reload of keys: cut off those who may not come in any more; how many."""
        if self.ring is None:
            return 0
        found = [
            connection
            for connection in self.services.hosts.connections
            if connection.offered is not None and self.ring.status(connection.offered) is not Verdict.ENABLED
        ]
        for connection in found:
            connection.end("identity-revoked")
        return len(found)

    def _say(self, level: str, message: str, limit: str) -> None:
        self.services.say(level, message, limit=f"listener:{limit}")

    async def _serve(self, sock: trio.socket.SocketType, peer: Any) -> None:
        """One connection, from accept to its end. Raises nothing that the peer can cause."""
        with sock, trio.CancelScope() as scope:
            now = trio.current_time()
            address, port = plain_address(peer[0]), peer[1]
            connection = Connection(self.services.hosts.number(), address, port, "", "", scope, now, now)
            try:
                self.admission.enter(connection)
            except NotAdmitted as error:
                self._refused(connection, error.reason, str(error))
                return
            plain = False
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in KEEPALIVE:
                    sock.setsockopt(socket.IPPROTO_TCP, option, value)
                stream = trio.SocketStream(sock)
                if await self._is_plain(sock):
                    self.admission.proved(connection, plain=True)
                    plain = True
                    connection.protocol = "rmw"
                    await self._session(address_identity(address), stream, connection)
                else:
                    await self._shake(stream, connection)
            except NotAdmitted as error:
                self._refused(connection, error.reason, str(error))
            except OSError as error:
                self._say("info", f"{_where(connection)}: was lost: {error.strerror}", "lost")
            except Exception as defect:  # noqa: BLE001 - a defect that one peer can cause must not end what others have
                self._say("critical", f"{_where(connection)}: a defect of ours: {defect!r}", "defect")
            finally:
                self.admission.leave(connection, plain=plain)
        if connection.reason:
            word = connection.reason.partition(" ")[0].rstrip(":")
            self._say("warning", f"{_where(connection)}: cut off: {connection.reason}", f"cut:{word}")

    async def _is_plain(self, sock: trio.socket.SocketType) -> bool:
        """Whether it is plain TCP. Where both may come it is told by the first byte; a sender that says nothing is a C
        program on a quiet host, since TLS begins at once."""
        if self.tls is None:
            return True
        if not self.services.conf.takes_plain:
            return False
        with trio.move_on_after(self.services.conf.handshake_timeout):
            first = await sock.recv(1, socket.MSG_PEEK)
            return bool(first) and first[0] != TLS_RECORD
        return True

    async def _shake(self, transport: trio.SocketStream, connection: Connection) -> None:
        assert self.tls is not None
        try:
            stream = TLSStream(transport, self.tls)
        except LocalTLSError as error:
            self._refused(connection, error.reason, str(error))
            return
        try:
            await stream.handshake(self.services.conf.handshake_timeout)
            self.admission.proved(connection, plain=False)
            session = stream.session
            connection.offered, connection.cipher = session.identity, f"{session.cipher} {session.group}"
            connection.protocol = "native" if session.alpn == ALPN else "rmw"
            identity = session.host.decode("ascii")
            if not authenticated(identity):
                raise NotAdmitted("invalid-identity", f"{identity} would be taken for a sender without a key")
            if is_local_name(identity):
                raise NotAdmitted("invalid-identity", f"{identity} is what a source of this host is called")
            await self._session(identity, stream, connection)
        except TLSError as error:
            self._refused(connection, error.reason, str(error))
        finally:
            with trio.CancelScope(shield=True):
                await stream.aclose()

    async def _session(self, identity: str, stream: Stream, connection: Connection) -> None:
        services = self.services
        host = services.hosts.join(identity, connection)
        try:
            self._make_room(host, connection)
        except NotAdmitted:
            services.hosts.leave(host, connection)
            raise
        try:
            kind = NativeSession if connection.protocol == "native" else RmwSession
            self._say("info", f"{identity}: connected from {_where(connection)}, {connection.protocol}", "connected")
            services.presence.accepted(connection, identity)
            await kind(stream, connection, host, services).run()
            self._say("info", f"{identity}: has gone", "gone")
        except* RemoteProtocolError as group:
            error = _first(group)
            reason = str(getattr(error, "reason", "protocol"))
            if reason in LOST:
                self._say("info", f"{identity}: the connection was lost: {error}", "lost")
            else:
                self._say("warning", f"{identity} at {_where(connection)}: cut off: {error}", f"session:{reason}")
            del error  # it holds this frame, and what the peer sent
        except* trio.TooSlowError:
            self._say("warning", f"{identity} at {_where(connection)}: cut off: takes no answers", "session:slow")
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            self._say("info", f"{identity}: the connection was lost", "lost")
        finally:
            services.hosts.leave(host, connection)
            services.presence.closed(connection)

    def _make_room(self, host: Host, connection: Connection) -> None:
        """One more of a host has come. Raises NotAdmitted if there are enough, and all are well."""
        conf = self.services.conf
        limit = conf.max_per_identity if authenticated(host.identity) else conf.tcp_max_per_addr
        for each in surplus(host, connection, limit, trio.current_time() - conf.idle_timeout / ALIVE_SHARE):
            each.end("max-per-identity: a newer connection has taken its place")
        # A native sender may be the successor of one of the others, which its greeting says (NativeSession).
        if host.live > limit + (connection.protocol == "native"):
            raise NotAdmitted("max-per-identity", f"{host.identity} has {limit} senders that are well, and no more")

    def _refused(self, connection: Connection, reason: str, message: str) -> None:
        self.services.presence.refused(connection, reason)
        self._say("warning", f"{_where(connection)}: refused ({reason}): {message}", f"refused:{reason}")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _where(connection: Connection) -> str:
    address = connection.address
    return f"[{address}]:{connection.port}" if ":" in address else f"{address}:{connection.port}"


def plain_address(address: str) -> str:
    """An address as people write it: IPv4's own, where the kernel gives it as IPv6."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(found)
