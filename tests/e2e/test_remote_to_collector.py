"""Our sender to our collector, both as programs over TLS and both killed: each record is stored once, in order."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.daemons import Daemon, listening
from tests.e2e.remotes import Remote, free_port, numbered
from tests.e2e.stream import wait_for
from tests.remote.receiver import tls_conf
from tests.tls.ends import KEY, WEB1
from tests.tls.files import put_key

pytestmark = pytest.mark.timeout(180, func_only=True)

SEED: Final = 1_729


class Collector(Daemon):
    """audisp-collector, with one sender's key."""

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir(mode=0o750)
        self.port = port
        conf = {
            "listen": "127.0.0.1",
            "tcp_listen_port": port,
            "transport": "tls",
            "tls_psk_identity": WEB1.decode(),
            "tls_psk_file": put_key(folder / "psk", KEY),
            "store_dir": folder / "store",
            "store_min_free": 0,
            "runtime_dir": folder / "run",
            "state_dir": folder / "state",
        }
        path = folder / "audisp-collector.conf"
        path.write_text("".join(f"{key} = {value}\n" for key, value in conf.items()))
        path.chmod(0o640)
        super().__init__([*self.command, "-f", "-c", str(folder)], folder, "collector")

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "audisp.cli.collector"]

    def _await_ready(self) -> None:
        def ready() -> bool:
            assert self.ended() is None, f"audisp-collector ended: {self.said()}"
            return listening(self.port)

        wait_for(ready, "audisp-collector listens")

    def stored(self) -> bytes:
        """What `audisp-collector cat` gives of the sender's stream."""
        words = [*self.command, "cat", "-c", str(self.folder), "--host", WEB1.decode()]
        return subprocess.run(words, capture_output=True, check=True, timeout=60).stdout


def test_both_are_killed(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    port, total, before, kills = free_port(), 0, 0, 0
    collector = Collector(tmp_path / "collector", port)
    sender = Remote(tmp_path / "remote", port=port, **tls_conf(tmp_path / "remote"))
    collector.start()
    sender.start()
    try:
        for _ in range(8):
            for _ in range(chance.randrange(1, 4)):
                sender.write(numbered(total + 1, 1_000))
                total += 1_000
            if chance.random() < 0.5:
                collector.kill()
                kills += 1
                collector.start()
            if chance.random() < 0.5:
                # What it has read and not yet stored would be lost with it, as documented.
                sender.await_accepted(total - before)
                sender.kill()
                before = total
                kills += 1
                sender.start()
        sender.await_accepted(total - before)
        wait_for(lambda: sender.fresh_state()["waiting"] == "0", "all is acknowledged")
        wait_for(lambda: collector.stored() == numbered(1, total), "all are stored, once and in order")
    finally:
        sender.close_feed()
        sender.kill()
        collector.kill()
    assert kills > 4
    assert "Traceback" not in sender.said() + collector.said()
