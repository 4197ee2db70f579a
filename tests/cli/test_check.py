"""`audisp check`: what it prints, and what it exits with."""

from __future__ import annotations

import io
import os
from pathlib import Path

import attrs
import pytest

from audisp.cli.check import OK, UNREADABLE, WRONG, check, find
from audisp.errors import PluginError
from tests.needs import needs

ENOUGH = "log_format = raw\nspace_left = 75\nadmin_space_left = 50\n"


@attrs.frozen
class Schema:
    """What the plugin `mine` can be told."""

    rate: int = 5


@attrs.frozen
class Noticing:
    """A plugin that has something to say about its settings."""

    rate: int = 5
    other: int = 5

    def notices(self) -> tuple[str, ...]:
        if self.rate == 0:
            raise RuntimeError("broken")
        return (f"rate: {self.rate} is much", "other: is unset", "all in all odd")


def schema_for(name: str) -> type | None:
    if name == "gone":
        raise PluginError("no plugin is called gone")
    return {"mine": Schema, "odd": str, "noticing": Noticing}.get(name)


def put(path: Path, text: str, mode: int = 0o640) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def run(folder: Path, *, quiet: bool = False) -> tuple[int, list[str]]:
    out = io.StringIO()
    status = check(folder, schema_for, out=out, quiet=quiet)
    return status, out.getvalue().splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "audit"
    (path / "plugins.d").mkdir(parents=True)
    put(path / "auditd.conf", ENOUGH)
    return path


def test_ok(folder: Path) -> None:
    put(folder / "plugins.d" / "a.conf", "active = no\n")
    put(folder / "plugins.d" / "b.audisp", "active = yes\nplugin = mine\nrate = 7\n")
    put(folder / "audispd.conf", "source = multicast\n")
    assert run(folder) == (OK, ["ok: 2 plugins configured, 0 notices"])
    assert run(folder, quiet=True) == (OK, [])


def test_notices_are_no_errors(folder: Path) -> None:
    put(folder / "auditd.conf", ENOUGH + "q_depth = 5\n")
    status, lines = run(folder)
    assert status == OK
    assert lines == [
        f"{folder}/auditd.conf:4: q_depth: 5 is low; auditd advises 512 or more (notice)",
        "ok: 0 plugins configured, 1 notice",
    ]
    assert run(folder, quiet=True) == (OK, [])


def test_a_plugin_s_own_notices(folder: Path) -> None:
    path = folder / "plugins.d" / "a.audisp"
    put(path, "active = yes\nplugin = noticing\nrate = 7\nrate = 8\n")
    assert run(folder) == (
        OK,
        [
            f"{path}:4: rate: 8 is much (notice)",
            f"{path}: other: is unset (notice)",
            f"{path}: all in all odd (notice)",
            "ok: 1 plugin configured, 3 notices",
        ],
    )
    put(path, "active = yes\nplugin = noticing\nrate = 0\n")
    status, lines = run(folder)
    assert status == WRONG
    assert lines[0] == (f"{path}:2: plugin: plugin a: its notices cannot be had: RuntimeError('broken')")
    put(path, "active = no\nplugin = noticing\nrate = 7\n")
    assert run(folder)[1] == ["ok: 1 plugin configured, 0 notices"]


def test_every_file_is_looked_at(folder: Path) -> None:
    put(folder / "auditd.conf", ENOUGH + "num_log = 5\nflush=data\n")
    put(folder / "audispd.conf", "rcvbuf = 1\n")
    put(folder / "plugins.d" / "a.conf", "formt = string\n")
    put(folder / "plugins.d" / "b.audisp", "active = yes\nplugin = mine\nraet = 7\n")
    put(folder / "plugins.d" / "c.audisp", "active = yes\nplugin = gone\n")
    put(folder / "plugins.d" / "d.audisp", "active = yes\nplugin = odd\n")
    put(folder / "plugins.d" / "e.audisp", "active = yes\nplugin = unknown\nanything = 1\n")
    status, lines = run(folder)
    assert status == WRONG
    assert lines == [
        f"{folder}/auditd.conf:4: unknown key 'num_log' (did you mean 'num_logs'?)",
        f"{folder}/auditd.conf:5: spaces are missing around '=': write 'flush = data'",
        f"{folder}/audispd.conf:1: rcvbuf: '1' is out of range: 64K to 1G",
        f"{folder}/plugins.d/a.conf:1: unknown key 'formt' (did you mean 'format'?)",
        f"{folder}/plugins.d/b.audisp:3: unknown key 'raet' (did you mean 'rate'?)",
        f"{folder}/plugins.d/c.audisp:2: plugin: no plugin is called gone",
        f"{folder}/plugins.d/d.audisp:2: plugin: plugin d: "
        "its settings cannot be read: <class 'str'> is no attrs class",
        "7 errors, 0 notices",
    ]
    assert run(folder, quiet=True) == (WRONG, lines[:-1])


def test_an_inactive_plugin_is_not_imported(folder: Path) -> None:
    put(folder / "plugins.d" / "c.audisp", "active = no\nplugin = gone\n")
    assert run(folder)[0] == OK


def test_sources(folder: Path) -> None:
    put(folder / "audispd.conf", "source = netlnk\n")
    status, lines = run(folder)
    assert status == WRONG
    assert lines[0].startswith(f"{folder}/audispd.conf:1: source: ")
    assert "netlink" in lines[0]


def test_another_plugin_folder(folder: Path, tmp_path: Path) -> None:
    put(tmp_path / "others" / "a.conf", "bogus = 1\n")
    put(folder / "auditd.conf", ENOUGH + f"plugin_dir = {tmp_path}/others\n")
    assert find(folder, schema_for).errors == [f"{tmp_path}/others/a.conf:1: unknown key 'bogus'"]


def test_files_that_anybody_can_write_to(folder: Path) -> None:
    put(folder / "auditd.conf", ENOUGH, mode=0o666)
    put(folder / "audispd.conf", "", mode=0o660)
    status, lines = run(folder)
    assert status == WRONG
    assert "can be written by everybody" in lines[0]
    assert "can be written by its group" in lines[1]


def test_an_empty_folder_is_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "plugins.d").mkdir()
    status, lines = run(tmp_path)
    assert status == OK
    assert "there is no such file" in lines[0]


def test_no_folder(tmp_path: Path) -> None:
    assert run(tmp_path / "none\n") == (UNREADABLE, [f"'{tmp_path}/none\\n' is not a folder"])
    put(tmp_path / "file", "")
    assert run(tmp_path / "file")[0] == UNREADABLE


def test_a_name_cannot_steer_the_terminal(folder: Path) -> None:
    for name in ("a\x1b[2J.conf", os.fsdecode(b"\xff.conf"), "a\u202e.conf"):
        (folder / "plugins.d" / name).write_text("")
    status, lines = run(folder)
    assert status == WRONG
    assert len(lines) == 4
    assert all(line.isprintable() for line in lines)


CHILD = "direction = out\npath = {path}\ntype = always\nformat = string\n"


def forwarder(folder: Path, tmp_path: Path, args: str = "") -> None:
    """An active child that is called audisp-remote."""
    put(tmp_path / "bin" / "audisp-remote", "#!/bin/sh\n", mode=0o750)
    text = CHILD.format(path=tmp_path / "bin" / "audisp-remote")
    put(folder / "plugins.d" / "au-remote.conf", "active = yes\n" + text + (f"args = {args}\n" if args else ""))


def test_a_forwarding_file_as_shipped_is_a_notice_until_somebody_forwards(folder: Path, tmp_path: Path) -> None:
    path = folder / "audisp-remote.conf"
    put(path, "remote_server =\nport = 60\n")
    status, lines = run(folder)
    assert status == OK
    assert lines[0] == f"{path}:1: remote_server: names no server to send to (notice)"
    forwarder(folder, tmp_path)
    status, lines = run(folder)
    assert (status, lines[0]) == (WRONG, f"{path}:1: remote_server: names no server to send to")
    put(path, "remote_server = 127.0.0.1\n")
    assert run(folder, quiet=True) == (OK, [])
    path.unlink()
    status, lines = run(folder)
    assert (status, lines[0]) == (WRONG, f"{path}: there is no such file, so no server to send to")


def test_what_is_wrong_in_a_forwarding_file_is_an_error_even_if_nobody_forwards(folder: Path) -> None:
    path = folder / "audisp-remote.conf"
    put(path, "remote_server = 127.0.0.1\nprot = 60\n")
    status, lines = run(folder)
    assert (status, lines[0]) == (WRONG, f"{path}:2: unknown key 'prot' (did you mean 'port'?)")


def test_another_forwarding_file(folder: Path, tmp_path: Path) -> None:
    forwarder(folder, tmp_path, f"--config {tmp_path}/other.conf")
    assert find(folder, schema_for).errors == [f"{tmp_path}/other.conf: there is no such file, so no server to send to"]
    put(tmp_path / "other.conf", "remote_server = 127.0.0.1\n")
    assert find(folder, schema_for).errors == []


def test_a_collector_and_its_plugins(folder: Path) -> None:
    path = folder / "audisp-collector.conf"
    put(path, "transport = tcp\nlisten = there\n")
    status, lines = run(folder)
    assert status == WRONG
    assert lines[0].startswith(f"{path}:2: listen: 'there' is not an address")
    put(path, "tls_allowed_clients = /etc/audit/clients\nq_depth = 5\n")
    status, lines = run(folder)
    assert lines == [
        f"{path}:2: q_depth: 5 is low; auditd advises 512 or more (notice)",
        "ok: 0 plugins configured, 1 notice",
    ]
    put(folder / "collector.d" / "a.audisp", "active = yes\nplugin = mine\nraet = 7\n")
    assert find(folder, schema_for).errors == [
        f"{folder}/collector.d/a.audisp:3: unknown key 'raet' (did you mean 'rate'?)"
    ]
    put(folder / "others" / "b.audisp", "active = yes\nplugin = gone\n")
    put(path, f"tls_allowed_clients = /etc/audit/clients\nplugin_dir = {folder}/others\n")
    assert find(folder, schema_for).errors == [f"{folder}/others/b.audisp:2: plugin: no plugin is called gone"]


def test_what_the_hids_goes_by_is_looked_at_where_it_is(folder: Path) -> None:
    (folder / "reactions.conf").write_text("kill_process = high\nblock_adress = high\n")
    (folder / "ids.conf").write_text("option_session_badness1_reaction = system_halt\n")
    found = find(folder, schema_for)
    assert len(found.errors) == len(found.notices) == 1
    assert "reactions.conf:2: unknown key 'block_adress' (did you mean 'block_address'?)" in found.errors[0]
    assert "ids.conf:1: option_session_badness1_reaction: system_halt is not carried out here" in found.notices[0]


@needs("root")
def test_what_a_collector_cannot_do_is_refused_there(folder: Path) -> None:
    """The same reactions.conf of a plugin of the dispatcher's and of one of the collector's."""
    conf = folder / "reactions.conf"
    text = f"plugin = stdout\nisolation = process\nuser = nobody\nreactions = {conf}\n"
    put(folder / "plugins.d" / "seen.audisp", f"active = yes\n{text}")
    put(conf, "notify = high\nblock_address = high\n")
    wrong = [each for each in find(folder, schema_for).errors if "reactions" in each]
    assert wrong == []
    put(folder / "audisp-collector.conf", "tls_allowed_clients = /etc/audit/clients\n")
    put(folder / "collector.d" / "seen.audisp", f"active = yes\n{text}")
    wrong = [each for each in find(folder, schema_for).errors if "reactions" in each]
    assert len(wrong) == 1
    assert "reactions.conf:2: block_address" in wrong[0]
    conf.unlink()
    wrong = [each for each in find(folder, schema_for).errors if "reactions" in each]
    assert [each.partition(": ")[0].rpartition("/")[2] for each in wrong] == ["seen.audisp:5", "seen.audisp:5"]
