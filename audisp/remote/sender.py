"""Which server, when, and by which protocol: connects, runs a session, and comes back after whatever ends it.

No end is final: a server that is gone, refuses, or lies costs its attempts, and the records stay in the spool.
"""

from __future__ import annotations

import random
import time
from typing import Final

import trio

from audisp.config.remote import RemoteConf
from audisp.dispatch.say import Voice
from audisp.errors import ConfigError
from audisp.remote import home
from audisp.remote.actions import Brake, Notices
from audisp.remote.bell import Bell
from audisp.remote.connect import Connector, Link, LinkError
from audisp.remote.native_session import NativeSession
from audisp.remote.outbox import Outbox
from audisp.remote.rmw_session import Ledger, RmwSession
from audisp.remote.servers import Ladder
from audisp.remote.session import Watch
from audisp.remote.spoken import Spoken

HOME_SECONDS: Final = 5.0
"""Between two looks at our addresses, while we are away from home or connected."""
REFUSED_SECONDS: Final = 5.0
"""Shortest time for which a server that refused us is left alone, unless it says otherwise: what it refuses for takes a
person to put right."""
FINISH_SECONDS: Final = 0.05
"""Between two looks whether all is sent, once nothing more comes."""
UNHURT: Final = 1.0
"""Seconds before the next attempt where a session ended at once without being of use."""


class Sender:
    """Sends the outbox's records. `run` until cancelled; status reads the rest."""

    def __init__(self, conf: RemoteConf, outbox: Outbox, notices: Notices, brake: Brake, voice: Voice) -> None:
        """A key that cannot be read now is tried again before each attempt: our input is not to wait for it."""
        self.conf = conf
        self.outbox = outbox
        self.brake = brake
        self.ledger = Ledger()
        self.watch: Watch | None = None
        """Of the session that runs; None: there is no connection."""
        self.link: Link | None = None
        self.away = False
        """We are not in a home network."""
        self.remote_ended = False
        """The last connection was ended by the server's own word, and there is none since."""
        self.problem = ""
        """Why there is no connection."""
        self.attempts = 0
        self.connections = 0
        self.finishing = False
        """Nothing more comes: end when all is sent, or when nothing gets on."""
        self._notices, self._voice = notices, voice
        self._spoken = Spoken(conf.spool_dir)
        self._started = True
        self._changed = Bell()
        self._connector: Connector | None = None
        self._ladder = self._climb(conf)

    def _made(self, conf: RemoteConf) -> Connector:
        connector = Connector(conf)
        for line in connector.notices:
            self._voice.say("notice", line)
        return connector

    @staticmethod
    def _climb(conf: RemoteConf) -> Ladder:
        return Ladder(len(conf.servers), conf.network_retry_time, conf.retry_max)

    def reload(self, conf: RemoteConf) -> None:
        """Go on by another configuration, with a new connection. Raises ConfigError, and nothing has changed then."""
        self._connector = self._made(conf)
        self.conf = conf
        self._ladder = self._climb(conf)
        self.wake()
        if self.watch is not None:
            self.watch.ask_to_leave()

    def wake(self) -> None:
        """End the wait for the next attempt."""
        if self.watch is None:
            self._ladder.restart()
        self._changed.ring()

    @property
    def connected(self) -> bool:
        """Whether there is a server that takes records."""
        return self.watch is not None and self.watch.useful

    async def run(self) -> None:
        """Until cancelled, or until `finishing` and all is sent."""
        link: Link | None = None
        while not (self.finishing and not self.outbox.stream.records):
            ring = self._changed.next()
            await self._wait_until_allowed()
            if link is None:
                link = await self._connect(ring)
                if link is None:
                    continue
            link = await self._session(link, ring)
        if link is not None:
            self._close(link)

    def finish(self) -> None:
        """Nothing more comes: `run` returns when all is sent."""
        self.finishing = True
        if not self.outbox.stream.records and self.watch is not None:
            self.watch.ask_to_leave()
        self._changed.ring()
        self.brake.changed.ring()

    # Before a connection.

    async def _wait_until_allowed(self) -> None:
        """While sending is suspended or stopped, or we are away from home."""
        while True:
            ring = self.brake.changed.next()
            seconds = self.brake.wait(time.monotonic())
            if seconds is None or seconds > 0:
                with trio.move_on_after(float("inf") if seconds is None else seconds):
                    await ring.wait()
                continue
            self.away = not await self._is_home()
            if not self.away:
                return
            self.problem = "not in a home network"
            with trio.move_on_after(HOME_SECONDS):
                await self._changed.wait()

    async def _is_home(self) -> bool:
        if not self.conf.home_network:
            return True
        try:
            return home.is_home(self.conf.home_network, home.addresses())
        except OSError as error:
            self._voice.say("warning", f"home_network: {error}", limit=("home", 1, 60.0))
            return True

    async def _connect(self, ring: trio.Event) -> Link | None:
        """To the server whose turn it is; None if that failed, after the wait that is due then."""
        server = self.conf.servers[self._ladder.at]
        self.attempts += 1
        try:
            if self._connector is None:
                self._connector = self._made(self.conf)
            link = self._judge(await self._connector.connect(server))
        except (LinkError, ConfigError) as error:
            await self._failed(str(error), ring)
            return None
        self.connections += 1
        self._started = False
        how = f" ({link.cipher})" if link.cipher else " without TLS"
        self._voice.say(
            "info",
            f"connected to {server}, {'native protocol' if link.native else 'rmw'}{how}",
            limit=("connected", 5, 60.0),
        )
        return link

    def _judge(self, link: Link) -> Link:
        """The link, if its protocol is one that we may speak with this server. Raises LinkError."""
        speaks = self.conf.speaks
        name = str(link.server)
        if link.native:
            try:
                self._spoken.add(name)
            except OSError as error:
                self._voice.say("warning", f"cannot keep that {name} speaks native: {error}", limit=("kept", 1, 60.0))
            return link
        if speaks == "native" or (speaks == "auto" and name in self._spoken):
            why = "protocol = native" if speaks == "native" else "it has spoken the native protocol before"
            self._close(link)
            raise LinkError(f"{name}: does not offer the native protocol, and {why}")
        if speaks == "auto":
            self._voice.say(
                "warning",
                f"{name} does not offer the native protocol: falling back to rmw, and a record may arrive twice",
                limit=("fallback", 1, 60.0),
            )
        return link

    @staticmethod
    def _close(link: Link) -> None:
        # Nothing was said on it.
        stream = link.stream
        (stream.socket if isinstance(stream, trio.SocketStream) else stream.transport.socket).close()

    async def _failed(self, text: str, ring: trio.Event) -> None:
        """The server was of no use: the action, if it is due, and the wait."""
        self.problem = text
        now = time.monotonic()
        wait = self._ladder.failed(now, random.random())  # noqa: S311 - not all hosts at the same moment
        self._voice.say("notice", text, limit=(f"failed:{self._ladder.at}", 1, 60.0))
        if self._ladder.given_up(now, self.conf.max_tries_per_record, self.conf.max_time_per_record):
            if self._started:
                self._started = False
                self._notices.occur("startup_failure", f"no server can be reached: {text}")
            else:
                self._notices.occur("network_failure", f"no server can be reached: {text}")
            if self.brake.holds:
                # When it is over, everything begins anew.
                self._ladder.restart()
                return
        with trio.move_on_after(wait):
            await ring.wait()

    # With one.

    async def _session(self, link: Link, ring: trio.Event) -> Link | None:
        """Run a session on it, and wait for what its end asks for; a connection to a better server if that ended it."""
        self.watch = watch = Watch(str(link.server), self._notices)
        self.link, self.remote_ended = link, False
        began = time.monotonic()
        better: Link | None = None

        async def look_out() -> None:
            nonlocal better
            better = await self._look_out(watch)

        session = (
            NativeSession(link, self.outbox, watch)
            if link.native
            else RmwSession(link, self.outbox, watch, self.conf, self.ledger)
        )
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(look_out)
                nursery.start_soon(self._oversee, watch)
                ended = await session.run()
                nursery.cancel_scope.cancel()
        finally:
            self.watch = self.link = None
        if better is not None:
            return better
        if ended.how == "left":
            return None
        self.problem = f"{link.server}: {ended.text}"
        if ended.how == "refused":
            self._notices.occur("generic_error", self.problem)
        self.remote_ended = ended.how == "ending"
        if watch.useful and ended.how in ("lost", "unwell"):
            self._voice.say("notice", self.problem, limit=("lost", 5, 60.0))
            self._ladder.restart()
            wait = 0.0
        elif len(self.conf.servers) > 1 or ended.how == "lost":
            # Another may take us meanwhile.
            await self._failed(self.problem, ring)
            return None
        else:
            wait = max(REFUSED_SECONDS if ended.how == "refused" else 0.0, ended.retry or 0.0)
        with trio.move_on_after(max(wait, began + UNHURT - time.monotonic(), 0.0)):
            await ring.wait()
        return None

    async def _oversee(self, watch: Watch) -> None:
        """What ends a session from our side: the brake, leaving home, the end of our input."""
        while True:
            ring, acknowledged = self.brake.changed.next(), self.outbox.shrunk.next()
            finished = self.finishing and not self.outbox.stream.records
            if self.brake.holds or finished or not await self._is_home():
                watch.ask_to_leave()
                return
            with trio.move_on_after(FINISH_SECONDS if self.finishing else HOME_SECONDS):
                await (acknowledged if self.finishing else ring).wait()

    async def _look_out(self, watch: Watch) -> Link | None:
        """On another server than the best: after `failback_time` try those before it."""
        while True:
            if not self._ladder.at or not self.conf.failback_time:
                await trio.sleep_forever()
            await trio.sleep(self.conf.failback_time)
            for number, server in enumerate(self.conf.servers[: self._ladder.at]):
                self.attempts += 1
                assert self._connector is not None
                try:
                    link = self._judge(await self._connector.connect(server))
                except LinkError as error:
                    self._voice.say("info", f"not back yet: {error}", limit=("failback", 1, 60.0))
                    continue
                self._voice.say("info", f"{server} is back: going over to it")
                self._ladder.at = number
                self.connections += 1
                watch.ask_to_leave()
                return link
