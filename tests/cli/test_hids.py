"""`audisp hids` as a program: logs in, findings out, and what is said about rules."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.detect.replaying import correlation, id_of, rule
from tests.needs import needs

LOG = Path(__file__).parents[1] / "detect" / "log" / "own.log"


def audisp(*words: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "audisp.cli.audisp", "hids", *map(str, words)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """A folder with a rule that is true, one that is not for audit, one that can never be true, and a correlation."""
    place = tmp_path / "rules"
    place.mkdir(mode=0o755)
    (place / "id.yml").write_text(rule("s:\n  type: EXECVE\n  a0: id\ncondition: s", name="who am i"))
    (place / "sshd.yml").write_text(rule("k:\n  - x\ncondition: k", name="sshd", source="service: sshd"))
    (place / "never.yml").write_text(
        rule("s:\n  DestinationHostname: x\ncondition: s", name="never", source="category: network_connection")
    )
    (place / "twice.yml").write_text(
        correlation(
            "type: event_count\nrules: who am i\ngroup-by: auid\ntimespan: 1h\ngenerate: true\ncondition:\n  gte: 2",
            name="twice",
        )
    )
    return place


def objects(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_one_object_per_finding(rules: Path) -> None:
    done = audisp("test", LOG, "--rules", rules, "--json")
    assert done.returncode == 0
    assert done.stderr == b"audisp hids test: 1 rules are not used; audisp hids check says why\n"
    first, second, third = objects(done)
    assert first == {
        "rule_id": id_of("who am i"),
        "title": "who am i",
        "level": "high",
        "serial": 2,
        "node": "",
        "time": "2023-11-14T22:30:02.000Z",
        "event": "1700001002.000:2",
        "view": "EXECVE",
        "tags": [],
        "rule": "id.yml",
    } | {"time": first["time"], "event": first["event"]}
    assert second["serial"] == 3
    assert third["title"] == "twice"
    assert third["group"] == {"auid": "1000"}
    assert [each["event"] for each in third["evidence"]] == [first["event"], second["event"]]


def test_packed_files_pipes_and_no_prefilter_say_the_same(rules: Path, tmp_path: Path) -> None:
    expected = audisp("test", LOG, "--rules", rules, "--json").stdout
    packed = tmp_path / "log.gz"
    packed.write_bytes(gzip.compress(LOG.read_bytes()))
    assert audisp("test", packed, "--rules", rules, "--json").stdout == expected
    assert audisp("test", "-", "--rules", rules, "--json", stdin=LOG.read_bytes()).stdout == expected
    assert audisp("test", LOG, "--rules", rules, "--json", "--no-prefilter").stdout == expected


def test_lines_for_people_and_timing(rules: Path) -> None:
    done = audisp("test", LOG, "--rules", rules, "--timing")
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 3
    assert f"high who am i [{id_of('who am i')}] EXECVE " in lines[0]
    assert lines[2].endswith(" auid=1000")
    said = done.stderr.decode()
    assert "us/ask" in said
    assert "who am i" in said
    assert "3 findings in 15 events, 1 rules" in said


def test_what_cannot_be_read_is_said(rules: Path, tmp_path: Path) -> None:
    done = audisp("test", tmp_path / "nosuch", "--rules", rules)
    assert done.returncode == 2
    assert b"audisp hids test: " in done.stderr
    assert b"No such file" in done.stderr
    done = audisp("test", LOG, "--rules", tmp_path / "nosuch")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert done.stderr.startswith(b"audisp hids: ")
    done = audisp("test", LOG, "--rules", rules / "sshd.yml")
    assert (done.returncode, b"there is no rule to test with" in done.stderr) == (2, True)


def test_check_for_people(rules: Path, tmp_path: Path) -> None:
    audit = tmp_path / "audit.rules"
    audit.write_text("-D\n-b 8192\n-a always,exit -F arch=b64 -S execve -F auid>=1000 -k exec\n-a bad\n")
    done = audisp("check", "--rules", rules, "--audit-rules", audit)
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert any("sshd.yml:1: refused: logsource: service sshd" in line for line in lines)
    assert any("never.yml:1: loaded, cannot fire: DestinationHostname" in line for line in lines)
    assert any(line.startswith("audit rule there, but only with auid: -a always,exit") for line in lines)
    assert lines[-1] == "2 rules and 1 correlations loaded, 1 of them cannot fire; 1 refused"
    assert b"audit.rules:4: -a bad: no list" in done.stderr
    (rules / "bad.yml").write_text("title: x\nlogsource:\n    service: auditd\n")
    assert audisp("check", "--rules", rules, "--audit-rules", audit).returncode == 1


def test_check_for_programs(rules: Path, tmp_path: Path) -> None:
    audit = tmp_path / "audit.rules"
    audit.write_text("-w /etc/shadow -p wa\n")
    (found,) = objects(audisp("check", "--rules", rules, "--audit-rules", audit, "--json"))
    loaded = {each["title"]: each for each in found["loaded"]}
    assert loaded["who am i"]["needs"] == [
        {"line": "-a always,exit -F arch=b64 -S execve,execveat", "met": False, "narrowed": []}
    ]
    assert "a system call has an address" in loaded["never"]["cannot_fire"]
    assert [each["title"] for each in found["refused"]] == ["sshd"]
    assert [each["title"] for each in found["correlations"]] == ["twice"]
    assert found["audit_rules_unknown"] is None


@needs("root", "audit")
def test_check_with_the_kernels_rules(rules: Path) -> None:
    done = audisp("check", "--rules", rules)
    assert done.returncode == 0
    assert b"audit rule " in done.stdout


def test_it_is_declared() -> None:
    done = audisp("test", "--help")
    assert done.returncode == 0
    assert b"--rules DIR" in done.stdout


LOGINS = "".join(
    f"type=USER_LOGIN msg=audit(170000000{at}.000:{at}): pid=77 uid=0 auid=4294967295 ses=4294967295 "
    'msg=\'op=login acct="bob" exe="/usr/sbin/sshd" hostname=? addr=::ffff:192.0.2.1 terminal=ssh res=failed\'\n'
    for at in range(8)
)


def test_scores_say_what_reached_its_threshold_and_why(rules: Path, tmp_path: Path) -> None:
    log = tmp_path / "logins.log"
    log.write_text(LOGINS)
    assert objects(audisp("test", log, "--rules", rules, "--json")) == []
    done = audisp("test", log, "--rules", rules, "--json", "--scores")
    assert done.returncode == 0
    (found,) = objects(done)
    assert found == {
        "entity": "address",
        "key": "192.0.2.1",
        "score": 8.0,
        "firm": 8.0,
        "threshold": 8,
        "sure": True,
        "tactics": [],
        "why": [{"event": f"170000000{at}.000:{at}", "weight": 1.0, "reason": "login failed"} for at in range(8)],
        "serial": 7,
        "node": "",
        "time": "2023-11-14T22:13:27.000Z",
        "event": "1700000007.000:7",
    }
    done = audisp("test", log, "--rules", rules, "--scores")
    assert done.stdout.startswith(
        b"2023-11-14T22:13:27.000Z score address 192.0.2.1 8.0 of 8 1700000007.000:7: login fai"
    )
    assert done.stderr.endswith(b"audisp hids test: 1 times a score reached its threshold\n")


def test_the_thresholds_of_ids_conf_hold(rules: Path, tmp_path: Path) -> None:
    log, conf = tmp_path / "logins.log", tmp_path / "ids.conf"
    log.write_text(LOGINS)
    conf.write_text("option_origin_failed_logins_threshold = 6\noption_bad_login_weight = 3\n")
    conf.chmod(0o640)
    found, account = objects(audisp("test", log, "--rules", rules, "--json", "--ids-conf", conf))
    assert (account["entity"], account["key"], account["score"], account["sure"]) == ("account", "bob", 24.0, False)
    assert (found["serial"], found["score"], found["threshold"]) == (1, 6.0, 6)
    conf.write_text("option_origin_failed_logins_threshhold = 6\n")
    done = audisp("test", log, "--rules", rules, "--ids-conf", conf)
    assert done.returncode == 2
    assert b"ids.conf:1: unknown key 'option_origin_failed_logins_threshhold'" in done.stderr
    done = audisp("test", log, "--rules", rules, "--ids-conf", tmp_path / "none")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"there is no such file" in done.stderr
