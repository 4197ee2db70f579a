"""Who sends, and who is connected: what the sessions have in common about one host, and what people are shown of it.

A host is an identity: the one that its key proves, or `addr:IP`. What outlives the process (position, records, names of
nodes) is read from the store; what is here is of this process.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs
import trio

from audisp.collector.committer import Account
from audisp.collector.store_frames import authenticated
from audisp.collector.store_streams import Stream

MAX_RECENT: Final = 1_024
"""Last messages remembered of one host, one of each connection: as many as the C programs' clients that may share an
address (`tcp_max_per_addr`). Each is 100 bytes."""

RATE_SECONDS: Final = 60.0
"""A host's rate is a mean in which what is so old counts for a third."""

NANO: Final = 1_000_000_000


@attrs.define(eq=False)
class Connection:
    """One connection of a host. address, port: of its other end. protocol: native or rmw. cipher: of TLS, "" without.

    scope: what ends it when cancelled. reason: why it is ended, a word for the log. offered: the identity as offered,
    with its epoch; None without TLS. heard: when anything came last, and since: when it began (trio.current_time).
    first, following: numbers of the oldest record that a native sender still had when it came, and of the one that it
    will get next.
    """

    number: int
    address: str
    port: int
    protocol: str
    cipher: str
    scope: trio.CancelScope
    since: float
    heard: float
    offered: bytes | None = None
    spool: bytes = b""
    first: int = 0
    following: int | None = None
    reason: str = ""

    @property
    def settled(self) -> bool:
        """Whether it has said what it is: which stream it brings, or by the C programs' protocol anything at all."""
        return bool(self.spool) if self.protocol == "native" else self.heard > self.since

    def end(self, reason: str) -> None:
        """Cut it off."""
        self.reason = self.reason or reason
        self.scope.cancel()


@attrs.define(eq=False)
class Host:
    """What this process knows of one host. accounts: those of its connections, and of earlier ones of which
    something is still under way. recent: number and hash of the last message stored, of each connection of the C
    programs' protocol. retries, duplicates: messages and frames that were stored already. holes: times that it
    left records out without saying so."""

    identity: str
    connections: dict[int, Connection] = attrs.field(factory=dict)
    accounts: list[Account] = attrs.field(factory=list)
    recent: OrderedDict[int, tuple[int, bytes]] = attrs.field(factory=OrderedDict)
    records: int = 0
    size: int = 0
    retries: int = 0
    duplicates: int = 0
    holes: int = 0
    _rate: float = 0.0
    _rated: float = -math.inf

    @property
    def live(self) -> int:
        """Connections that have not been ended."""
        return sum(not each.reason for each in self.connections.values())

    def stored(self, records: int, size: int, now: float) -> None:
        """So much more of it is on disk."""
        self.records += records
        self.size += size
        self._rate = self.rate(now) + records / RATE_SECONDS
        self._rated = now

    def rate(self, now: float) -> float:
        """Records in a second, lately."""
        return self._rate * math.exp(min(0.0, self._rated - now) / RATE_SECONDS)

    def remember(self, connection: int, sequence: int, digest: bytes) -> None:
        """The last message of this connection that is on disk."""
        self.recent[connection] = (sequence, digest)
        self.recent.move_to_end(connection)
        if len(self.recent) > MAX_RECENT:
            self.recent.popitem(last=False)

    def has_stored(self, sequence: int, digest: bytes) -> bool:
        """Whether a connection that there was stored this message last, so that it is a retry on the next one."""
        return (sequence, digest) in self.recent.values()

    def open(self, account: Account) -> None:
        """One more connection has dealings with the store."""
        self.accounts = [each for each in self.accounts if not each.gone or each.waiting]
        self.accounts.append(account)

    def others(self, account: Account) -> list[Account]:
        """The others that bring the same stream."""
        return [each for each in self.accounts if each is not account and each.spool == account.spool]


class Hosts:
    """All hosts that are connected, and the last `keep` that were."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self._hosts: OrderedDict[str, Host] = OrderedDict()
        self._numbers = itertools.count(1)

    def __iter__(self) -> Iterator[Host]:
        return iter(tuple(self._hosts.values()))

    def find(self, identity: str) -> Host | None:
        """What is known of it."""
        return self._hosts.get(identity)

    def number(self) -> int:
        """For a new connection."""
        return next(self._numbers)

    def join(self, identity: str, connection: Connection) -> Host:
        """A host has connected."""
        host = self._hosts.get(identity)
        if host is None:
            host = self._hosts[identity] = Host(identity)
        self._hosts.move_to_end(identity)
        host.connections[connection.number] = connection
        return host

    def leave(self, host: Host, connection: Connection) -> None:
        """It has gone. Who is remembered though not connected is bounded."""
        host.connections.pop(connection.number, None)
        if len(self._hosts) > self.keep:
            for identity, each in self._hosts.items():
                if not each.connections:
                    del self._hosts[identity]
                    break

    @property
    def connections(self) -> list[Connection]:
        """Of all hosts."""
        return [connection for host in self for connection in host.connections.values()]


def report(hosts: Hosts, streams: list[Stream], now: float) -> list[dict[str, Any]]:
    """What `audisp-collector hosts` shows, by identity; streams: those of the store. seen: seconds since the epoch, of
    the last record stored. lag: records that a native sender has and that are not stored; None where nobody says."""
    stored: dict[str, list[Stream]] = {}
    for stream in streams:
        stored.setdefault(stream.key.identity, []).append(stream)
    for host in hosts:
        if host.connections:
            stored.setdefault(host.identity, [])
    return [_of(identity, stored[identity], hosts.find(identity), now) for identity in sorted(stored)]


def _of(identity: str, streams: list[Stream], host: Host | None, now: float) -> dict[str, Any]:
    connections = list(host.connections.values()) if host is not None else []
    nodes = list(dict.fromkeys(node for stream in streams for node in stream.nodes))
    seen = max((stream.seen for stream in streams), default=0)
    return {
        "host": identity,
        "authenticated": authenticated(identity),
        "connections": [_connection(each, now) for each in connections],
        "seen": seen / NANO if seen else None,
        "lag": _lag(connections, streams),
        "rate": round(host.rate(now), 3) if host is not None else 0.0,
        "records": sum(stream.records for stream in streams),
        "bytes": sum(stream.size for stream in streams),
        "missing": sum(stream.missing for stream in streams),
        "removed": sum(stream.dropped for stream in streams),
        "holes": host.holes if host is not None else 0,
        "retries": host.retries + host.duplicates if host is not None else 0,
        "nodes": nodes,
        "flags": ["nodes"] if len(nodes) > 1 else [],
    }


def _connection(connection: Connection, now: float) -> Mapping[str, Any]:
    return {
        "address": connection.address,
        "port": connection.port,
        "protocol": connection.protocol,
        "cipher": connection.cipher,
        "seconds": round(now - connection.since, 1),
        "silent": round(now - connection.heard, 1),
    }


def _lag(connections: list[Connection], streams: list[Stream]) -> int | None:
    said = {each.spool: (each.first, each.following) for each in connections if each.following is not None}
    if not said:
        return None
    places = {stream.key.spool: stream.next for stream in streams}
    return sum(max(0, following - places.get(spool, first)) for spool, (first, following) in said.items())
