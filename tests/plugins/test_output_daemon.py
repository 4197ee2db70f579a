"""`output` and `syslog` to a server inside audispd, which has given up its capabilities, and with its books."""

from __future__ import annotations

import gzip
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_daemon import Home, home
from tests.needs import needs
from tests.plugins.senders import lines_of, until
from tests.plugins.syslogs import Receiver, joined, unrepeated
from tests.plugins.test_output_command import COPY, Program
from tests.plugins.test_output_socket import Listener

pytestmark = [needs("root"), pytest.mark.timeout(120)]

__all__ = ["home"]


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    folder = tmp_path / "server"
    folder.mkdir()
    receiver = Receiver(folder)
    receiver.start()
    yield receiver
    receiver.kill()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    folder = tmp_path / "listener"
    folder.mkdir()
    listener = Listener(folder, folder / "socket", "stream")
    listener.start()
    yield listener
    listener.kill()


def configure(home: Home, receiver: Receiver, listener: Listener) -> Program:
    (home.folder / "program").mkdir()
    program = Program(home.folder / "program", COPY)
    plugins = {
        "file": f"plugin = output\nfile = {home.folder}/file\nmax_size = 64K\nkeep = 900\ncompress = gz\nmode = 0644",
        "json": f"plugin = output\nfile = {home.folder}/json\nshape = ecs",
        "program": f"plugin = output\ncommand = {' '.join(program.command)}",
        "socket": f"plugin = output\nsocket = {listener.path}",
        "server": f"plugin = syslog\ntransport = tcp\nserver = 127.0.0.1\nport = {receiver.port}",
    }
    for name, text in plugins.items():
        home.write(f"plugins.d/{name}.audisp", f"active = yes\n{text}\nqueue_bytes = 64M\n")
    return program


def ours(data: bytes | list[bytes]) -> bytes:
    """Without what the dispatcher says of itself."""
    lines = data.splitlines(keepends=True) if isinstance(data, bytes) else data
    return b"".join(line for line in lines if not line.startswith(b"type=DAEMON_"))


def written(home: Home) -> bytes:
    old = sorted(home.folder.glob("file.*"), key=lambda path: -int(path.name.split(".")[1]))
    parts = [gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes() for path in old]
    return ours(b"".join(parts) + (home.folder / "file").read_bytes())


def written_so_far(home: Home) -> bytes:
    """While files are still renamed and packed under our eyes."""
    try:
        return written(home)
    except FileNotFoundError:
        return b""


def test_a_replayed_file_goes_everywhere(home: Home, receiver: Receiver, listener: Listener) -> None:
    program = configure(home, receiver, listener)
    lines = lines_of(1, 5_000, 200)
    (home.folder / "source").write_bytes(b"".join(lines))
    done = home.audispd("--source", f"file:{home.folder}/source")
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr
    assert "file.audisp:7: mode: 0644 lets everybody on this machine read the records" in done.stderr
    assert written(home) == b"".join(lines)
    assert ours(program.data()) == b"".join(lines)
    until(lambda: ours(listener.lines()).endswith(lines[-1]))
    assert ours(listener.lines()) == b"".join(lines)
    until(lambda: received(receiver).endswith(lines[-1]))
    assert received(receiver) == b"".join(lines)
    serials = [json.loads(line)["auditd"]["sequence"] for line in (home.folder / "json").read_bytes().splitlines()]
    assert set(range(1, 5_001)) <= set(serials)


def received(receiver: Receiver) -> bytes:
    """The records of all messages, each once."""
    return ours([text + b"\n" for text in unrepeated(joined(receiver.messages()))])


def test_what_is_away_costs_time_and_no_record(home: Home, receiver: Receiver, listener: Listener) -> None:
    program = configure(home, receiver, listener)
    receiver.kill()
    listener.kill()
    lines = lines_of(1, 2_000, 200)
    process = home.start("--source", "stdin")
    assert process.stdin
    process.stdin.write(b"".join(lines))
    process.stdin.flush()
    whole = b"".join(lines)
    home.until(lambda: len(program.reads()) == 1 and ours(program.data()) == whole)
    home.until(lambda: written_so_far(home) == whole)

    def delivered(name: str) -> int:
        number: int = home.status()["plugins"][name]["delivered"]
        return number

    assert delivered("socket") == delivered("server") == 0
    receiver.start()
    listener.start()
    assert home.audisp("resume").returncode == 0
    home.until(lambda: min(delivered("socket"), delivered("server")) >= len(lines))
    code, errors = home.end(process, signal.SIGTERM)
    assert code == 0, errors
    until(lambda: ours(unrepeated(listener.lines())) == whole)
    until(lambda: received(receiver) == whole)
