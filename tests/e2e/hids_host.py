"""audispd as the owner of the stream with the plugin `hids` in a process of its own, as nobody, and what came of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from audisp.detect.form import LEVELS
from tests.e2e.attacks import Traces, start_time
from tests.e2e.daemons import Ours, add_plugin, lines_of
from tests.e2e.recognising import SEVERE, SIGMA
from tests.e2e.stream import wait_for
from tests.reachable import reachable_interpreter

STAMP: Final = re.compile(rb"msg=audit\((\d+)\.(\d+):\d+\)")
EVENT: Final = re.compile(rb" event=(\d+)\.(\d+):\d+ ")


@attrs.frozen
class Told:
    """One record of an alert in the log. after: seconds between the event's stamp and the record's."""

    type: str
    text: str
    after: float


class HidsHost:
    """Ours with the starter rules; alerts and reactions by their files and records."""

    def __init__(self, folder: Path, python: str, reactions: str | None) -> None:
        self.folder = folder
        self.rules = folder / "sigma.d"
        shutil.copytree(SIGMA, self.rules)
        for path in self.rules.iterdir():
            path.chmod(0o644)
        self.ours = Ours(folder / "ours")
        self.ours.argv = [python if word == sys.executable else word for word in self.ours.argv]
        keys: dict[str, object] = {
            "plugin": "hids",
            "isolation": "process",
            "user": "nobody",
            "memory_max": "1G",
            "overflow_action": "drop_newest",
            "rules": self.rules,
            "repeat_time": 0,
        }
        if reactions is not None:
            conf = folder / "reactions.conf"
            conf.write_text(reactions)
            conf.chmod(0o640)
            keys["reactions"] = conf
        add_plugin(folder / "ours", "hids", **keys)

    @property
    def state(self) -> Path:
        """The dispatcher's state folder."""
        return self.ours.run / "state"

    def start(self) -> None:
        """Up, with all rules loaded."""
        self.ours.start()
        try:
            wait_for(lambda: "rules" in self.status(), "the rules are loaded")
        except BaseException:
            print(self.ours.said(), file=sys.stderr)
            self.ours.kill()
            raise

    def status(self) -> dict[str, str]:
        """What the plugin says of itself."""
        found: dict[str, str] = self.ours.status()["plugins"].get("hids", {}).get("detail", {})
        return found

    def objects(self) -> list[dict[str, Any]]:
        """What stands in alerts.json."""
        path = self.state / "plugins" / "hids" / "alerts.json"
        return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []

    def alerts(self, title: str = "", since: int = 0) -> list[dict[str, Any]]:
        """Alerts after the first `since` objects."""
        return [each for each in self.objects()[since:] if "count" in each and title in each["title"]]

    def reactions(self, since: int = 0) -> list[dict[str, Any]]:
        """What became of requests."""
        return [each for each in self.objects()[since:] if "reaction" in each]

    def told(self, word: str = "op=hids-alert") -> list[Told]:
        """The plugin's records in the log."""
        found = []
        for line in lines_of(self.ours.log):
            if b"emitter=hids" not in line or word.encode() not in line:
                continue
            stamp, event = STAMP.search(line), EVENT.search(line)
            assert stamp is not None
            after = 0.0
            if event is not None:
                after = int(stamp[1]) - int(event[1]) + (int(stamp[2]) - int(event[2])) / 1000
            found.append(Told(line.split(b" ")[0].removeprefix(b"type=").decode(), line.decode(), after))
        return found

    def journal(self) -> list[dict[str, Any]]:
        """What `audisp hids reactions list` shows."""
        words = [sys.executable, "-m", "audisp.cli.audisp", "hids", "reactions", "list", "--json"]
        done = subprocess.run([*words, "--state", self.state / "reactor"], capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def place() -> Iterator[Path]:
    """A folder that everybody can enter, and only root can write to."""
    folder = Path(tempfile.mkdtemp(prefix="audisp-hids-", dir="/var"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def hids_host(python: str, reactions: str | None) -> Iterator[HidsHost]:
    """Running, and stopped at the end; its reactor is waited for."""
    with place() as folder:
        host = HidsHost(folder, python, reactions)
        host.start()
        try:
            with_it = True
            yield host
            with_it = False
        finally:
            if with_it:
                print(host.ours.said()[-6_000:], file=sys.stderr)
            if host.ours.ended() is None:
                host.ours.stop()
            wait_for(lambda: not (host.state / "reactor" / "reactor.sock").exists(), "the reactor has ended")


@contextmanager
def interpreter() -> Iterator[str]:
    """One that nobody may start."""
    with place() as folder:
        python = reachable_interpreter(folder / "venv")
        if python is None:
            pytest.skip("needs the system's interpreter in the version of ours")
        yield python


def blocked(namespace: str) -> set[str]:
    """Addresses that are blocked in a network namespace."""
    found: set[str] = set()
    for name in ("block4", "block6"):
        words = ["ip", "netns", "exec", namespace, "nft", "-j", "list", "set", "inet", "audisp_hids", name]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            continue
        for each in json.loads(done.stdout)["nftables"]:
            for element in each.get("set", {}).get("elem", []):
                found.add(element["elem"]["val"] if isinstance(element, dict) else element)
    return found


def runs(traces: Traces) -> bool:
    """Whether the attacker's process is still there."""
    try:
        return start_time(traces.pid) == traces.started and b") Z" not in Path(f"/proc/{traces.pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def acts(host: HidsHost, since: int, outcome: str) -> list[dict[str, Any]]:
    """What came of requests in this way, after the first `since` objects."""
    return [each for each in host.reactions(since) if each["outcome"] == outcome]


def severe(host: HidsHost, since: int) -> list[str]:
    """Titles of alerts to which somebody would react, after the first `since` objects."""
    return [each["title"] for each in host.alerts(since=since) if LEVELS.index(each["level"]) >= SEVERE]
