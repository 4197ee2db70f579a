"""Who may come in, before and after it is known who that is: how many connections, of whom, and who goes when all
places are taken.

A place is taken from whoever takes most, never from those who take few: addresses that have proved nothing are counted
by address, hosts by identity. Pure counting; the listener does what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from audisp.collector.hosts import Connection, Host
from audisp.config.collector import ListenConf

PLAIN_SHARE: Final = 2
"""Senders without a key get this part of all connections: whoever can reach the port can open many."""


class NotAdmitted(Exception):
    """A connection is not taken. reason: one word for logs."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class Admission:
    """Connections, by address. conf: the limits as they are now."""

    def __init__(self, conf: ListenConf) -> None:
        self.conf = conf
        self.total = self.unproved = self.plain = 0
        self._addresses: dict[str, int] = {}
        self._unproved: dict[str, dict[int, Connection]] = {}

    def enter(self, connection: Connection) -> None:
        """A connection has come. Raises NotAdmitted; else `leave` is owed, and `proved` once it is known who it is."""
        conf, address = self.conf, connection.address
        low, high = conf.tcp_client_ports
        if not low <= connection.port <= high:
            raise NotAdmitted("port", f"port {connection.port} is not in tcp_client_ports")
        if self._addresses.get(address, 0) >= conf.tcp_max_per_addr:
            raise NotAdmitted("max-per-addr", f"{conf.tcp_max_per_addr} connections are the most of one address")
        if self.total >= conf.max_connections:
            raise NotAdmitted("max-connections", f"there are {self.total} connections, and no more are taken")
        if self.unproved >= conf.max_handshakes:
            self._make_room(address)
        self._addresses[address] = self._addresses.get(address, 0) + 1
        self._unproved.setdefault(address, {})[connection.number] = connection
        self.total += 1
        self.unproved += 1

    def _make_room(self, newcomer: str) -> None:
        """The oldest connection of the address that has most is cut off, unless that is the newcomer's."""
        most = max(self._unproved, key=lambda address: len(self._unproved[address]))
        if len(self._unproved[most]) <= len(self._unproved.get(newcomer, ())) + 1:
            raise NotAdmitted("max-handshakes", f"{self.unproved} connections have not proved a key yet")
        oldest = next(iter(self._unproved[most].values()))
        self._settle(oldest)
        oldest.end("max-handshakes")

    def proved(self, connection: Connection, *, plain: bool) -> None:
        """It is known who it is, or that it will not be. Raises NotAdmitted."""
        self._settle(connection)
        if plain:
            if self.plain >= max(1, self.conf.max_connections // PLAIN_SHARE):
                raise NotAdmitted("max-connections", f"{self.plain} connections have no key, and no more are taken")
            self.plain += 1

    def leave(self, connection: Connection, *, plain: bool) -> None:
        """It has ended. plain: `proved` has counted it as that."""
        self._settle(connection)
        self.total -= 1
        self.plain -= plain
        left = self._addresses[connection.address] - 1
        if left:
            self._addresses[connection.address] = left
        else:
            del self._addresses[connection.address]

    def _settle(self, connection: Connection) -> None:
        those = self._unproved.get(connection.address, {})
        if those.pop(connection.number, None) is not None:
            self.unproved -= 1
            if not those:
                del self._unproved[connection.address]


def surplus(host: Host, newcomer: Connection, limit: int, alive: float) -> Sequence[Connection]:
    """Connections of a host that make room for a newcomer, where there are more than `limit`: those from which nothing
    has come for longest. None that has said what it is and was heard after `alive`: senders that are too many for the
    limit would else end each other for ever, and it is the last one that is too many."""
    others = [
        each
        for each in host.connections.values()
        if each is not newcomer and not each.reason and not (each.settled and each.heard > alive)
    ]
    return sorted(others, key=lambda each: each.heard)[: max(0, host.live - limit)]
