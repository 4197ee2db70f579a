"""Blocking an address: a table of our own in nftables, two sets whose elements the kernel itself lets expire.

Nothing but numbers that `ipaddress` has made of what was asked for goes to nft, on its standard input. A block outlives
us; the table outlives nothing but a reboot, after which the journal puts back what has time left.
"""

from __future__ import annotations

import ipaddress
import json
from typing import Final

from audisp.config.reactions import ReactionsConf
from audisp.react.accounts import Accounts
from audisp.react.accounts import Unreadable as NoAccounts
from audisp.react.addresses import IP, Network, Surroundings, Unreadable, meanings, never, normal
from audisp.react.books import Act, Now
from audisp.react.judge import Refused
from audisp.react.means import Failed, Prepared, lasting
from audisp.react.programs import Ran, run
from audisp.react.request import Address, Request

NFT: Final = "/usr/sbin/nft"
TABLE: Final = "inet audisp_hids"
SET_SIZE: Final = 65536
"""Elements of a set: far above what can be in force (books.MAX_OPEN)."""
PRIORITY: Final = -10
"""Before the usual filter chains (0), which may accept at once, and behind connection tracking (-200)."""
SETUP: Final = "".join(
    (
        f"add table {TABLE}\n",
        *(
            f"add set {TABLE} block{version} {{ type ipv{version}_addr; size {SET_SIZE}; flags timeout; }}\n"
            for version in (4, 6)
        ),
        *(
            f"add chain {TABLE} {hook} {{ type filter hook {hook} priority {PRIORITY}; policy accept; }}\n"
            f"flush chain {TABLE} {hook}\n"
            f"add rule {TABLE} {hook} ip saddr @block4 drop\n"
            f"add rule {TABLE} {hook} ip6 saddr @block6 drop\n"
            for hook in ("input", "forward")
        ),
    )
)
"""Makes of any state the one that we need, in one transaction; the sets keep their elements."""


class Block:
    """The means to block. nft: the program."""

    def __init__(
        self,
        conf: ReactionsConf,
        *,
        accounts: Accounts | None = None,
        surroundings: Surroundings | None = None,
        nft: str = NFT,
    ) -> None:
        self._conf = conf
        self._accounts = accounts or Accounts()
        self._surroundings = surroundings or Surroundings()
        self._nft = nft
        self._networks: tuple[Network, ...] = tuple(ipaddress.ip_network(word) for word in conf.spare_addresses)

    def prepare(self, request: Request, now: Now) -> Prepared:
        """See Means."""
        assert isinstance(request.target, Address)
        address = normal(request.target.text)
        if address is None:
            raise Refused("target", "no address")
        self._spare(address)
        seconds = lasting(request, self._conf.block_time)
        return Prepared(f"address {address}", {"address": str(address)}, {"undo": True}, seconds)

    async def carry_out(self, act: Act, request: Request) -> str:
        """See Means."""
        await self._put(act, act.seconds)
        return f"blocked {act.aim['address']} for {act.seconds} s"

    async def undo(self, act: Act) -> str:
        """See Means."""
        address = _address(act)
        # Added before it is deleted, in one transaction: what has expired already is then no error.
        element = f"{TABLE} block{address.version} {{ {address} }}"
        text = f"{SETUP}add element {element}\ndelete element {element}\n"
        await self._tell(text)
        return f"unblocked {address}"

    async def in_force(self, act: Act, now: Now) -> bool:
        """See Means."""
        left = int(act.left(now))
        if left <= 0:
            return False
        if act.boot_id == now.boot_id and await self._listed(_address(act)):
            return True
        if act.step != "done":
            return False  # we were killed before it came about, and nobody has been told that it did
        await self._put(act, left)
        return True

    def _spare(self, address: IP) -> None:
        reason = never(address)
        if reason is not None:
            raise Refused("spared", f"{address} {reason}")
        try:
            own, gateways = self._surroundings.own(), self._surroundings.gateways()
            peers = self._surroundings.peers(
                self._accounts.admins(frozenset(self._conf.admin_groups)) | frozenset(self._conf.spare_accounts)
            )
        except (Unreadable, NoAccounts) as error:
            raise Refused("unreadable", str(error)) from error
        for each in meanings(address):
            for found, what in ((own, "is this host's own"), (gateways, "is a gateway"), (peers, "is an admin's")):
                if each in found:
                    raise Refused("spared", f"{address} {what}")
            for network in self._networks:
                if each.version == network.version and each in network:
                    raise Refused("spared", f"{address} is in {network}, which spare_addresses names")

    async def _put(self, act: Act, seconds: int) -> None:
        address = _address(act)
        name = f"{TABLE} block{address.version}"
        timed = f"{name} {{ {address} timeout {seconds}s }}"
        # An element that is there keeps its old timeout when it is added (before Linux 6.12): so it goes first.
        text = f"{SETUP}add element {timed}\ndelete element {name} {{ {address} }}\nadd element {timed}\n"
        await self._tell(text)

    async def _listed(self, address: IP) -> bool:
        element = f"{{ {address} }}"
        words = ("get", "element", *TABLE.split(), f"block{address.version}", element)
        return (await self._run(words)).ok

    async def _tell(self, text: str) -> None:
        ran = await self._run(("-f", "-"), text)
        if not ran.ok:
            raise Failed(f"{ran.text}: {ran.said}" if ran.said else ran.text)

    async def _run(self, words: tuple[str, ...], text: str = "") -> Ran:
        return await run((self._nft, *words), stdin=text.encode("ascii"), deadline=self._conf.deadline, hear=True)


def _address(act: Act) -> IP:
    """The address again, as a number: what stands in the journal is no more trusted than any text."""
    address = normal(str(act.aim["address"]))
    if address is None:
        raise Failed(f"{json.dumps(act.aim['address'])} is no address")
    return address
