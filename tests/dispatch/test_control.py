"""The control socket: who may ask, how much, and what a bad client costs."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from audisp.dispatch import control
from audisp.dispatch.control import MAX_CLIENTS, MAX_REQUEST, NAME, ask, serve_control
from audisp.errors import SourceError
from tests.needs import needs


def echo(request: dict[str, Any]) -> dict[str, Any]:
    return {"you said": request}


@asynccontextmanager
async def serving(folder: Path, answer: Callable[[dict[str, Any]], dict[str, Any]] = echo) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, folder, answer)
        yield
        nursery.cancel_scope.cancel()


async def connect(folder: Path) -> trio.SocketStream:
    return trio.SocketStream(await _connected(folder))


async def _connected(folder: Path) -> trio.socket.SocketType:
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await sock.connect(str(folder / NAME))
    return sock


async def line(client: trio.SocketStream) -> Any:
    data = b""
    with trio.fail_after(20):
        while not data.endswith(b"\n"):
            more = await client.receive_some(65536)
            assert more
            data += more
    return json.loads(data)


async def gone(client: trio.SocketStream) -> bool:
    """The server has closed the connection without another word."""
    with trio.fail_after(20):
        try:
            return await client.receive_some(100) == b""
        except trio.BrokenResourceError:
            return True


async def test_a_request_gets_an_answer_and_the_socket_goes_with_the_server(tmp_path: Path) -> None:
    async with serving(tmp_path):
        status = os.lstat(tmp_path / NAME)
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert await trio.to_thread.run_sync(ask, tmp_path, "status") == {"you said": {"op": "status"}}
    assert not (tmp_path / NAME).exists()
    with pytest.raises(FileNotFoundError):
        ask(tmp_path, "status")


async def test_the_umask_is_as_before(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        async with serving(tmp_path):
            assert os.umask(0o022) == 0o022
    finally:
        os.umask(old)


async def test_requests_on_one_connection_in_pieces_and_together(tmp_path: Path) -> None:
    async with serving(tmp_path):
        client = await connect(tmp_path)
        for byte in b'{"op": "a"}\n':
            await client.send_all(bytes([byte]))
        assert await line(client) == {"you said": {"op": "a"}}
        await client.send_all(b'{"op": 1}\n{"op": 2}\n{"op"')
        data = b""
        while data.count(b"\n") < 2:
            data += await client.receive_some(1000)
        assert [json.loads(each)["you said"]["op"] for each in data.splitlines()] == [1, 2]
        await client.aclose()


@pytest.mark.parametrize(
    "garbage",
    [b"\n", b"nonsense\n", b"[1, 2]\n", b"3\n", b'"op"\n', b"\xff\xfe\n", b"[" * 4000 + b"\n", b"{}}\n", b"\0\n"],
)
async def test_garbage_gets_an_error_and_costs_nobody_else(tmp_path: Path, garbage: bytes) -> None:
    async with serving(tmp_path):
        client = await connect(tmp_path)
        await client.send_all(garbage)
        assert "error" in await line(client)
        await client.send_all(b'{"op": "still there"}\n')
        assert await line(client) == {"you said": {"op": "still there"}}
        await client.aclose()


async def test_a_request_without_end_is_cut_off(tmp_path: Path) -> None:
    async with serving(tmp_path), await connect(tmp_path) as client:
        await client.send_all(b"x" * MAX_REQUEST)
        await client.send_all(b"x")
        assert await gone(client)
        assert await trio.to_thread.run_sync(ask, tmp_path, "x") == {"you said": {"op": "x"}}


async def test_a_client_that_goes_before_its_answer_costs_nobody(tmp_path: Path) -> None:
    big = {"text": "x" * 4_000_000}
    async with serving(tmp_path, lambda request: big):
        for _ in range(3 * MAX_CLIENTS):
            client = await connect(tmp_path)
            await client.send_all(b'{"op": "status"}\n')
            await client.aclose()
        assert await trio.to_thread.run_sync(ask, tmp_path, "x") == big


async def test_more_clients_than_places_wait_for_their_turn(tmp_path: Path) -> None:
    async with serving(tmp_path):
        clients = [await connect(tmp_path) for _ in range(MAX_CLIENTS + 5)]
        for client in clients:
            await client.send_all(b'{"op": 1}\n')
        for client in clients[:MAX_CLIENTS]:
            await line(client)
        with trio.move_on_after(0.05) as waited:
            await line(clients[MAX_CLIENTS])
        assert waited.cancelled_caught
        await clients[0].aclose()
        assert await line(clients[MAX_CLIENTS]) == {"you said": {"op": 1}}
        for client in clients:
            await client.aclose()


async def test_a_silent_client_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "IDLE_SECONDS", 0.05)
    async with serving(tmp_path), await connect(tmp_path) as client:
        assert await gone(client)


async def test_a_client_that_does_not_read_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "IDLE_SECONDS", 0.05)
    async with serving(tmp_path, lambda request: {"text": "x" * 4_000_000}), await connect(tmp_path) as client:
        await client.send_all(b'{"op": 1}\n')
        await trio.sleep(0.3)
        data = b""
        with trio.fail_after(20):
            while more := await client.receive_some(1 << 20):
                data += more
        assert len(data) < 4_000_000


class Failing:
    """A listener out of descriptors for a while."""

    def __init__(self, listener: trio.socket.SocketType) -> None:
        self.listener = listener
        self.failures = [OSError(24, "Too many open files"), OSError(103, "Software caused connection abort")]

    async def accept(self) -> tuple[trio.socket.SocketType, Any]:
        if self.failures:
            raise self.failures.pop()
        return await self.listener.accept()


async def test_errors_of_accept_are_no_reason_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "ACCEPT_PAUSE", 0.01)
    with trio.socket.from_stdlib_socket(control._bound(tmp_path / NAME)) as listener:
        failing = Failing(listener)
        async with await connect(tmp_path):
            with trio.fail_after(20):
                client = await control._accept(cast("trio.socket.SocketType", failing))
            client.close()
    assert not failing.failures


async def test_a_dead_instances_socket_is_replaced_and_another_file_is_not(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(tmp_path / NAME))
    async with serving(tmp_path):
        assert await trio.to_thread.run_sync(ask, tmp_path, "x") == {"you said": {"op": "x"}}
    await trio.Path(tmp_path / NAME).write_text("a file")
    with pytest.raises(ExceptionGroup) as raised:
        async with serving(tmp_path):
            raise AssertionError("not reached")
    assert raised.group_contains(SourceError, match="Address already in use")
    assert (tmp_path / NAME).read_text() == "a file"


async def test_a_path_that_no_socket_can_have_is_said(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    with pytest.raises(ExceptionGroup) as raised:
        async with serving(folder):
            raise AssertionError("not reached")
    assert raised.group_contains(SourceError, match="path too long")


@needs("root")
async def test_another_user_gets_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by the path, nor where the folder lets it in: the peer's uid is asked of the kernel."""
    code = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(20)
try:
    sock.connect(sys.argv[1])
    sock.sendall(b'{"op": "status"}\\n')
    print(len(sock.recv(100)))
except PermissionError:
    print("refused")
except (BrokenPipeError, ConnectionResetError):
    print(0)
"""
    folder = Path("/tmp") / f"audisp-control-{os.getpid()}"
    folder.mkdir(mode=0o755)
    try:
        async with serving(folder):
            run = partial(
                subprocess.run,
                [sys.executable, "-I", "-c", code, str(folder / NAME)],
                capture_output=True,
                text=True,
                check=True,
            )
            assert (await trio.to_thread.run_sync(run)).stdout.strip() == "refused"
            (folder / NAME).chmod(0o666)
            assert (await trio.to_thread.run_sync(run)).stdout.strip() == "0"
            assert await trio.to_thread.run_sync(ask, folder, "x") == {"you said": {"op": "x"}}
    finally:
        folder.rmdir()


@pytest.mark.parametrize("answer", [b"", b"nonsense\n", b"[1]\n"])
def test_an_answer_that_is_none_is_an_error(tmp_path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / NAME))
        server.listen()

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(100)
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(SourceError, match="gave no answer"):
            ask(tmp_path, "status")
        thread.join()
