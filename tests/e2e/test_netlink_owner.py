"""Being the audit daemon, on the real kernel: taking the stream, keeping it, giving it back."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from audisp.errors import SourceError
from audisp.parse.form import binary_form, log_form
from audisp.parse.types import type_name
from audisp.record import Block
from audisp.sources.kernel import AUDIT_SET, MASK_PID, NETLINK_AUDIT, pack_request, pack_status
from audisp.sources.netlink import NetlinkSource
from tests.e2e.daemons import (
    Auditd,
    Child,
    Daemon,
    Ours,
    add_plugin,
    command,
    lines_of,
    serials_of,
    sink,
    size_of,
    work,
)
from tests.e2e.stream import auditctl, calls_rule, kernel_status, ports_of, wait_for, wait_quiet
from tests.needs import audit_owner, needs

pytestmark = [needs("root", "auditd"), pytest.mark.timeout(180, func_only=True), pytest.mark.usefixtures("audit")]


@pytest.mark.parametrize("fmt", ["string", "binary"])
def test_owner(tmp_path: Path, fmt: str) -> None:
    kept = tmp_path / "kept"
    calls_rule()
    with Ours(tmp_path / "ours", children=[Child("sink", sink(tmp_path, "sink", kept), format=fmt)]) as ours:
        status = kernel_status()
        assert (status["pid"], status["enabled"]) == (ours.pid, 1)
        work("calls", 3_000)
        wait_quiet(lambda: (size_of(ours.log), size_of(kept)))
        ours.assert_balanced()
        books = ours.source("netlink")
        assert books["received"] == books["routed"] >= 9_000
        assert books["lost_ranges"] == []
        pid = ours.pid
        assert ours.stop() == 0
    status = kernel_status()
    assert (status["pid"], status["enabled"]) == (0, 1)
    lines = lines_of(ours.log)
    assert lines[0].startswith(b"type=DAEMON_START ")
    assert b" op=start " in lines[0]
    assert b" pid=%d " % pid in lines[0]
    assert re.search(
        rb"type=DAEMON_END msg=audit\([0-9.:]+\): op=terminate .* pid=%d .*res=success$" % os.getpid(), lines[-1]
    )
    # What the kernel said of our going comes after the end, at most: it no longer sends it to us.
    serials = serials_of(ours.log)
    assert sorted(set(serials)) == list(range(min(serials), max(serials) + 1))
    assert sum(b' key="calls"' in line for line in lines) == 3_000
    # The child had every record, EOE too, in the same order, and nothing else.
    got = kept.read_bytes()
    if fmt == "binary":
        got = _from_frames(got)
        assert binary_form(got) == kept.read_bytes()
    assert log_form(got) == ours.log.read_bytes()
    assert got.count(b"type=EOE ") >= 3_000
    assert "Traceback" not in ours.said()


def _from_frames(data: bytes) -> bytes:
    """Version 0 frames as string form."""
    lines, at = [], 0
    while at < len(data):
        version, length, type_, size = struct.unpack_from("=4I", data, at)
        assert (version, length) == (0, 16)
        lines.append(b"type=%b msg=%b\n" % (type_name(type_), data[at + 16 : at + 16 + size]))
        at += 16 + size
    return b"".join(lines)


@pytest.mark.parametrize(
    ("before", "mode", "then"),
    [(1, "disable", 0), (0, "disable", 0), (0, "nochange", 0), (1, "nochange", 1), (0, "enable", 1)],
)
def test_enabled_as_asked(tmp_path: Path, before: int, mode: str, then: int) -> None:
    auditctl("-e", str(before))
    with Ours(tmp_path / "ours", "-s", mode) as ours:
        status = kernel_status()
        assert (status["pid"], status["enabled"]) == (ours.pid, then)
        assert ours.stop() == 0
    status = kernel_status()
    assert (status["pid"], status["enabled"]) == (0, then)


def test_a_living_owner_is_named_and_left_alone(tmp_path: Path) -> None:
    with Auditd(tmp_path / "auditd") as auditd:
        auditctl("-e", "0")
        ours = Ours(tmp_path / "ours")
        assert ours.refuse() == 1, ours.said()
        assert f"already has an owner: pid {auditd.pid} (auditd)" in ours.said()
        assert "--source multicast" in ours.said()
        status = kernel_status()
        assert (status["pid"], status["enabled"]) == (auditd.pid, 0)
        assert not ours.log.exists()


@pytest.mark.parametrize("busy", [False, True])
def test_a_dead_owner_is_replaced(tmp_path: Path, busy: bool) -> None:
    with Ours(tmp_path / "first") as first:
        first.kill()
        if busy:
            # A record that finds nobody makes the kernel forget the owner; without one its pid stands there still.
            calls_rule()
            work("calls", 50)
        assert (kernel_status()["pid"] == first.pid) is not busy
        with Ours(tmp_path / "second") as second:
            assert kernel_status()["pid"] == second.pid
    assert kernel_status()["pid"] == 0


def test_without_capability(tmp_path: Path) -> None:
    ours = Ours(tmp_path / "ours", wrapper=["setpriv", "--bounding-set=-audit_control"])
    assert ours.refuse() == 4, ours.said()
    assert "needs CAP_AUDIT_CONTROL (run as root), or observe: --source multicast" in ours.said()
    assert kernel_status()["pid"] == 0


def test_as_another_user(tmp_path: Path) -> None:
    # With the capability to reach the interpreter and the checkout, wherever they are, and no other.
    reach = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"]
    ours = Ours(tmp_path / "ours", wrapper=["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *reach])
    for path in [ours.folder, *ours.folder.rglob("*")]:
        os.chown(path, 65_534, 65_534)
    assert ours.refuse() == 4, ours.said()
    assert "needs CAP_AUDIT_CONTROL" in ours.said()


@pytest.mark.parametrize(
    ("namespace", "words"),
    [(["unshare", "--user", "--map-root-user"], "user namespace"), (["unshare", "--pid", "--fork"], "pid namespace")],
)
def test_in_a_container(tmp_path: Path, namespace: list[str], words: str) -> None:
    ours = Ours(tmp_path / "ours", wrapper=namespace)
    assert ours.refuse() == 4, ours.said()
    assert words in ours.said()
    assert "--source unix:PATH" in ours.said()
    assert kernel_status()["pid"] == 0


def test_owner_in_a_network_namespace(tmp_path: Path) -> None:
    """Unicast reaches an owner in any network namespace; the multicast group speaks in the host's alone."""
    calls_rule()
    with (
        Ours(tmp_path / "ours", wrapper=["unshare", "--net"]) as ours,
        Ours(tmp_path / "beside", "--source", "multicast", wrapper=["unshare", "--net"]) as beside,
    ):
        work("calls", 200)
        wait_for(lambda: ours.source("netlink")["received"] >= 600, "the owner hears")
        assert beside.source("multicast")["received"] == 0
        assert "nothing will come" in beside.said()


def test_a_start_that_fails_gives_the_stream_back(tmp_path: Path) -> None:
    """The log cannot be opened, because somebody else holds it: that comes out when the stream is ours already."""
    with Ours(tmp_path / "beside", "--source", "multicast") as beside:
        ours = Ours(tmp_path / "ours")
        add_plugin(beside.folder, "log", plugin="log", log_file=ours.log)
        beside.send(signal.SIGHUP)
        wait_for(ours.log.exists, "the observer has the log")
        assert ours.refuse() == 1, ours.said()
        assert f"pid {beside.pid}" in ours.said()
        assert kernel_status()["pid"] == 0


def test_takeover_is_reported(tmp_path: Path) -> None:
    with Ours(tmp_path / "ours") as ours:
        other = Ours(tmp_path / "other")
        assert other.refuse() == 1
        assert f"already has an owner: pid {ours.pid}" in other.said()
        wait_for(lambda: ours.source("netlink")["counters"].get("takeover_attempts"), "the attempt is counted")
        assert other.process is not None
        assert re.search(
            rf"WARNING: netlink: pid {other.process.pid}.* tried to take the audit stream over", ours.said()
        )
        assert kernel_status()["pid"] == ours.pid
        # It is no record, and made none.
        assert b"UNKNOWN[1329]" not in ours.log.read_bytes()


def test_a_foreign_sender_is_rejected(tmp_path: Path) -> None:
    calls_rule()
    with Ours(tmp_path / "ours") as ours:
        before = ours.source("netlink")["rejected"]
        forged = b"audit(1.000:1): forged=yes"
        message = struct.pack("=IHHII", 16 + len(forged), 1300, 0, 0, 0) + forged
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_AUDIT) as sock:
            for port in ports_of(ours.pid):
                for _ in range(3):
                    sock.sendto(message, (port, 0))
        work("calls", 100)
        wait_quiet(lambda: ours.source("netlink"))
        books = ours.source("netlink")
        # Two sockets: the stream's, which counts, and the one for questions, which looks away.
        assert books["counters"]["foreign_sender"] == books["rejected"] - before == 3
        assert "not from the kernel" in ours.said()
        ours.assert_balanced()
        assert kernel_status()["pid"] == ours.pid
    text = ours.log.read_bytes()
    assert b"forged" not in text
    assert text.count(b' key="calls"') == 100


class Kept:
    """A route that keeps."""

    def __init__(self) -> None:
        self.data = b""

    def send_blocking(self, block: Block) -> None:
        """Keep it."""
        self.data += block.data

    async def send(self, block: Block) -> None:
        """Keep it."""
        self.data += block.data

    def when_done(self, call: Callable[[], None]) -> None:
        """Nobody reads this source again."""
        raise NotImplementedError


async def test_a_lost_stream_is_taken_back() -> None:
    """Nothing outside our process can unregister us, so this process does it to itself."""
    said: list[str] = []
    source = NetlinkSource(say=lambda level, message, limit=None: said.append(message))
    route = Kept()
    source.open()
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(source.run, route)
            assert audit_owner() == os.getpid()
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_AUDIT) as sock:
                sock.sendto(pack_request(AUDIT_SET, pack_status(MASK_PID), 1, ack=False), (0, 0))
            with trio.fail_after(10):
                while audit_owner():  # noqa: ASYNC110 - the kernel sets no event
                    await trio.sleep(0.02)
            await trio.to_thread.run_sync(source.poll)
            assert audit_owner() == os.getpid()
            assert source.books.counters["owner_lost"] == 1
            assert any("taking it back" in line for line in said)
            auditctl("-m", "after it came back")
            with trio.fail_after(10):
                while b"after it came back" not in route.data:  # noqa: ASYNC110 - set by a thread
                    await trio.sleep(0.02)
            await trio.to_thread.run_sync(source.poll)
            assert source.books.counters["owner_lost"] == 1
            nursery.cancel_scope.cancel()
    finally:
        assert audit_owner() == 0


async def test_a_socket_that_fails_is_said() -> None:
    """One error, not a group of one, so that the engine can end in order and say why."""
    source = NetlinkSource(say=lambda level, message, limit=None: None, multicast=True)
    source.open()
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + 30
        nursery.start_soon(_spoil, source)
        with pytest.raises(SourceError, match="the audit socket cannot be read: Socket operation on non-socket"):
            await source.run(Kept())


async def _spoil(source: NetlinkSource) -> None:
    await trio.sleep(0.1)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, source._socket.fileno(), inheritable=False)
    os.close(null)


def test_signals_by_name_of_their_sender(tmp_path: Path) -> None:
    """The kernel tells the owner who signalled it, which the daemon's own records say."""
    with Ours(tmp_path / "ours") as ours:
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
            ours.send(number)
        wait_for(lambda: ours.log.read_bytes().count(b"type=DAEMON_") >= 4, "a record for each")
    words = b"auid=[0-9]+ uid=0 ses=[0-9]+ pid=%d .*res=success" % os.getpid()
    text = b"\n".join(lines_of(ours.log.with_name("audit.log.1")) + lines_of(ours.log))
    assert re.search(rb"type=DAEMON_ROTATE [^\n]*op=rotate-logs " + words, text)
    assert re.search(rb"type=DAEMON_RESUME [^\n]*op=resume-logging " + words, text)
    assert re.search(rb"type=DAEMON_CONFIG [^\n]*op=reconfigure state=changed " + words, text)


def test_foreground_owner_prints(tmp_path: Path) -> None:
    """-f: no log file; the records go to standard output, as auditd does."""
    ours = Ours(tmp_path / "ours")
    foreground = Daemon([*command(), "-f", *ours.argv[ours.argv.index("-n") + 1 :]], tmp_path, "foreground")
    foreground._await_ready = lambda: wait_for(lambda: audit_owner() == foreground.pid, "owns")  # type: ignore[method-assign]
    with foreground:
        auditctl("-m", "seen in the foreground")
        wait_for(lambda: "seen in the foreground" in foreground.said(), "the record is shown")
    assert not ours.log.exists()
