"""audisp-collector as a process: real senders, real kills, and what real readers make of its store."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from audisp.parse.psk import Key
from audisp.wire.rmw import Frame, Type
from tests.e2e.collectors import Collector, TheirRemote
from tests.e2e.remotes import Remote, numbered
from tests.e2e.stream import PATIENCE, wait_for
from tests.needs import ROOT, needs
from tests.tls.files import put_acl, put_key

pytestmark = [needs("root"), pytest.mark.timeout(180, func_only=True)]

SEED: Final = 7_353
THEIRS: Final = "addr:127.0.0.1"
WEB1: Final = "web1.example.com"


def corpus(count: int) -> list[bytes]:
    """Records of our own corpus, often enough, each once; none that C programs leave out."""
    found = (ROOT / "tests" / "corpus" / "mixed.log").read_bytes().splitlines(keepends=True)
    found = [line for line in found if not line.startswith((b"type=DAEMON_", b"type=EOE"))]
    return [line.replace(b": ", b": n=%d " % n, 1) for n, line in zip(range(count), found * 100, strict=False)]


def stored(collector: Collector, count: int) -> bool:
    return len(collector.records()) >= count


def lines(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


@needs("audisp-remote")
def test_their_remote_and_real_readers(tmp_path: Path) -> None:
    records = corpus(1_000)
    with (
        Collector(tmp_path / "collector", transport="tcp") as collector,
        TheirRemote(tmp_path / "remote", collector.port, heartbeat_timeout=1) as remote,
    ):
        remote.write(b"".join(records))
        wait_for(lambda: len(collector.records()) >= len(records), "all is stored")
        assert collector.records(THEIRS) == records
        host = collector.host(THEIRS)
        assert (host["authenticated"], host["records"], host["lag"]) == (False, len(records), None)
        assert [each["protocol"] for each in host["connections"]] == ["rmw"]
        cat = collector.tool("cat", "--host", THEIRS)
        assert (cat.returncode, cat.stdout) == (0, b"".join(records))
        assert collector.tool("cat", "--host", "nobody").returncode == 1
        assert collector.tool("cat", "--since", "1s").returncode == 1
        assert collector.tool("cat", "--since", "soon").returncode == 2
        shaped = collector.tool("cat", "--shape", "text")
        assert shaped.returncode == 0
        assert b"the system" in shaped.stdout
        checked = collector.tool("verify")
        assert (checked.returncode, checked.stdout.splitlines()[-1]) == (0, b"1 segments: intact")
        table = collector.tool("hosts").stdout.decode()
        assert THEIRS in table
        assert "unauthenticated" in table


@needs("auditd", "audisp-remote")
def test_ausearch_reads_what_cat_writes(tmp_path: Path) -> None:
    records = corpus(300)
    with (
        Collector(tmp_path / "collector", transport="tcp") as collector,
        TheirRemote(tmp_path / "remote", collector.port) as remote,
    ):
        remote.write(b"".join(records))
        wait_for(lambda: len(collector.records()) >= len(records), "all is stored")
        cat = collector.tool("cat", "--host", THEIRS).stdout
    found = subprocess.run(["ausearch", "--raw"], input=cat, capture_output=True, timeout=PATIENCE)
    direct = subprocess.run(["ausearch", "--raw"], input=b"".join(records), capture_output=True, timeout=PATIENCE)
    assert found.returncode == 0
    assert found.stdout == direct.stdout
    report = subprocess.run(["aureport", "--summary"], input=cat, capture_output=True, timeout=PATIENCE)
    assert report.returncode == 0
    assert b"Number of events: 0\n" not in report.stdout


@needs("audisp-remote")
def test_their_remote_with_kills_of_ours(tmp_path: Path) -> None:
    records, chance = corpus(3_000), random.Random(SEED)
    collector = Collector(tmp_path / "collector", transport="tcp")
    with collector, TheirRemote(tmp_path / "remote", collector.port) as remote:
        feeding = threading.Thread(target=remote.write, args=(b"".join(records),))
        feeding.start()
        for _ in range(5):
            upto = len(collector.records()) + chance.randrange(1, 400)
            wait_for(partial(stored, collector, min(upto, len(records))), "some more is stored")
            collector.restart()
        wait_for(lambda: len(collector.records()) >= len(records), "all is stored", 90)
        feeding.join(PATIENCE)
        assert collector.records() == records
        assert collector.verified().status == 0


def keyed(folder: Path, **conf: Any) -> tuple[Collector, Path]:
    """A collector with one host, and the file of that host's key."""
    folder.mkdir()
    key = put_key(folder / "web1.key", Key(bytes(range(32))))
    acl = put_acl(folder / "clients", f"{WEB1} enabled key={key}")
    return Collector(folder, tls_allowed_clients=acl, **conf), key


def sender(folder: Path, port: int, key: Path) -> Remote:
    """Our audisp-remote to it."""
    return Remote(
        folder,
        port=port,
        transport="tls",
        protocol="native",
        tls_psk_file=key,
        tls_psk_identity=WEB1,
        network_retry_time=1,
    )


def test_our_remote_with_kills_of_both(tmp_path: Path) -> None:
    collector, key = keyed(tmp_path / "collector")
    chance, count = random.Random(SEED), 0
    with collector, sender(tmp_path / "remote", collector.port, key) as remote:
        for turn in range(6):
            more = chance.randrange(500, 3_000)
            remote.write(numbered(count + 1, more))
            count += more
            remote.await_accepted(count if turn == 0 else 0)
            upto = chance.randrange(count // 2, count)
            wait_for(partial(stored, collector, upto), "some more is stored")
            collector.restart()
        wait_for(lambda: len(collector.records(WEB1)) >= count, "all is stored", 60)
        assert collector.records(WEB1) == lines(numbered(1, count))
        wait_for(lambda: collector.host(WEB1)["lag"] == 0, "it says that nothing is left")
        host = collector.host(WEB1)
        assert (host["authenticated"], host["missing"], host["holes"]) == (True, 0, 0)
        assert [each["protocol"] for each in host["connections"]] == ["native"]
        assert collector.verified().status == 0


@needs("openssl")
def test_a_c_program_over_tls(tmp_path: Path) -> None:
    """As audit-userspace 4.2 is configured by default: TLS 1.3, a PSK, its list of suites, no ALPN."""
    collector, _ = keyed(tmp_path / "collector")
    records = corpus(3)
    with collector:
        argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{collector.port}", "-quiet", "-tls1_3"]
        suites = "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"
        argv += ["-psk", bytes(range(32)).hex(), "-psk_identity", WEB1, "-ciphersuites", suites]
        pipe = subprocess.PIPE
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            try:
                for sequence, record in enumerate(records, 2):
                    client.stdin.write(Frame(Type.MESSAGE, sequence, record).encode())
                    client.stdin.flush()
                    assert client.stdout.read(16) == Frame(Type.ACK, sequence).encode()
                assert [each["protocol"] for each in collector.host(WEB1)["connections"]] == ["rmw"]
                assert collector.stop() == 0
                assert client.stdout.read(16) == Frame(Type.ENDING, 0).encode()
            finally:
                client.kill()
        assert collector.records(WEB1) == records


def test_term_says_goodbye_and_stores_what_it_has(tmp_path: Path) -> None:
    collector, key = keyed(tmp_path / "collector")
    with collector, sender(tmp_path / "remote", collector.port, key) as remote:
        remote.write(numbered(1, 500))
        wait_for(lambda: len(collector.records()) == 500, "all is stored")
        collector.change(listen=f"127.0.0.1:{collector.port}")
        assert collector.stop() == 0
        assert "1 connections are told" in collector.said()
        remote.write(numbered(501, 500))
        collector.start()
        wait_for(lambda: len(collector.records()) >= 1_000, "it came back by itself")
        assert collector.records() == lines(numbered(1, 1_000))


def test_hup_drops_the_disabled_alone(tmp_path: Path) -> None:
    folder = tmp_path / "collector"
    folder.mkdir()
    keys = [put_key(folder / f"{n}.key", Key(bytes([n] * 32))) for n in (1, 2)]
    acl = folder / "clients"
    put_acl(acl, f"one enabled key={keys[0]}", f"two enabled key={keys[1]}")
    with Collector(folder, tls_allowed_clients=acl) as collector:
        tls = {"port": collector.port, "transport": "tls", "network_retry_time": 1}
        remotes = [
            Remote(tmp_path / name, tls_psk_file=key, tls_psk_identity=name, **tls)
            for name, key in zip(("one", "two"), keys, strict=True)
        ]
        with remotes[0], remotes[1]:
            for remote in remotes:
                remote.write(numbered(1, 10))
            wait_for(lambda: len(collector.records()) == 20, "both are stored")
            put_acl(acl, f"one disabled key={keys[0]}", f"two enabled key={keys[1]}")
            collector.send(signal.SIGHUP)
            wait_for(lambda: "identity-revoked" in collector.said(), "one is cut off")
            assert collector.host("one")["connections"] == []
            assert len(collector.host("two")["connections"]) == 1
            for remote in remotes:
                remote.write(numbered(11, 10))
            wait_for(lambda: len(collector.records("two")) == 20, "the other goes on")
            wait_for(lambda: "disabled-identity" in collector.said(), "it has tried again")
            put_acl(acl, f"one enabled key={keys[0]}", f"two enabled key={keys[1]}")
            collector.send(signal.SIGHUP)
            wait_for(lambda: len(collector.records("one")) == 20, "it is let in again")
            assert collector.records("one") == lines(numbered(1, 20))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=0700", "tmpfs", str(mount)], check=False)
    if done.returncode:
        pytest.skip("root: mounting a tmpfs is not allowed here")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def test_a_disk_that_is_full_for_a_while(tmp_path: Path, small_disk: Path) -> None:
    filler = small_disk / "filler"
    collector, key = keyed(tmp_path / "collector", store_dir=small_disk / "store")
    collector.store = small_disk / "store"
    with collector, sender(tmp_path / "remote", collector.port, key) as remote:
        remote.write(numbered(1, 100))
        wait_for(lambda: stored(collector, 100), "the first are stored")
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4_096))
        remote.write(numbered(101, 30_000))
        wait_for(lambda: collector.status()["trouble"] == "disk-full", "it is full")
        wait_for(lambda: remote.fresh_state()["trouble"] == "disk-full", "the sender knows")
        collector.restart()
        wait_for(lambda: collector.status()["trouble"] == "disk-full", "it is full still")
        filler.unlink()
        wait_for(lambda: stored(collector, 30_100), "all is stored")
        assert collector.records() == lines(numbered(1, 30_100))
        wait_for(lambda: remote.fresh_state()["trouble"] == "none", "the sender knows that, too")
        assert collector.verified().status == 0


def test_a_wrong_configuration_is_told_and_status_6(tmp_path: Path) -> None:
    collector = Collector(tmp_path / "collector", nonsense="yes", transport="tcp")
    assert collector.refuse() == 6
    assert "nonsense" in collector.said()


def test_two_on_one_store_are_refused(tmp_path: Path) -> None:
    with Collector(tmp_path / "one", transport="tcp") as first:
        second = Collector(tmp_path / "two", transport="tcp", store_dir=first.store)
        assert second.refuse() == 1
        assert f"in use by process {first.pid}" in second.said()
