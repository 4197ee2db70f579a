"""The plugin `hids` opened in the test's own process, fed with records, with a reactor that is the test's."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from audisp.enrich.facts import Enrichment
from audisp.event import Batch
from audisp.hids.plugin import HidsSettings, open_hids
from audisp.parse.record import RecordReader
from audisp.plugin import Delivery, Reactor
from audisp.react.request import Kind, Outcome, Request, Result, decode_request, encode_result
from tests.detect.replaying import rule
from tests.plugins.booking import BookingHost

EXEC = (
    "type=SYSCALL msg=audit({stamp}): arch=c000003e syscall=59 success=yes exit=0 a0=1 a1=2 a2=3 a3=4 items=2 "
    "ppid={ppid} pid={pid} auid=1000 uid=1000 gid=1000 euid=1000 suid=1000 fsuid=1000 egid=1000 sgid=1000 fsgid=1000 "
    "tty=pts0 "
    'ses=5 comm="nc" exe="{exe}" key="exec"\n'
    'type=EXECVE msg=audit({stamp}): argc=2 a0="nc" a1={word}\n'
    "type=EOE msg=audit({stamp}): \n"
)
LOGIN = (
    "type=USER_LOGIN msg=audit({stamp}): pid={pid} uid=0 auid=4294967295 ses=4294967295 msg='op=login acct={acct} "
    'exe="/usr/sbin/sshd" hostname=? addr={addr} terminal=ssh res=failed\'\n'
)
NETCAT = rule("s:\n  type: EXECVE\n  a0: nc\ncondition: s", name="netcat", level="critical")
WORDS = rule('keywords:\n  - "evil"\ncondition: keywords', name="words", level="critical")
BAD = rule("s:\n  type: USER_LOGIN\n  res: failed\ncondition: s", name="failed", level="medium")


@attrs.define(eq=False)
class Watching:
    """One opened plugin."""

    delivery: Delivery
    host: BookingHost
    folder: Path
    reactor: socket.socket | None = None
    serial: int = 0

    def stamp(self, ago: float = 0.0) -> str:
        self.serial += 1
        return f"{time.time() - ago:.3f}:{self.serial}"

    def exec(
        self, *, ago: float = 0.0, pid: int = 4242, ppid: int = 4200, exe: str = "/usr/bin/nc", word: str = '"x"'
    ) -> str:
        return EXEC.format(stamp=self.stamp(ago), pid=pid, ppid=ppid, exe=exe, word=word)

    def login(self, *, acct: str = '"bob"', addr: str = "192.0.2.9", pid: int = 77) -> str:
        return LOGIN.format(stamp=self.stamp(), acct=acct, addr=addr, pid=pid)

    async def feed(
        self,
        *texts: str,
        source: str = "netlink",
        spooled: bool = False,
        contexts: Sequence[Enrichment | None] | None = None,
    ) -> None:
        """As one batch, in a thread as the plugin's runner does."""
        data = "".join(texts).encode("utf-8", "surrogateescape")
        batch = Batch(data, data.count(b"\n"), source, time.monotonic(), RecordReader(), None, spooled=spooled)
        batch.contexts = None if contexts is None else list(contexts)
        deliver: Callable[[Any], Any] = self.delivery.deliver
        await trio.to_thread.run_sync(deliver, batch)

    def objects(self) -> list[dict[str, Any]]:
        """What stands in alerts.json."""
        path = self.folder / "alerts.json"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def alerts(self, rule: str = "") -> list[dict[str, Any]]:
        """The alerts themselves, of one rule's title or all."""
        return [each for each in self.objects() if "count" in each and "repeated" not in each and rule in each["title"]]

    def requests(self) -> list[Request]:
        """All requests that are there by now."""
        assert self.reactor is not None
        found = []
        while True:
            try:
                found.append(decode_request(self.reactor.recv(1 << 20)))
            except BlockingIOError:
                return found

    async def answer(self, request: Request, outcome: Outcome, reason: str = "", **more: Any) -> None:
        """As the reactor would."""
        assert self.reactor is not None
        result = Result(number=request.number, kind=request.kind, outcome=outcome, reason=reason, text="t", **more)
        self.reactor.send(encode_result(result))
        await trio.sleep(0.05)


@asynccontextmanager
async def watching(
    folder: Path,
    *rules: str,
    allowed: Mapping[Kind, tuple[str, ...]] | None = None,
    local: bool = True,
    **settings: Any,
) -> AsyncIterator[Watching]:
    """allowed: what reactions.conf would; None: there is no reactor."""
    places = folder / "rules"
    places.mkdir(exist_ok=True, mode=0o755)
    for at, text in enumerate(rules):
        (places / f"{at}.yml").write_text(text)
    state = folder / "state"
    state.mkdir(exist_ok=True, mode=0o700)
    host = BookingHost("hids", str(state), owner=True)
    host.is_local = local
    reactor = None
    if allowed is not None:
        reactor, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reactor.setblocking(False)
        host.has_reactor = Reactor(theirs.detach(), {kind.value: levels for kind, levels in allowed.items()})
    async with open_hids(HidsSettings(rules=(places,), **settings), host) as delivery:
        assert isinstance(delivery, Delivery)
        yield Watching(delivery, host, state, reactor)
    if reactor is not None:
        reactor.close()
