"""Debian's programs at the other end, over TCP, with kills and broken lines: 100,000 records, compared one by one.

Three ways, each with what its protocol (docs/formats/rmw.md) can promise:

- `theirs-to-ours`: Debian's audisp-remote to our collector, which is killed, over a line that breaks in the middle of
  frames. A record whose answer was lost comes again under its number: it is known, and each is stored once, in order.
- `their-kills`: the same, and it is audisp-remote that is killed. What it had read and not yet written into its queue
  file is gone: its 16 KiB line buffer and one record, of which its successor takes the end, still in the pipe, for a
  record. That is its own, is counted here, and is all. One record may come twice each time, under a new number.
- `ours-to-theirs`: our audisp-remote to Debian's auditd; both are killed, the line breaks. Nothing is lost. auditd
  knows no number again, so what it had written and not answered, or answered and we had not noted, stands in its log
  twice. Of a record in whose middle the line broke it writes the beginning as if it were one; the whole comes behind
  it. All of that is counted, and bounded by the number of kills and cuts.

EOE goes over neither: the C program does not send it, ours does as it does.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import attrs

from audisp.errors import AudispError
from audisp.remote.rmw_session import SETTLE_EVERY
from tests.e2e.collectors import Collector, TheirRemote
from tests.e2e.daemons import Auditd
from tests.e2e.remotes import Remote, free_port
from tests.needs import ROOT
from tests.soak.forward import disk
from tests.soak.lines import BreakingLine
from tests.soak.result import Result
from tests.soak.world import until

HOST: Final = "addr:127.0.0.1"
AHEAD: Final = 2_000
"""Records that the C program is fed before they are stored: its queue holds 10,240, and what exceeds that it drops."""
BLOCK: Final = 200
"""Records written at once: about what a pipe holds."""
PATIENCE: Final = 300.0
"""Seconds for all that is left at the end."""
KICK: Final = b"type=USER msg=audit(1.000:%d): kick\n"
KICK_SECONDS: Final = 2.0
LINE_BUFFER: Final = 16_384
"""What the C program reads at once, and loses when it is killed (upstream.md 5.6)."""
KILLS: Final = 20
"""Of each kind, in a run of 100,000."""


def cutting(count: int) -> tuple[int, int]:
    """Bytes after which a line breaks: several times in a run of `count` records, and not all the time."""
    return 10_000, min(count * 80, 2_000_000)


def records(count: int) -> list[bytes]:
    """Records of our own corpus, each once, all of its types but the daemons' own; every twentieth is an EOE."""
    found = (ROOT / "tests" / "corpus" / "mixed.log").read_bytes().splitlines(keepends=True)
    found = [line for line in found if not line.startswith((b"type=DAEMON_", b"type=EOE"))]
    made = (found[number % len(found)].replace(b": ", b": n=%d " % number, 1) for number in range(count))
    return [line for number, line in enumerate(made) for line in _with_eoe(number, line)]


def _with_eoe(number: int, line: bytes) -> Iterable[bytes]:
    yield line
    if number % 20 == 19:
        yield b"type=EOE msg=audit(1700000000.000:%d): \n" % number


def withheld(line: bytes) -> bool:
    """Whether it stays with a sender of this protocol."""
    return line.startswith(b"type=EOE")


@attrs.frozen
class Compared:
    """lost, doubled: records. torn: beginnings and ends of records. foreign: what else nobody has sent. in_order: the
    first times are."""

    lost: int
    doubled: int
    torn: int
    foreign: list[bytes]
    in_order: bool

    @classmethod
    def of(cls, sent: list[bytes], stored: list[bytes]) -> Compared:
        """Record by record. The sent ones are all different."""
        wanted = {line: number for number, line in enumerate(sent)}
        first = list(dict.fromkeys(stored))
        numbers = [wanted[line] for line in first if line in wanted]
        others = [line for line in first if line not in wanted]
        foreign = [line for line in others if not _is_part(line, sent)]
        torn = len(others) - len(foreign)
        return cls(len(wanted) - len(numbers), len(stored) - len(first), torn, foreign, numbers == sorted(numbers))


def _is_part(line: bytes, sent: list[bytes]) -> bool:
    """Whether it is the beginning or the end of a record."""
    return any(each.startswith(line[:-1]) or each.endswith(line) for each in sent)


def _check(result: Result, compared: Compared, *, lost: int = 0, doubled: int = 0, torn: int = 0) -> None:
    """lost, doubled, torn: the most there may be."""
    for name, found, most in (
        ("lost", compared.lost, lost),
        ("twice", compared.doubled, doubled),
        ("torn", compared.torn, torn),
    ):
        result.figures |= {name: found, f"{name}, at most": most}
        result.check(found <= most, f"{name}: {found} records, {most} may be")
    result.check(not compared.foreign, f"nobody sent {compared.foreign[:3]!r}")
    result.check(compared.in_order, "they came in another order")


class Feeder:
    """Writes records into the C program's pipe, never far ahead of what is stored.

    fed: records, without those that stay there. kicks: records that were added because it stood still: without a new
    record it does not connect again, whatever waits in its queue (upstream.md 5.7, 5).
    """

    def __init__(self, remote: TheirRemote, lines: list[bytes]) -> None:
        self.fed, self.kicks = 0, 0
        self._remote, self._lines, self._at, self._rest = remote, lines, 0, b""
        self._stored, self._since = 0, time.monotonic()
        os.set_blocking(remote.feed, False)

    @property
    def done(self) -> bool:
        """Whether all is written."""
        return self._at == len(self._lines) and not self._rest

    def go_on(self, stored: int) -> None:
        """What fits, without waiting."""
        now = time.monotonic()
        if stored > self._stored:
            self._stored, self._since = stored, now
        while not self._rest and self._at < len(self._lines) and self.fed < stored + AHEAD:
            block = self._lines[self._at : self._at + BLOCK]
            self._at += len(block)
            self.fed += sum(not withheld(line) for line in block)
            self._write(b"".join(block))
        if not self._rest and now - self._since > KICK_SECONDS:
            self._since = now
            self.kicks += 1
            self._write(KICK % self.kicks)
        self._write(self._rest)

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(BlockingIOError):
            data = data[os.write(self._remote.feed, data) :]
        self._rest = data


def _stored(collector: Collector) -> int:
    """Records that it has; 0 while it does not answer, or knows nothing of the host."""
    with contextlib.suppress(OSError, AudispError, StopIteration):
        return int(collector.host(HOST)["records"])
    return 0


def _without_kicks(collector: Collector) -> list[bytes]:
    return [line for line in collector.records(HOST) if not line.endswith(KICK[-7:])]


def _moments(chance: random.Random, count: int, kills: int) -> list[int]:
    """Numbers of stored records at which there is a kill."""
    return sorted(chance.randrange(count // 50, count) for _ in range(kills))


def _drive(
    step: Callable[[], int], moments: list[int], kill: Callable[[], object], enough: Callable[[int], bool]
) -> None:
    """Step until enough is there, with a kill at each moment. Raises Failed if it comes to a standstill."""
    best = -1
    while True:
        seen = [0]

        def moved(seen: list[int] = seen, best: int = best) -> bool:
            seen[0] = step()
            return seen[0] > best or enough(seen[0])

        until(moved, f"more than {best} records", PATIENCE)
        best = seen[0]
        while moments and best >= moments[0]:
            moments.pop(0)
            kill()
        if not moments and enough(best):
            return


def theirs_to_ours(folder: Path, seed: int, count: int, kills: int) -> Result:
    """Debian's audisp-remote to our collector, which is killed; the line breaks."""
    result = Result("interop theirs-to-ours", seed)
    chance = random.Random(seed)
    lines = records(count)
    wanted = [line for line in lines if not withheld(line)]
    with (
        Collector(folder / "collector", transport="tcp") as collector,
        BreakingLine(collector.port, seed, *cutting(count)) as line,
        TheirRemote(folder / "remote", line.port) as remote,
    ):
        feeder = Feeder(remote, lines)

        def step() -> int:
            stored = _stored(collector)
            feeder.go_on(stored)
            return stored

        moments = _moments(chance, count, kills)
        _drive(step, moments, collector.restart, lambda stored: stored >= count + feeder.kicks)
        host = collector.host(HOST)
        stored = _without_kicks(collector)
        # More than that is looked for, too: a retry that was stored would come after the last record.
        result.check(stored == wanted or len(stored) != len(wanted), "they are as many, and others")
        _check(result, Compared.of(wanted, stored))
        result.check(not collector.verified().status, "the store is not whole")
        result.check(line.cuts > 0, "no connection was cut")
    said = collector.said()
    result.check("Traceback" not in said and "defect" not in said, f"a defect of ours: {said[-3000:]}")
    result.figures |= {"stored": len(stored), "kills of our collector": kills, "cuts": line.cuts}
    result.figures |= {"EOE left out": len(lines) - len(wanted), "kicks": feeder.kicks}
    result.figures["retries known since the last start"] = host["retries"]
    return result


def their_kills(folder: Path, seed: int, count: int, kills: int) -> Result:
    """Debian's audisp-remote to our collector, and it is the former that is killed, with its queue in a file."""
    result = Result("interop their-kills", seed)
    chance = random.Random(seed)
    lines = records(count)
    wanted = [line for line in lines if not withheld(line)]
    shortest = min(map(len, lines))
    bound = kills * (LINE_BUFFER // shortest + 2)
    with (
        Collector(folder / "collector", transport="tcp") as collector,
        TheirRemote(folder / "remote", collector.port, mode="forward") as remote,
    ):
        feeder = Feeder(remote, lines)

        def step() -> int:
            stored = _stored(collector)
            feeder.go_on(stored + lost[0])
            return stored

        lost = [0]

        def kill() -> None:
            remote.restart()
            # What it has lost never comes, and must not keep the rest back.
            lost[0] += LINE_BUFFER // shortest + 2

        before = [0]

        def all_there(stored: int) -> bool:
            # What was lost is in no number, so the last record itself is looked for, where it stands still.
            stands, before[0] = stored == before[0], stored
            return feeder.done and stands and wanted[-1] in collector.records(HOST)

        _drive(
            step,
            [moment - bound for moment in _moments(chance, count, kills) if moment > bound],
            kill,
            all_there,
        )
        stored = _without_kicks(collector)
        _check(result, Compared.of(wanted, stored), lost=bound, doubled=kills, torn=kills)
    result.figures |= {"stored": len(stored), "kills of audisp-remote": kills}
    return result


def ours_to_theirs(folder: Path, seed: int, count: int, kills: int) -> Result:
    """Our audisp-remote to Debian's auditd; both are killed, the line breaks."""
    result = Result("interop ours-to-theirs", seed)
    chance = random.Random(seed)
    lines = records(count)
    wanted = [line for line in lines if not withheld(line)]
    port = free_port()
    auditd = Auditd(folder / "auditd", listen=port)
    killed = {"auditd": 0, "audisp-remote": 0}
    with auditd, BreakingLine(port, seed, *cutting(count)) as line:
        remote = Remote(folder / "remote", port=line.port)
        with remote:
            remote.write(b"".join(lines))
            remote.await_accepted(len(lines))
            forwarded = Log(auditd.log)

            def kill() -> None:
                if chance.random() < 0.5:
                    killed["auditd"] += 1
                    auditd.kill()
                    auditd.start()
                else:
                    killed["audisp-remote"] += 1
                    remote.kill()
                    remote.start()

            _drive(forwarded.count, _moments(chance, count, kills), kill, lambda stored: stored >= count)
            until(lambda: remote.fresh_state()["waiting"] == "0", "all are acknowledged", PATIENCE)
            state = remote.fresh_state()
        stored = forwarded.lines()
        twice = killed["auditd"] + line.cuts + killed["audisp-remote"] * (SETTLE_EVERY + 1)
        _check(result, Compared.of(wanted, stored), doubled=twice, torn=line.cuts)
        result.check(state["lost"] == "0", f"it says that {state['lost']} are lost")
        result.check(line.cuts > 0, "no connection was cut")
    result.check("Traceback" not in remote.said(), f"a defect of ours: {remote.said()[-3000:]}")
    result.figures |= {f"kills of {name}": times for name, times in killed.items()}
    result.figures |= {"in auditd's log": len(stored), "cuts": line.cuts, "EOE left out": len(lines) - len(wanted)}
    return result


class Log:
    """auditd's log without its own records, read on from where it was read last."""

    def __init__(self, path: Path) -> None:
        self._path, self._at, self._count = path, 0, 0

    def count(self) -> int:
        """Records of others in it."""
        with open(self._path, "rb") as file:
            file.seek(self._at)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        self._count += sum(b"type=DAEMON_" not in each[:80] for each in whole.splitlines())
        return self._count

    def lines(self) -> list[bytes]:
        """All of them, with their LF."""
        found = self._path.read_bytes().splitlines(keepends=True)
        return [each for each in found if b"type=DAEMON_" not in each[:80]]


def interop(folder: Path, seed: int, count: int) -> list[Result]:
    """For `make soak`: `count` records each way, a kill for every 5,000."""
    kills = max(2, count * KILLS // 100_000)
    found = []
    # In memory: what SIGKILL leaves is the same there, and a sync for each record of the C program does not take hours.
    with disk(folder / "disk") as mount:
        for way in (theirs_to_ours, their_kills, ours_to_theirs):
            place = mount / way.__name__
            place.mkdir(mode=0o750)
            found.append(way(place, seed, count, kills))
    return found
