"""What else can go wrong around a dispatcher under load: a full disk, reloads, bad programs, curious clients."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from audisp.errors import AudispError
from tests.soak.kills import imbalance
from tests.soak.memory import NEVER
from tests.soak.records import Records
from tests.soak.result import Result
from tests.soak.world import PATIENCE, World, until

RATE: float = 10_000


@contextlib.contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    """A file system of its own. Needs root."""
    folder.mkdir(mode=0o700)
    options = f"size={mib}m,mode=0700,nosuid,nodev,noexec"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "soak", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def full_disk(folder: Path, seed: int, count: int) -> Result:
    """A required log on a disk that is full `count` times: the source waits, and every record is in the log after."""
    result = Result("full disk", seed)
    chance = random.Random(seed)
    sent = 0
    with World(folder, Records(seed)) as world, small_disk(folder / "disk", 4 + 3 * count) as disk:
        ballast = disk / "ballast"
        actions = "".join(f"{key}_action = ignore\n" for key in ("disk_full", "space_left", "admin_space_left"))
        world.plugin(
            "mylog",
            f"plugin = log\nrequired = yes\nqueue_bytes = 64K\nlog_file = {disk}/audit.log\n{actions}",
        )
        world.child("neighbour")
        world.start()
        for _ in range(count):
            errors = _write_errors(world)
            free = os.statvfs(disk)
            with open(ballast, "wb") as file:
                room = free.f_bavail * free.f_frsize - chance.randrange(5_000, 60_000)
                file.write(b"\0" * max(0, room))
            before = world.feed.sent
            world.feed.start(RATE, most=before + 8_000)
            until(lambda: _write_errors(world) > errors, "the disk to be full")  # noqa: B023 - used at once
            time.sleep(chance.uniform(0.3, 1.0))
            waited = world.feed.unread() > 0
            result.check(waited, "the source did not wait for the required log")
            ballast.unlink()
            until(lambda: world.feed.sent >= before + 8_000, "the source to go on")  # noqa: B023
            world.feed.stop()
            sent = world.feed.sent
            until(lambda: world.books("mylog")["delivered"] >= sent, "the log to have all")  # noqa: B023
        result.check(imbalance(world.books("mylog")) == 0, "the books do not balance")
        result.check(world.finish() == 0, "audispd did not end well")
        kept = (disk / "audit.log").read_bytes()
        account = world.account("neighbour")
        result.problems += [f"neighbour: {each}" for each in account.problems(sent)]
        result.check(not account.marks, "neighbour: lost something")
        account.numbers.clear()
        account.add(kept)
        result.problems += [f"log: {each}" for each in account.problems(sent)]
        result.figures |= {"records": sent, "times full": count, "bytes": len(kept)}
    return result


def _write_errors(world: World) -> int:
    return int(world.books("mylog")["counters"].get("write_errors", 0))


def reload_storm(folder: Path, seed: int, count: int) -> Result:
    """`count` SIGHUPs while records come: plugins change, are added, removed and broken. One that does not change sees
    nothing of it, one that does loses and doubles nothing."""
    result = Result("reload storm", seed)
    chance = random.Random(seed)
    with World(folder, Records(seed)) as world:
        world.child("steady")
        world.child("changed")
        world.start()
        until(lambda: bool(world.alive("steady") and world.alive("changed")), "the children")
        world.feed.start(RATE)
        for turn in range(count):
            match chance.randrange(7):
                case 0:
                    world.child("changed", f"nice = {turn % 19}")
                case 1:
                    world.child("changed", f"queue_bytes = {chance.choice(('1M', '4M', '16M'))}\nnice = {turn % 19}")
                case 2:
                    world.child("guest", f"nice = {turn % 19}")
                case 3:
                    (world.conf / "plugins.d" / "guest.audisp").unlink(missing_ok=True)
                case 4:
                    world.plugin("changed", "no such key = here")
                case 5:
                    # With a spill, and without one again by whichever comes next.
                    world.child("changed", f"overflow_action = spill\nqueue_bytes = 4M\nnice = {turn % 19}")
                case 6:
                    # Its queue is in use when the next change comes.
                    world.signal_sinks(signal.SIGSTOP, "changed")
                    time.sleep(chance.uniform(0.1, 0.3))
                    world.signal_sinks(signal.SIGCONT, "changed")
            os.kill(world.pid, signal.SIGHUP)
            time.sleep(chance.uniform(0.0, 0.15))
        world.child("changed")
        os.kill(world.pid, signal.SIGHUP)
        time.sleep(0.5)
        world.feed.stop()
        sent = world.feed.sent
        until(lambda: world.books("steady")["delivered"] >= sent, "the stream to be read")
        books = world.status()["plugins"]
        result.check(world.finish() == 0, "audispd did not end well")
        result.check(len(world.taken("steady")) == 1, "the plugin that did not change was started anew")
        for name in ("steady", "changed"):
            account = world.account(name)
            result.problems += [f"{name}: {each}" for each in account.problems(sent)]
            result.check(not account.marks, f"{name}: lost {account.marks[:3]}")
            result.check(not account.torn, f"{name}: a record was torn")
            result.check(imbalance(books[name]) == 0, f"{name}: the books do not balance: {books[name]}")
        result.figures |= {"records": sent, "reloads": count, "runs of the changed one": len(world.taken("changed"))}
    return result


BAD = {
    "closes": "exec 0<&-\nsleep 1000",
    "exits": "exit 3",
    "shouts": "yes 'something is wrong' >&2",
    "deaf": "trap '' TERM\nwhile :; do sleep 1000; done",
}
"""Programs that a plugin should not be, as shell scripts."""


def bad_programs(folder: Path, seed: int, count: int) -> Result:
    """Programs that close their input, end at once, shout, hear nothing, and a plugin that never returns, beside a good
    one: `count` seconds of load."""
    result = Result("bad programs", seed)
    with World(folder, Records(seed), own="drain_timeout = 1\n") as world:
        for name, script in BAD.items():
            program = folder / name
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)
            restarts = "max_restarts = 5\nrestart_delay = 0.01\nrestart_delay_max = 0.05"
            world.plugin(name, f"path = {program}\n{restarts}\nqueue_bytes = 64K")
        never = folder / "never.py"
        never.write_text(NEVER)
        world.plugin("never", f"plugin = {never}\nqueue_bytes = 64K\ndeliver_timeout = 0.5")
        world.child("good")
        world.start()
        until(lambda: bool(world.alive("good")), "the good one")
        world.feed.start(RATE)
        time.sleep(count)
        until(lambda: world.books("exits")["state"] == "failed", "the one that ends at once to be given up")
        world.feed.stop()
        sent = world.feed.sent
        until(lambda: world.books("good")["delivered"] >= sent, "the stream to be read")
        books = world.status()["plugins"]
        said = world.said()
        result.check(world.finish() == 0, "audispd did not end well")  # without waiting for the one that never returns
        result.check(books["never"]["state"] == "stuck", f"never: is {books['never']['state']}")
        for name in (*BAD, "never", "good"):
            result.check(imbalance(books[name]) == 0, f"{name}: the books do not balance: {books[name]}")
        result.check(
            books["exits"]["losses"].get("failed", 0) > 0, f"exits: its records were not counted: {books['exits']}"
        )
        result.check(books["exits"]["restarts"] == 5, f"exits: {books['exits']['restarts']} restarts, not 5")
        result.check(books["closes"]["dropped"] > 0, "closes: nothing was dropped")
        lines = said.count("something is wrong")
        if not os.path.exists("/dev/log"):  # then the log is there, and not in the file
            result.check(0 < lines < 100 + 5 * count, f"shouts: {lines} lines in our log")
            result.check("given up until the next reload" in said, "nothing was said about the one given up")
        account = world.account("good")
        result.problems += [f"good: {each}" for each in account.problems(sent)]
        result.check(not account.marks, f"good: lost {account.marks[:3]}")
        result.figures |= {"records": sent, "lines of the shouting one": lines, "log bytes": len(said)}
    return result


def many_plugins(folder: Path, seed: int, count: int) -> Result:
    """`count` plugins at once, a tenth of them stopped: the others have every record."""
    result = Result("many plugins", seed)
    with World(folder, Records(seed)) as world:
        names = [f"p{number:03}" for number in range(count)]
        stopped = names[::10]
        for name in names:
            world.child(name, f"queue_bytes = {'64K' if name in stopped else '1M'}", mib=64)
        world.start()
        until(lambda: len(world.alive()) == count, "all children", 120)
        for name in stopped:
            world.signal_sinks(signal.SIGSTOP, name)
        world.feed.start(500, most=1_000)
        until(lambda: world.feed.sent >= 1_000, "the source to go on", 120)
        world.feed.stop()
        world.feed.send(2_000, 1_000)
        sent = world.feed.sent
        healthy = [name for name in names if name not in stopped]
        until(lambda: all(world.status()["plugins"][name]["waiting"] == 0 for name in healthy[-3:]), "an empty queue")
        peak = world.peak_kib()
        for name in stopped:
            world.signal_sinks(signal.SIGCONT, name)
        result.check(world.finish(120) == 0, "audispd did not end well")
        for name in names:
            account = world.account(name)
            result.problems += [f"{name}: {each}" for each in account.problems(sent)]
            result.check(name in stopped or not account.marks, f"{name}: lost {account.marks[:2]}")
            books = world.final()["plugins"][name]
            result.check(imbalance(books) == 0 and not books["waiting"], f"{name}: the books do not balance: {books}")
        result.figures |= {"plugins": count, "records": sent, "peak MiB": peak // 1024}
    return result


def curious(folder: Path, seed: int, count: int) -> Result:
    """`count` clients ask for the status without pause, some send garbage: the stream does not notice."""
    result = Result("curious clients", seed)
    with World(folder, Records(seed)) as world:
        world.child("sink")
        world.start()
        until(lambda: bool(world.alive("sink")), "the sink")
        halt = threading.Event()
        asked = [0] * count

        def ask(number: int) -> None:
            while not halt.is_set():
                with contextlib.suppress(OSError, AudispError):
                    books = world.books("sink")
                    if imbalance(books):
                        result.problems.append(f"the books do not balance: {books}")
                    asked[number] += 1

        def disturb() -> None:
            chance = random.Random(seed)
            import socket

            while not halt.is_set():
                with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
                    sock.settimeout(0.2)
                    sock.connect(str(world.runtime / "control.sock"))
                    sock.sendall(
                        chance.choice((b"{", b"\0" * 5000, b'{"op": "status"}' * 300, b"[]\n", b'{"op": 7}\n'))
                    )

        threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(count)]
        threads.append(threading.Thread(target=disturb, daemon=True))
        for each in threads:
            each.start()
        world.feed.start(RATE, most=20_000)
        until(lambda: world.feed.sent >= 20_000, "the source to go on")
        halt.set()
        for each in threads:
            each.join(PATIENCE)
        world.feed.stop()
        result.check(world.finish() == 0, "audispd did not end well")
        account = world.account("sink")
        result.problems += [f"sink: {each}" for each in account.problems(world.feed.sent)]
        result.check(not account.marks, f"sink: lost {account.marks[:3]}")
        result.check(min(asked) > 0, f"some client was never answered: {asked}")
        result.figures |= {"records": world.feed.sent, "clients": count, "answers": sum(asked)}
    return result
