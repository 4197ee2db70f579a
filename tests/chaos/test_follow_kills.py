"""A followed log under SIGKILL of the dispatcher: no plugin loses a record, whatever it wants and wherever it runs."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.daemons import Child, Daemon, add_child, add_plugin
from tests.e2e.stream import wait_for
from tests.needs import needs
from tests.soak.forward import Dispatcher, Writer, record

pytestmark = [needs("root", "gcc"), pytest.mark.timeout(120, func_only=True)]

COUNT: Final = 20_000
KILLS: Final = 5
SEED: Final = 2026


def _slow_sink(path: Path, kept: Path) -> str:
    """A program that takes 400 KiB a second, less than comes, so that there is always something in its queue."""
    path.write_text(
        f"#!{sys.executable} -I\nimport os, time\nfile = open({str(kept)!r}, 'ab', 0)\n"
        "while data := os.read(0, 4096):\n    file.write(data)\n    time.sleep(0.01)\n"
    )
    path.chmod(0o750)
    return str(path)


def test_every_plugin_has_every_record(folder: Path) -> None:
    log = folder / "log" / "audit.log"
    log.parent.mkdir(mode=0o700)
    dispatcher = Dispatcher(folder / "ours", log, folder / "spool", 9)
    files = {name: folder / name for name in ("events", "filtered", "child")}
    add_plugin(dispatcher.folder, "events", plugin="output", file=files["events"], shape="raw")
    add_plugin(
        dispatcher.folder, "filtered", plugin="output", file=files["filtered"], filter_keep=r"\record_type == USER"
    )
    add_child(dispatcher.folder, Child("child", _slow_sink(dispatcher.folder / "sink", files["child"])))
    writer = Writer(log, COUNT, KILLS, SEED)
    writer.log.append([record(1)])
    chance = random.Random(SEED)

    def has(number: int) -> bool:
        return all(path.exists() and record(number) in path.read_bytes() for path in files.values())

    dispatcher.start()
    try:
        # The first start begins with the log that is there; from then on its position is kept.
        wait_for(lambda: has(1), "the first record is everywhere")
        writer.start()
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.3, 1.5))
            dispatcher.kill()
            Daemon.start(dispatcher)
        writer.join(60)
        wait_for(lambda: has(COUNT), "the last record is everywhere", 60)
        assert dispatcher.stop() == 0, dispatcher.said()
    finally:
        dispatcher.kill()
    wanted = {record(number) for number in range(1, COUNT + 1)}
    for name, path in files.items():
        missing = wanted - set(path.read_bytes().splitlines(keepends=True))
        assert not missing, f"{name} misses {len(missing)}"
    # Nothing of such a log is ever said to be lost, since nothing is.
    assert "may be missing" not in dispatcher.said()
