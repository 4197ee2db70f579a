"""The event model on the live kernel: whole events, filters, shapes, the process behind them, tail and explain."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.daemons import Ours, add_plugin, lines_of, serials_of, size_of, work
from tests.e2e.stream import WORK_AUID, auditctl, calls_rule, wait_for, wait_quiet
from tests.needs import needs

pytestmark = [needs("root", "auditd"), pytest.mark.timeout(120, func_only=True), pytest.mark.usefixtures("audit")]
AUDISP = Path(sys.executable).with_name("audisp")


def exec_rule() -> None:
    auditctl("-a", "always,exit", "-F", "arch=b64", "-S", "execve", "-F", f"auid={WORK_AUID}", "-k", "exec")


def documents(path: Path) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in lines_of(path)]


def test_every_event_of_the_kernel_is_whole_in_every_shape(tmp_path: Path) -> None:
    exec_rule()
    watched = tmp_path / "watched"
    watched.mkdir()
    auditctl("-w", str(watched), "-p", "wa", "-k", "watched")
    kept = {shape: tmp_path / f"{shape}.out" for shape in ("laurel", "ecs", "text", "raw")}
    ours = Ours(tmp_path / "ours")
    for shape, path in kept.items():
        add_plugin(ours.folder, shape, plugin="output", file=path, shape=shape, filter_drop="auid r= 4294967295")
    with ours:
        auditctl("-m", "mark-of-begin")
        work("mixed", 8, watched)
        auditctl("-m", "mark-of-end")
        wait_quiet(lambda: [size_of(path) for path in (*kept.values(), ours.log)], 1.0)
        assert ours.status()["assembly"]["netlink"]["open_records"] == 0
        assert ours.status()["assembly"]["netlink"]["incomplete"] == 0
        ours.assert_balanced()
    laurel = {each["ID"] for each in documents(kept["laurel"])}
    ecs = {f"{each['auditd']['sequence']}" for each in documents(kept["ecs"])}
    raw = {line.split(b"msg=audit(")[1].split(b")")[0].decode() for line in lines_of(kept["raw"])}
    assert laurel == raw
    assert ecs == {each.rpartition(":")[2] for each in raw}
    assert len(lines_of(kept["text"])) == len(raw) > 100
    wanted = {*serials_of(ours.log)}
    assert {int(each) for each in ecs} <= wanted


def test_a_program_is_known_by_its_parents_and_its_environment(tmp_path: Path) -> None:
    exec_rule()
    out = tmp_path / "ecs.out"
    ours = Ours(tmp_path / "ours", own="enrich_env = AUDISP_TEST\nlabel = worked exe *python*\n")
    add_plugin(ours.folder, "json", plugin="output", file=out, shape="laurel", shape_version="0.8")
    script = tmp_path / "script.sh"
    script.write_text("#!/bin/sh\n/bin/sleep 0.3\n/bin/true\n")
    script.chmod(0o755)
    with ours:
        code = (
            f"open('/proc/self/loginuid','w').write('{WORK_AUID}'); import subprocess; "
            f"subprocess.run(['{script}'], env={{'AUDISP_TEST': 'yes', 'OTHER': 'no'}}, check=True)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
        wait_quiet(lambda: size_of(out), 1.0)
        assert ours.status()["enrichment"]["processes"] > 3
    found = [each for each in documents(out) if each.get("EXECVE")]
    by_name = {each["SYSCALL"]["comm"]: each for each in found}
    assert by_name["script.sh"]["SYSCALL"]["SCRIPT"] == str(script)
    assert by_name["script.sh"]["EXECVE"]["ENV"] == {"AUDISP_TEST": "yes"}
    assert by_name["sleep"]["SYSCALL"]["PPID"]["EVENT_ID"] == by_name["script.sh"]["ID"]


def test_tail_and_explain(tmp_path: Path) -> None:
    calls_rule()
    ours = Ours(tmp_path / "ours")
    add_plugin(ours.folder, "drops", plugin="output", file=tmp_path / "out", filter_drop="key i= calls")
    with ours:
        run = ["--runtime-dir", str(ours.run)]
        # Whoever runs the tests in the background of a shell has told it to ignore SIGINT, and that is inherited.
        argv = ["env", "--default-signal=INT", str(AUDISP), "tail", "--shape", "raw", "--filter", "key i= calls", *run]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as tail:
            assert tail.stdout is not None
            wait_for(lambda: "tail-1" in ours.status()["plugins"], "it is attached")
            work("calls", 3)
            lines = [tail.stdout.readline() for _ in range(9)]
            tail.send_signal(signal.SIGINT)
            assert tail.wait(20) == 0
        assert all(b"type=" in line for line in lines)
        stamp = lines[0].split(b"msg=audit(")[1].split(b")")[0].decode()
        wait_for(lambda: "tail-1" not in ours.status()["plugins"], "it is let go")
        asked = subprocess.run([AUDISP, "explain", stamp, "--json", *run], capture_output=True, check=True)
        answer = json.loads(asked.stdout)
        assert answer["records"][0]["source"] == "netlink"
        assert answer["assembly"][0]["types"] == ["SYSCALL", "PROCTITLE", "EOE"]
        assert answer["plugins"]["log"]["state"] == "delivered"
        assert answer["plugins"]["drops"]["state"] == "filtered"
        unknown = subprocess.run([AUDISP, "explain", "1.000:1", *run], capture_output=True, check=False)
        assert unknown.returncode == 1
        ours.assert_balanced()
