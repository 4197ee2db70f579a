"""Reading go-libaudit's expected output, and its events as auditbeat would make documents of them.

What is here is what auditbeat itself does between the two (buildMetricbeatEvent): numbers of processes as numbers, ids
under ``user``, what is unset left out. Where our documents differ from that is in test_ecs.py, each with its name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.needs import CORPUS

USER = {
    "uid": "user.id",
    "gid": "user.group.id",
    "auid": "user.audit.id",
    "euid": "user.effective.id",
    "egid": "user.effective.group.id",
    "suid": "user.saved.id",
    "sgid": "user.saved.group.id",
    "fsuid": "user.filesystem.id",
    "fsgid": "user.filesystem.group.id",
}
PROCESS = {
    "pid": "process.pid",
    "ppid": "process.parent.pid",
    "title": "process.title",
    "name": "process.name",
    "exe": "process.executable",
    "cwd": "process.working_directory",
    "args": "process.args",
}


def pairs() -> list[tuple[str, bytes, dict[str, Any]]]:
    """Name, records and expected event of every test of aucoalesce that is in the corpus."""
    out = []
    for line in (CORPUS / "golden.tsv").read_text().splitlines()[1:]:
        source, expected = (CORPUS / part for part in line.split("\t"))
        if source.suffix != ".yaml":
            continue
        events = {each["test_name"]: each["event"] for each in json.loads(expected.read_text())}
        for name, records in _tests(source):
            if name in events:
                out.append((f"{source.stem.removeprefix('aucoalesce__testdata__')}: {name}", records, events[name]))
    return out


def records() -> list[tuple[str, bytes, list[dict[str, Any]]]]:
    """Name, records and expected records of every file of auparse that is in the corpus."""
    out = []
    for line in (CORPUS / "golden.tsv").read_text().splitlines()[1:]:
        source, expected = (CORPUS / part for part in line.split("\t"))
        if source.name.startswith("auparse__") and source.suffix == ".log":
            out.append((source.name, source.read_bytes(), json.loads(expected.read_text())))
    return out


def places(name: str) -> tuple[str, ...]:
    """Where a field of one record may stand in auditbeat's document of it."""
    process = {"comm": "name", "exe": "exe", "cwd": "cwd", "pid": "pid", "ppid": "ppid"}
    at = [f"auditd.data.{name}", f"auditd.paths[0].{name}"]
    if name in USER:
        at.append(USER[name])
    if name in process:
        at.append(PROCESS[process[name]])
    same = {"euid": ("user.id",), "egid": ("user.group.id",)}  # said where they differ
    at += same.get(name, ())
    return (*at, *{"result": ("auditd.result",), "ses": ("auditd.session",), "addr": ("source.ip",)}.get(name, ()))


def _tests(path: Path) -> list[tuple[str, bytes]]:
    """The part of YAML that these files use: ``  NAME: |`` and behind it lines that are indented by four."""
    found: list[tuple[str, list[str]]] = []
    for line in path.read_text().splitlines():
        if line.startswith("    ") and found:
            found[-1][1].append(line.strip())
        elif line.startswith("  ") and line.endswith(": |"):
            found.append((line.strip().removesuffix(": |"), []))
    return [(name, ("\n".join(lines) + "\n").encode()) for name, lines in found]


def flat(value: Any, at: str = "") -> dict[str, Any]:
    """Leaves of a document by their dotted names. Lists of texts are leaves."""
    if isinstance(value, dict):
        out: dict[str, Any] = {}
        for name, each in value.items():
            out |= flat(each, f"{at}.{name}" if at else name)
        return out
    if isinstance(value, list) and value and isinstance(value[0], dict):
        out = {}
        for index, each in enumerate(value):
            out |= flat(each, f"{at}[{index}]")
        return out
    return {at: value}


def as_auditbeat(event: dict[str, Any]) -> dict[str, Any]:
    """The leaves that auditbeat's document of this event has."""
    out: dict[str, Any] = {"@timestamp": event["@timestamp"], "service.type": "auditd", "event.module": "auditd"}
    out["auditd.sequence"] = event["sequence"]
    out["auditd.message_type"] = event["record_type"]
    out["auditd.result"] = event["result"]
    out["event.outcome"] = {"fail": "failure"}.get(event["result"], event["result"])
    if event["session"] != "unset" and event["session"]:
        out["auditd.session"] = event["session"]
    if "tags" in event:
        out["tags"] = event["tags"]
    for name, value in flat(event["summary"]).items():
        if name == "action":
            out["event.action"] = value
        elif value != {}:
            out[f"auditd.summary.{name}"] = value
    for name, value in event["user"].get("ids", {}).items():
        if value != "unset":
            out[USER[name]] = value
    for name, value in event["user"].get("selinux", {}).items():
        out[f"user.selinux.{name}"] = value
    for name, value in event.get("process", {}).items():
        out[PROCESS[name]] = int(value) if name in ("pid", "ppid") else value
    for name, value in flat(event.get("file", {}), "file").items():
        out[name] = value
    for end in ("source", "destination"):
        for name, value in event.get(end, {}).items():
            out[f"{end}.{name}"] = value
    if "network" in event:
        out["network.direction"] = event["network"]["direction"]
    for name, value in event.get("data", {}).items():
        out["auditd.data." + name.replace("socket_", "socket.")] = value
    for name, value in flat(event.get("paths", []), "auditd.paths").items():
        out[name] = value
    ecs = event["ecs"]
    out["event.kind"] = ecs["event"].get("kind", "event")
    for name in ("category", "type"):
        if name in ecs["event"]:
            out[f"event.{name}"] = ecs["event"][name]
    _accounts(ecs, out)
    return {name: value for name, value in out.items() if value not in ({}, [])}


def _accounts(ecs: dict[str, Any], out: dict[str, Any]) -> None:
    user = ecs["user"]
    roles = {"user": {key: user[key] for key in ("id", "name") if key in user}}
    roles |= {f"user.{role}": user[role] for role in ("effective", "target", "changes")}
    roles["group"] = ecs["group"]
    for role, said in roles.items():
        if not said:
            continue
        for key in ("id", "name"):
            value = said.get(key, "")
            out.pop(f"{role}.{key}", None)
            if value and value != "unset":
                out[f"{role}.{key}"] = value
    for key in ("id", "name"):
        if out.get(f"user.{key}") is not None and out.get(f"user.effective.{key}") == out.get(f"user.{key}"):
            for name in [name for name in out if name.startswith("user.effective.")]:
                del out[name]
            break
