"""The plugin hids behind a collector: a host's attack is told of there, under the identity that the host has proved."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemons import lines_of, sink
from tests.e2e.hids_host import interpreter, place
from tests.e2e.recognising import SIGMA
from tests.e2e.stream import wait_for
from tests.e2e.test_collector import WEB1, keyed, sender
from tests.e2e.test_collector_plugins import put
from tests.needs import needs

pytestmark = [needs("root"), pytest.mark.timeout(180, func_only=True)]

ATTACK = (
    "node=liar type=USER_AUTH msg=audit({stamp}): pid={pid} uid=0 auid=4294967295 ses=4294967295 "
    'msg=\'op=PAM:authentication grantors=? acct="bob" exe="/usr/sbin/sshd" '
    "hostname=192.0.2.7 addr=192.0.2.7 terminal=ssh res=failed'\n"
)


@pytest.fixture(scope="module")
def python() -> Iterator[str]:
    with interpreter() as found:
        yield found


def objects(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def test_a_hosts_attack_is_told_of_and_only_told(python: str) -> None:
    with place() as folder:
        rules = folder / "sigma.d"
        shutil.copytree(SIGMA, rules)
        plugins = folder / "collector.d"
        plugins.mkdir(mode=0o750)
        told = folder / "told"
        notice = folder / "notice.sh"
        notice.write_text(f"#!/bin/sh\nexec cat >>'{folder}/notices'\n")
        notice.chmod(0o750)
        conf = folder / "reactions.conf"
        conf.write_text(f"dry_run = no\nnotify = high critical\nnotify_command = {notice}\n")
        conf.chmod(0o640)
        put(plugins, "told.conf", f"path = {sink(folder, 'told.sh', told)}\n")
        keys = f"plugin = hids\nisolation = process\nuser = nobody\nrules = {rules}\nreactions = {conf}\n"
        put(plugins, "hids.audisp", keys)
        collector, key = keyed(folder / "collector", plugin_dir=plugins)
        collector.argv = [python if word == sys.executable else word for word in collector.argv]
        alerts = folder / "collector" / "state" / "plugins" / "hids" / "alerts.json"
        with collector, sender(folder / "remote", collector.port, key) as remote:
            for number in range(8):
                stamp = f"{time.time():.3f}:{number + 1}"
                remote.write(ATTACK.format(stamp=stamp, pid=900 + number).encode())
            wait_for(lambda: [each for each in objects(alerts) if each.get("level") == "high"], "it is told of")
            alert = next(each for each in objects(alerts) if each.get("level") == "high")
            assert alert["title"] == "Many failed logins from one address"
            assert (alert["origin"], alert["node"]) == (WEB1, "liar")
            wait_for(lambda: (folder / "notices").exists(), "somebody is notified")
            wait_for(lambda: [each for each in objects(alerts) if "reaction" in each], "which is said")
            done = {(each["reaction"], each["outcome"]) for each in objects(alerts) if "reaction" in each}
            assert done == {("notify", "done")}
            assert json.loads((folder / "notices").read_text().splitlines()[0])["level"] == "high"
            wait_for(
                lambda: [each for each in lines_of(told) if b"op=hids-alert" in each], "other plugins get the record"
            )
            # A host's processes and addresses are not ours: such a file is refused, and the plugin stays down.
            conf.write_text(f"{conf.read_text()}block_address = high\n")
            collector.restart()
            wait_for(lambda: "block_address" in collector.said(), "it says so")
