"""`af_unix`: many clients on a real socket, each with its own queue, its own losses, and none with another's."""

from __future__ import annotations

import os
import random
import re
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from audisp.plugin import Block, ConfigError, Delivery, PluginError, binary_form
from audisp_plugins.af_unix import AfUnixConfig, Arguments, audisp_plugins, open_af_unix
from audisp_plugins.af_unix_socket import Peer, may_read
from tests.needs import needs
from tests.plugins.booking import BookingHost, block_of, record

Deliver = Callable[[Block], Awaitable[None]]


class Opened:
    def __init__(self, path: Path, delivery: Delivery) -> None:
        self.path = path
        self.deliver = cast(Deliver, delivery.deliver)
        assert delivery.state
        self.state = delivery.state

    async def connect(self) -> trio.SocketStream:
        """A client that the plugin has accepted."""
        before = int(self.state()["clients"])
        stream = await trio.open_unix_socket(str(self.path))
        await self.clients(before + 1)
        return stream

    async def clients(self, count: int) -> None:
        with trio.fail_after(10):
            while int(self.state()["clients"]) != count:  # noqa: ASYNC110 - the plugin tells nobody else
                await trio.sleep(0.001)


@asynccontextmanager
async def opened(host: BookingHost, tmp_path: Path, *args: str, **keys: Any) -> AsyncIterator[Opened]:
    path = tmp_path / "events"
    async with open_af_unix(AfUnixConfig(args=(*args, str(path)), **keys), host) as delivery:
        assert isinstance(delivery, Delivery)
        yield Opened(path, delivery)


async def read_until(stream: trio.SocketStream, end: bytes) -> bytes:
    data = b""
    with trio.fail_after(10):
        while not data.endswith(end):
            more = await stream.receive_some(65_536)
            assert more, data[-200:]
            data += more
    return data


def big(start: int, count: int, size: int = 1000) -> list[bytes]:
    return [record(n, b"x" * size) for n in range(start, start + count)]


# Arguments.


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((), Arguments()),
        (("0600", "/run/x/s", "binary"), Arguments(0o600, Path("/run/x/s"), "binary", 512)),
        (("binary", "/run/x/s", "0666", "99"), Arguments(0o666, Path("/run/x/s"), "binary", 99)),
        (("640", "7", "string"), Arguments(0o640, Path("/run/audit/audispd_events"), "string", 7)),
    ],
)
def test_arguments(args: tuple[str, ...], expected: Arguments) -> None:
    assert AfUnixConfig(args=args).arguments() == expected


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("0888",), "'0888' is not an octal mode"),
        (("01777",), "'01777' is not an octal mode"),
        (("0640", "0"), "'0' is not a queue depth from 1 to"),
        (("0640", "0x10"), "'0x10' is not a queue depth"),
        (("0640", "999999"), "'999999' is not a queue depth"),
        (("0640", "5", "6"), "'6' is a third number"),
        (("run/x",), "'run/x' is not an absolute path"),
        (("/" + "x" * 107,), "is not an absolute path of at most 107 bytes"),
        (("binray",), "'binray' is no mode, depth, path with a '/', string or binary; did you mean binary?"),
    ],
)
def test_arguments_that_are_refused(args: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AfUnixConfig(args=args)
    assert message in str(caught.value)
    assert caught.value.key == "args"


def test_number_of_clients_is_bounded() -> None:
    with pytest.raises(ConfigError, match="max_clients: 0 is out of range"):
        AfUnixConfig(max_clients=0)


# The stream.


async def test_every_client_gets_what_comes_after_it_connected(host: BookingHost, tmp_path: Path) -> None:
    async with opened(host, tmp_path) as plugin:
        await plugin.deliver(block_of([record(1), record(2)]))
        assert host.counts["no_client"] == 2
        assert plugin.state()["client_connected"] == "no"
        first = await plugin.connect()
        await plugin.deliver(block_of([record(3), b"node=n " + record(4, b"", b"EOE")]))
        second = await plugin.connect()
        await plugin.deliver(block_of([record(5)]))
        assert await read_until(first, record(5)) == record(3) + b"node=n " + record(4, b"", b"EOE") + record(5)
        assert await read_until(second, record(5)) == record(5)
        assert plugin.state()["client_connected"] == "yes"
        await first.aclose()
        await plugin.clients(1)
        await plugin.deliver(block_of([record(6)]))
        assert await read_until(second, record(6)) == record(6)
        await second.aclose()
        await plugin.clients(0)
        await plugin.deliver(block_of([record(7)]))
    assert host.counts["no_client"] == 3
    assert host.counts["client_lost"] == 0


async def test_binary_frames(host: BookingHost, tmp_path: Path) -> None:
    lines = [record(1), record(2, b"a\x1dUID=0"), b"node=n " + record(3)]
    async with opened(host, tmp_path, "binary") as plugin:
        stream = await plugin.connect()
        await plugin.deliver(block_of(lines))
        expected = binary_form(b"".join(lines))
        assert await read_until(stream, expected[-30:]) == expected
        await stream.aclose()


async def test_what_clients_say_is_ignored(host: BookingHost, tmp_path: Path) -> None:
    async with opened(host, tmp_path) as plugin:
        stream = await plugin.connect()
        await stream.send_all(b"hello" * 10_000)
        with trio.fail_after(10):
            while host.counts["client_bytes_ignored"] < 50_000:  # noqa: ASYNC110 - likewise
                await trio.sleep(0.001)
        await plugin.deliver(block_of([record(1)]))
        assert await read_until(stream, b"\n") == record(1)
        await stream.aclose()


async def test_half_closed_client_is_fed_until_it_leaves(
    host: BookingHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audisp_plugins.af_unix_client.HALF_CLOSED_CHECK", 0.01)
    async with opened(host, tmp_path) as plugin:
        stream = await plugin.connect()
        await stream.send_eof()
        for serial in range(5):
            await trio.sleep(0.02)
            await plugin.deliver(block_of([record(serial)]))
            assert await read_until(stream, b"\n") == record(serial)
        await stream.aclose()
        await plugin.clients(0)


async def test_close_waits_for_clients_that_read(host: BookingHost, tmp_path: Path) -> None:
    lines = big(0, 2000)
    got = b""

    async def read(stream: trio.SocketStream) -> None:
        nonlocal got
        while more := await stream.receive_some(65_536):
            got += more
            await trio.sleep(0.001)
        await stream.aclose()

    async with trio.open_nursery() as nursery, opened(host, tmp_path) as plugin:
        nursery.start_soon(read, await plugin.connect())
        await plugin.deliver(block_of(lines))
    assert got == b"".join(lines)


# Queues.


async def test_slow_client_loses_and_is_told_and_nobody_else_does(host: BookingHost, tmp_path: Path) -> None:
    async with opened(host, tmp_path, "0600", "30") as plugin:
        slow, fast = await plugin.connect(), await plugin.connect()
        sent: list[bytes] = []
        seen = b""
        for start in range(0, 2000, 50):
            lines = big(start, 50)
            sent += lines
            await plugin.deliver(block_of(lines))
            seen += await read_until(fast, lines[-1])
        assert seen == b"".join(sent)
        lost = host.counts["client_lost"]
        assert 0 < lost < 2000
        assert int(plugin.state()["queue_length"]) <= 30 * 8970 // 1000
        got = await read_until(slow, b"res=failed\n")
        await plugin.deliver(block_of([record(9000)]))
        got += await read_until(slow, record(9000))
        kept = 2000 - lost
        head = b"".join(sent[:kept])
        assert got.startswith(head)
        marker = re.fullmatch(
            rb"type=DAEMON_ERR msg=audit\(\d+\.\d{3}:\d+\): op=lost plugin=tested client=1 count=(\d+) "
            rb"first=(\d+) last=(\d+) reason=client-queue-full res=failed\n",
            got[len(head) : -len(record(9000))],
        )
        assert marker
        assert [int(each) for each in marker.groups()] == [lost, kept, 1999]
        await slow.aclose()
        await fast.aclose()


@pytest.mark.parametrize("form", ["string", "binary"])
@pytest.mark.parametrize("depth", ["1", "4", "512"])
async def test_client_that_reads_gets_all_of_any_block(
    host: BookingHost, tmp_path: Path, form: str, depth: str
) -> None:
    lines = [*big(0, 900, 20), *big(900, 100, 3000), record(1000, b"z" * 9000), *big(1001, 20, 8000)]
    block = block_of(lines)
    expected = binary_form(block.data) if form == "binary" else block.data
    got = b""

    async def read(stream: trio.SocketStream) -> None:
        nonlocal got
        while len(got) < len(expected):
            got += await stream.receive_some(65_536)

    async with opened(host, tmp_path, "0600", depth, form) as plugin:
        stream = await plugin.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, stream)
            await plugin.deliver(block)
        await stream.aclose()
    assert got == expected
    assert host.counts["client_lost"] == 0


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_a_client_reads_its_stream_accounts_for_every_record(
    host: BookingHost, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    got = b""

    async def read_slowly(stream: trio.SocketStream) -> None:
        nonlocal got
        while more := await stream.receive_some(chance.randrange(1, 60_000)):
            got += more
            await trio.sleep(chance.random() / 200)

    async def read(stream: trio.SocketStream) -> None:
        while await stream.receive_some(1 << 20):
            pass

    serial = 0
    async with trio.open_nursery() as nursery, opened(host, tmp_path, "0600", "6") as plugin:
        slow, fast = await plugin.connect(), await plugin.connect()  # for the fast one nothing ever waits
        nursery.start_soon(read_slowly, slow)
        nursery.start_soon(read, fast)
        for _ in range(60):
            lines = [record(serial + n, b"q" * chance.randrange(1, 3000)) for n in range(chance.randrange(1, 40))]
            serial += len(lines)
            await plugin.deliver(block_of(lines))
    await slow.aclose()
    await fast.aclose()
    assert b"type=DAEMON_ERR" in got
    expected = 0
    for line in got.splitlines():
        if line.startswith(b"type=DAEMON_ERR"):
            fields = dict(word.split(b"=") for word in line.split(b": ", 1)[1].split())
            assert int(fields[b"first"]) == expected
            assert int(fields[b"last"]) - int(fields[b"first"]) + 1 == int(fields[b"count"])
            expected = int(fields[b"last"]) + 1
        else:
            assert b":%d):" % expected in line
            expected += 1
    assert expected == serial


async def test_stopped_clients_hold_memory_within_their_bound(host: BookingHost, tmp_path: Path) -> None:
    depth = 4
    async with opened(host, tmp_path, "0600", str(depth), "binary") as plugin:
        streams = [await plugin.connect() for _ in range(3)]
        for start in range(0, 20):
            await plugin.deliver(block_of(big(start * 100, 100, 500)))
        assert int(plugin.state()["queue_length"]) * 500 <= depth * 8970
        for stream in streams:
            await stream.aclose()
        await plugin.clients(0)
    assert host.counts["client_left_behind"] > 0


async def test_too_many_clients_are_refused(host: BookingHost, tmp_path: Path) -> None:
    async with opened(host, tmp_path, max_clients=2) as plugin:
        streams = [await plugin.connect() for _ in range(2)]
        third = await trio.open_unix_socket(str(plugin.path))
        with trio.fail_after(10):
            assert await third.receive_some(1) == b""
        assert host.counts["clients_refused"] == 1
        assert host.heard("there are max_clients = 2 already")
        await streams[0].aclose()
        await plugin.clients(1)
        streams[0] = await plugin.connect()
        for stream in (*streams, third):
            await stream.aclose()


# Who may connect.


@pytest.mark.parametrize(
    ("peer", "mode", "allowed"),
    [
        (Peer(1, 0, 0, ()), 0o000, True),
        (Peer(1, 7, 7, ()), 0o600, True),
        (Peer(1, 1000, 1000, ()), 0o640, False),
        (Peer(1, 1000, 1000, ()), 0o666, True),
        (Peer(1, 1000, 1000, ()), 0o662, True),
        (Peer(1, 1000, 8, ()), 0o660, True),
        (Peer(1, 1000, 1000, (4, 8)), 0o660, True),
        (Peer(1, 1000, 1000, (4, 8)), 0o640, False),
        (Peer(1, 1000, 8, ()), 0o606, False),
        (Peer(1, 65534, 65534, ()), 0o660, False),
    ],
)
def test_who_may_read(peer: Peer, mode: int, allowed: bool) -> None:
    assert may_read(peer, mode, owner=7, group=8) is allowed


CONNECT = """
import os, socket, sys
uid, gid, groups, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
os.setgroups([int(each) for each in groups.split(",") if each])
os.setgid(gid)
os.setuid(uid)
sock = socket.socket(socket.AF_UNIX)
try:
    sock.connect(path)
    print(sock.recv(100).decode() or "closed")
except PermissionError:
    print("denied")
"""


@needs("root")
@pytest.mark.parametrize(
    ("mode", "uid", "gid", "groups", "expected"),
    [
        ("0600", 0, 0, "", "type="),
        ("0600", 1234, 1234, "", "denied"),
        ("0640", 1234, 0, "", "denied"),
        ("0660", 1234, 0, "", "type="),
        ("0660", 1234, 1234, "5,0", "type="),
        ("0666", 1234, 1234, "", "type="),
    ],
)
async def test_who_gets_in(
    host: BookingHost, tmp_path: Path, mode: str, uid: int, gid: int, groups: str, expected: str
) -> None:
    # pytest's own folder is 0700 all the way up, so the socket stands in one that everybody may pass.
    folder = Path("/tmp") / f"audisp-test-{os.getpid()}"
    folder.mkdir(mode=0o755)
    old = os.umask(0o077)
    try:
        async with opened(host, folder, mode) as plugin:
            assert stat.S_IMODE(os.stat(plugin.path).st_mode) == int(mode, 8)
            command = [sys.executable, "-c", CONNECT, str(uid), str(gid), groups, str(plugin.path)]

            async def feed() -> None:
                while True:
                    await plugin.deliver(block_of([record(1)]))
                    await trio.sleep(0.005)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(feed)
                result = await trio.run_process(command, capture_stdout=True)
                nursery.cancel_scope.cancel()
            assert result.stdout.decode().startswith(expected)
    finally:
        os.umask(old)
        folder.rmdir()


# The place.


async def test_stale_socket_is_replaced(host: BookingHost, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "events"))
    async with opened(host, tmp_path) as plugin:
        stream = await plugin.connect()
        await stream.aclose()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
async def test_socket_that_somebody_serves_is_left_alone(
    host: BookingHost, tmp_path: Path, kind: socket.SocketKind
) -> None:
    with socket.socket(socket.AF_UNIX, kind) as live:
        live.bind(str(tmp_path / "events"))
        if kind is not socket.SOCK_DGRAM:
            live.listen(1)
        before = os.stat(tmp_path / "events")
        with pytest.raises(PluginError, match=r"events is already in use by (pid \d+ uid \d+|another program)"):
            async with opened(host, tmp_path):
                pass
        assert os.path.samestat(before, os.stat(tmp_path / "events"))


async def test_two_of_ours_never_share_a_socket(host: BookingHost, tmp_path: Path) -> None:
    async with opened(host, tmp_path):
        with pytest.raises(PluginError, match=f"is already in use by pid {os.getpid()}"):
            async with opened(host, tmp_path):
                pass
        assert (await trio.Path(tmp_path / "events").stat()).st_size == 0


@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
async def test_what_is_no_socket_is_never_removed(host: BookingHost, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "precious"
    if kind != "dangling":
        target.write_bytes(b"precious")
    if kind == "file":
        target.rename(tmp_path / "events")
    else:
        (tmp_path / "events").symlink_to(target)
    with pytest.raises(PluginError, match="exists and is not a socket; it is left alone"):
        async with opened(host, tmp_path):
            pass
    names = {"file": ["events"], "link": ["events", "precious"], "dangling": ["events"]}
    assert sorted(os.listdir(tmp_path)) == names[kind]


async def test_folder_must_exist(host: BookingHost, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="the folder of the socket must exist"):
        async with opened(host, tmp_path / "none"):
            pass


async def test_socket_that_was_replaced_is_not_removed_at_the_end(host: BookingHost, tmp_path: Path) -> None:
    async with opened(host, tmp_path) as plugin:
        os.unlink(plugin.path)
        with open(plugin.path, "wb"):  # noqa: ASYNC230 - an empty file
            pass
    assert os.listdir(tmp_path) == ["events"]


async def test_folder_that_others_may_write_is_warned_about(host: BookingHost, tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    async with opened(host, folder):
        assert host.heard("others may write there")


async def test_their_program_is_not_robbed_of_its_socket(host: BookingHost, tmp_path: Path) -> None:
    # A full backlog: connect() says EAGAIN, which is life as well.
    program = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(0); "
        "print(1, flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(  # noqa: ASYNC220 - a child that lives beside the test
        [sys.executable, "-c", program, str(tmp_path / "events")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin
    assert child.stdout
    child.stdout.readline()
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(str(tmp_path / "events"))
        with pytest.raises(PluginError, match="in use by"):
            async with opened(host, tmp_path):
                pass
    child.stdin.close()
    child.stdout.close()
    child.wait()


def test_declared() -> None:
    (kind,) = audisp_plugins()
    assert (kind.name, kind.config, kind.open, kind.wants) == ("af_unix", AfUnixConfig, open_af_unix, "blocks")
