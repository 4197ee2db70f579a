"""audispd with tcp_listen_port: what other hosts send is stored, acknowledged, and goes where auditd puts it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from audisp.collector.reading import Reader
from audisp.parse.psk import Key
from tests.e2e.collectors import TheirRemote
from tests.e2e.daemons import Child, Ours, add_plugin, sink
from tests.e2e.remotes import Remote, free_port, numbered, numbers_in
from tests.e2e.stream import wait_for
from tests.needs import needs
from tests.tls.files import put_key

pytestmark = [needs("root"), pytest.mark.timeout(180, func_only=True)]


def listening(folder: Path, *, own: str = "", distribute: str = "no", **extra: Any) -> tuple[Ours, int, Path]:
    """audispd that listens, its port, and what its child program got."""
    folder.mkdir()
    kept = folder / "kept"
    port = free_port()
    keys: dict[str, Any] = {
        "local_events": "no",
        "tcp_listen_port": port,
        "tcp_max_per_addr": 4,
        "use_libwrap": "no",
        "distribute_network": distribute,
    }
    children = [Child("keep", sink(folder, "keep.sh", kept))]
    return Ours(folder, children=children, own=f"store_min_free = 0\n{own}", **keys | extra), port, kept


def has(path: Path, count: int) -> bool:
    return path.exists() and len(numbers_in(path.read_bytes())) >= count


@needs("audisp-remote")
def test_their_remote_to_ours(tmp_path: Path) -> None:
    """Into the log and, with distribute_network, to the plugins; a restart goes on, with no record twice."""
    ours, port, kept = listening(tmp_path / "ours", distribute="yes")
    log = tmp_path / "ours" / "audit.log"
    with ours, TheirRemote(tmp_path / "remote", port) as remote:
        remote.write(numbered(1, 500))
        wait_for(lambda: has(log, 500) and has(kept, 500), "all is there")
        network = ours.status()["sources"]["network"]
        assert (network["received"], network["routed"]) == (500, 500)
        assert ours.status()["plugins"]["keep"]["offered"] >= 500
        ours.stop()
        ours.start()
        remote.write(numbered(501, 500))
        wait_for(lambda: has(log, 1_000) and has(kept, 1_000), "all is there")
        with Reader(ours.run / "state" / "store") as reader:
            stored = b"".join(chunk.data for chunk in reader)
    for data in (log.read_bytes(), kept.read_bytes(), stored):
        assert numbers_in(data) == list(range(1, 1_001))
    assert b"type=DAEMON_ACCEPT" in log.read_bytes()
    assert b"type=DAEMON_CLOSE" in log.read_bytes()


@needs("audisp-remote")
def test_only_the_log_gets_it_unless_somebody_asks(tmp_path: Path) -> None:
    ours, port, kept = listening(tmp_path / "ours")
    asked = tmp_path / "asked"
    add_plugin(tmp_path / "ours", "asks", plugin="output", file=asked, hosts="addr:127.*")
    add_plugin(tmp_path / "ours", "other", plugin="output", file=tmp_path / "other", hosts="web1")
    log = tmp_path / "ours" / "audit.log"
    with ours, TheirRemote(tmp_path / "remote", port) as remote:
        remote.write(numbered(1, 100))
        wait_for(lambda: has(log, 100) and has(asked, 100), "the log and who asked have it")
        wait_for(lambda: ours.status()["plugins"]["keep"]["filtered"] == 100, "the others do not")
    assert b"type=DAEMON_START" in kept.read_bytes()
    assert numbers_in(kept.read_bytes()) == []
    assert numbers_in((tmp_path / "other").read_bytes()) == []


def test_beside_local_sources_and_over_tls(tmp_path: Path) -> None:
    """A followed log here, and our own audisp-remote from elsewhere; kill -9 of ours loses nothing."""
    key = put_key(tmp_path / "key", Key(bytes(range(32))))
    local = tmp_path / "local.log"
    local.write_bytes(numbered(1, 50).replace(b"USER_MSG", b"USER_CMD"))
    ours, port, kept = listening(
        tmp_path / "ours",
        own=f"source = follow:{local}\n",
        distribute="yes",
        local_events="yes",
        transport="tls",
        tls_psk_file=key,
        tls_psk_identity="web1",
    )
    remote = Remote(
        tmp_path / "remote",
        port=port,
        transport="tls",
        protocol="native",
        tls_psk_file=key,
        tls_psk_identity="web1",
        network_retry_time=1,
    )
    with ours, remote:
        remote.write(numbered(1, 2_000))
        remote.await_accepted(2_000)
        wait_for(lambda: has(kept, 1_000), "some of it has come")
        ours.kill()
        ours.start()
        remote.write(numbered(2_001, 500))
        # What waited when it was killed comes once more.
        wait_for(lambda: len(set(numbers_in(kept.read_bytes()))) == 2_500, "all of it has come")
        wait_for(lambda: kept.read_bytes().count(b"USER_CMD") >= 50, "what is local, too")
        with Reader(ours.run / "state" / "store", host="web1") as reader:
            stored = b"".join(chunk.data for chunk in reader)
    assert numbers_in(stored) == list(range(1, 2_501))
    assert sorted(set(numbers_in(kept.read_bytes()))) == list(range(1, 2_501))


@needs("audisp-remote")
def test_a_stopped_plugin_holds_up_neither_senders_nor_the_log(tmp_path: Path) -> None:
    ours, port, kept = listening(tmp_path / "ours", distribute="yes", q_depth=10)
    log = tmp_path / "ours" / "audit.log"
    count = 6_000
    with ours, TheirRemote(tmp_path / "remote", port) as remote:
        remote.write(numbered(1, 10))
        wait_for(lambda: has(kept, 10), "it runs")
        child = ours.status()["plugins"]["keep"]["pids"][0]
        os.kill(child, signal.SIGSTOP)
        remote.write(numbered(11, count))
        wait_for(lambda: has(log, count + 10), "the log has all")
        os.kill(child, signal.SIGCONT)
        wait_for(lambda: has(kept, count + 10), "and so has the other")
        assert ours.status()["plugins"]["keep"]["dropped"] == 0
    assert numbers_in(kept.read_bytes()) == list(range(1, count + 11))


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    for extra, said in (
        ({"transport": "krb5"}, "Kerberos is not spoken here"),
        ({"transport": "tls"}, "there is no key"),
    ):
        ours, _, _ = listening(tmp_path / str(len(said)), **extra)
        assert ours.refuse() == 6
        assert said in ours.said()
