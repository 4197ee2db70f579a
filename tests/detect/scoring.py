"""Made-up records through scores, as the tests want it: short. Times are seconds after some moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from audisp.detect.correlate import Finding
from audisp.detect.detector import Detector
from audisp.detect.entities import EntityId
from audisp.detect.form import RuleSet
from audisp.detect.scores import Scores
from audisp.detect.standing import Scored
from audisp.event import Batch, Event
from audisp.parse.record import RecordReader

BEGIN: Final = 1_700_000_000
UNSET: Final = 4294967295


class Stream:
    """Hands out serials; one origin, and one node unless told otherwise."""

    def __init__(self, *, origin: str = "netlink", node: str = "") -> None:
        self.origin, self.node = origin, node
        self.serial = 0

    def record(self, type_: str, body: str, at: float, *, node: str | None = None) -> str:
        self.serial += 1
        name = self.node if node is None else node
        seconds, millis = divmod(round(at * 1000), 1000)
        head = f"node={name} " if name else ""
        return f"{head}type={type_} msg=audit({BEGIN + seconds}.{millis:03d}:{self.serial}): {body}\n"

    def user(
        self,
        at: float,
        type_: str = "USER_LOGIN",
        *,
        addr: str = "192.0.2.1",
        acct: str = '"bob"',
        res: str = "failed",
        uid: int = 0,
        pid: int = 77,
        auid: int = UNSET,
        ses: int = UNSET,
        node: str | None = None,
        extra: str = "",
    ) -> str:
        """What sshd says; acct as written."""
        return self.record(
            type_,
            f'pid={pid} uid={uid} auid={auid} ses={ses} msg=\'op=login {extra}acct={acct} exe="/usr/sbin/sshd" '
            f"hostname=? addr={addr} terminal=ssh res={res}'",
            at,
            node=node,
        )

    def call(
        self,
        at: float,
        *,
        key: str = "(null)",
        ses: int = UNSET,
        auid: int = UNSET,
        uid: int = 33,
        pid: int = 4000,
        ppid: int = 300,
        exe: str = "/usr/bin/id",
        number: int = 59,
        argv: Sequence[str] = (),
        saddr: str = "",
        more: str = "",
        node: str | None = None,
    ) -> str:
        """A SYSCALL, with EXECVE if there are arguments, SOCKADDR if there is an address. key: as written."""
        body = (
            f"arch=c000003e syscall={number} success=yes exit=0 a0=3 a1=7f a2=10 a3=0 items=0 ppid={ppid} pid={pid} "
            f"auid={auid} uid={uid} gid=33 euid=33 suid=33 fsuid=33 egid=33 sgid=33 fsgid=33 tty=(none) ses={ses} "
            f'comm="x" exe="{exe}" subj=unconfined key={key}'
        )
        lines = self.record("SYSCALL", body, at, node=node)
        parts = [f"type=SOCKADDR BODYsaddr={saddr}"] * bool(saddr) + [more] * bool(more)
        if argv:
            words = " ".join(f'a{place}="{word}"' for place, word in enumerate(argv))
            parts.append(f"type=EXECVE BODYargc={len(argv)} {words}")
        before, _, _ = lines.partition("type=")
        stamp = lines.partition("msg=")[2].partition(" ")[0]
        return lines + "".join(before + part.replace("BODY", f"msg={stamp} ") + "\n" for part in parts)


class Scoring:
    """Scores and, where there are rules, a detector before them."""

    def __init__(self, scores: Scores | None = None, rules: RuleSet | None = None, *, shared: bool = True) -> None:
        self.scores = scores or Scores()
        self.detector = None if rules is None else Detector(rules, watched=self.scores.watched if shared else ())
        self.events: list[Event] = []

    def feed(self, *records: str, origin: str = "netlink", now: float | None = None) -> list[Scored]:
        """All records as one batch."""
        data = "".join(records).encode("utf-8", "surrogateescape")
        batch = Batch(data, data.count(b"\n"), origin, 0.0, RecordReader())
        findings: list[Finding] = []
        scan = None
        if self.detector is not None:
            findings, scan = self.detector.detect(batch), self.detector.scan
        found = self.scores.feed(batch, findings, scan, now=now)
        self.events = batch.events
        return found

    def score(self, kind: str, key: str, *, origin: str = "netlink", node: str = "", at: float | None = None) -> float:
        """What is remembered of an entity, as of its own last moment, or of a time; 0 if nothing is."""
        for table in self.scores.tables.values():
            if table.kind == kind:
                entity = table.get(EntityId(table.kind, origin, node, key))
                if entity is None:
                    return 0.0
                stamp = entity.at if at is None else round((BEGIN + at) * 1000)
                return round(table.present(entity, stamp)[0], 3)
        raise KeyError(kind)


def fired(found: list[Scored]) -> list[tuple[str, str]]:
    """Kinds and keys."""
    return [(each.kind, each.key) for each in found]
