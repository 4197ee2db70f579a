"""`audisp key`: files that it makes, lines that it prints, what it says of other files, and what it never says."""

from __future__ import annotations

import os
import pty
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from audisp.parse.psk import Key, KeyText, derive
from audisp.tls.keyfile import read_key
from audisp.tls.keyring import KeyFiles, KeyRing
from tests.tls.ends import KEY, OTHER
from tests.tls.files import put_acl, put_key

AUDISP = Path(sys.executable).with_name("audisp")
MASTER = Key(bytes(range(100, 140)))


def key(*words: str | Path, folder: Path | None = None, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [AUDISP, "key", *map(str, words)], capture_output=True, text=True, timeout=50, check=False, cwd=folder
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_a_new_key_and_the_line_for_it(tmp_path: Path) -> None:
    done = key("new", "web1.example.com", folder=tmp_path)
    path = tmp_path / "web1.example.com.key"
    text = read_key(path)
    assert (len(text.key), text.identity, text.master) == (32, b"web1.example.com", False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert done.stdout == f"web1.example.com enabled key={path}\n"
    assert text.key.reveal().hex() not in done.stdout + done.stderr
    # The line is what a collector takes, and the key file what it says.
    acl = put_acl(tmp_path / "acl", done.stdout.strip())
    assert KeyRing(KeyFiles(acl)).lookup(b"web1.example.com").key == text.key


def test_no_two_keys_are_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        key("new", name, "--out", tmp_path / name)
    assert read_key(tmp_path / "a").key != read_key(tmp_path / "b").key


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    key("new", "web1", folder=tmp_path)
    before = (tmp_path / "web1.key").read_bytes()
    done = key("new", "web1", folder=tmp_path, status=1)
    assert done.stderr == f"audisp: {tmp_path}/web1.key: is there already, and a key is never overwritten\n"
    assert (tmp_path / "web1.key").read_bytes() == before


def test_a_master_key(tmp_path: Path) -> None:
    done = key("new", "--master", folder=tmp_path)
    assert done.stdout == ""
    assert "tls_psk_master" in done.stderr
    assert read_key(tmp_path / "master.key").master


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("new",), 2, "key new: name an identity, or --master"),
        (("new", "a", "--master"), 2, "key new: name an identity, or --master"),
        (("new", "a b"), 2, "identity 'a b': character 2 is not a printable ASCII character other than space"),
        (("new", "a\x1b[2J"), 2, "identity 'a\\x1b[2J': character 2"),
        (("new", ""), 2, "an identity has at least one character"),
        (("new", "a/b"), 2, "a/b makes no file name: name the file with --out"),
        (("new", ".."), 2, ".. makes no file name"),
        (("new", "a", "--out", "no/such/folder"), 1, "no/such/folder: cannot be made: No such file or directory"),
        (("new", "a", "--out", "sp ace"), 1, "this one is too long for it, or has spaces"),
        (("derive", "--master", "gone", "--identity", "a"), 1, "gone: cannot be opened: No such file or directory"),
        (("derive", "--master", "master", "--identity", "a#1"), 2, "identity 'a#1' has an epoch already"),
        (("derive", "--master", "master", "--identity", "a", "--epoch", "-1"), 2, "epoch -1 is not 0 to 4294967295"),
        (("derive", "--master", "web1", "--identity", "a"), 1, "web1: is the key of 'web1' and no master key"),
        (("derive", "--master", "master", "--identity", "a", "--out", "web1"), 1, "web1: is there already"),
    ],
)
def test_what_cannot_be(tmp_path: Path, words: tuple[str, ...], status: int, message: str) -> None:
    put_key(tmp_path / "master", MASTER, None)
    put_key(tmp_path / "web1", KEY, b"web1")
    done = key(*words, folder=tmp_path, status=status)
    assert message in done.stderr
    assert done.stdout == ""
    for each in (MASTER, KEY):
        assert each.reveal().hex() not in done.stderr


def test_derived_keys(tmp_path: Path) -> None:
    put_key(tmp_path / "master", MASTER, None)
    wanted = derive(MASTER, b"web1", 2)
    done = key("derive", "--master", "master", "--identity", "web1", "--epoch", "2", "--out", "out", folder=tmp_path)
    assert read_key(tmp_path / "out") == KeyText(wanted, b"web1#2")
    assert done.stdout == ""
    assert "must admit web1, and epoch 2 be live" in done.stderr
    for each in (MASTER, wanted):
        assert each.reveal().hex() not in done.stderr
    # Without --out the file's content, for a pipe; the master is in neither.
    done = key("derive", "--master", "master", "--identity", "web1", "--epoch", "2", folder=tmp_path)
    assert done.stdout.encode() == (tmp_path / "out").read_bytes()
    assert done.stderr == ""
    assert MASTER.reveal().hex() not in done.stdout


def test_a_collector_derives_the_same(tmp_path: Path) -> None:
    key("new", "--master", folder=tmp_path)
    key("derive", "--master", "master.key", "--identity", "a.dmz", "--out", "a", folder=tmp_path)
    key("derive", "--master", "master.key", "--identity", "a.dmz", "--epoch", "1", "--out", "b", folder=tmp_path)
    acl = put_acl(tmp_path / "acl", "*.dmz enabled match=suffix")
    ring = KeyRing(KeyFiles(acl, master=tmp_path / "master.key", epochs=(0, 1)))
    assert ring.lookup(b"a.dmz").key == read_key(tmp_path / "a").key
    assert ring.lookup(b"a.dmz#1").key == read_key(tmp_path / "b").key


def test_no_key_is_shown_on_a_terminal(tmp_path: Path) -> None:
    put_key(tmp_path / "master", MASTER, None)
    ours, theirs = pty.openpty()
    words = [str(AUDISP), "key", "derive", "--master", str(tmp_path / "master"), "--identity", "web1"]
    done = subprocess.run(words, stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=50, check=False)
    os.close(theirs)
    assert done.returncode == 2
    assert "a key does not belong on a terminal: name a file with --out, or use a pipe" in done.stderr
    with pytest.raises(OSError, match="Input/output error"):
        os.read(ours, 1)
    os.close(ours)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    put_key(tmp_path / "plain", KEY)
    put_key(tmp_path / "web1.2", OTHER, b"web1#2")
    put_key(tmp_path / "master", MASTER, None)
    put_key(tmp_path / "weak", Key(b"0123" * 8))
    put_key(tmp_path / "open", KEY, mode=0o644)
    put_acl(tmp_path / "keyed", f"web1 enabled key={tmp_path}/plain", f"web1#2 disabled key={tmp_path}/web1.2")
    put_acl(tmp_path / "plain-acl", "# ours", "web1 enabled")
    put_acl(tmp_path / "two", "web1 enabled", "web2 enabled")
    put_acl(tmp_path / "derived", "*.dmz enabled match=suffix", "db1 disabled")
    put_acl(tmp_path / "star", "*.dmz enabled")
    put_acl(tmp_path / "empty")
    put_acl(tmp_path / "bad", "web1 on", "web2", "web3 enabled")
    (tmp_path / "nothing").touch(0o400)
    (tmp_path / "nothing").chmod(0o400)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["plain"], 0, ["plain: ok: a key, 32 bytes"]),
        (["web1.2"], 0, ["web1.2: ok: a key of 'web1#2', 32 bytes"]),
        (["master"], 0, ["master: ok: a master key, 40 bytes"]),
        (
            ["weak"],
            0,
            ["weak: ok: a key, 32 bytes", "weak: has 4 different bytes, which is few for a random key (notice)"],
        ),
        (["open"], 1, ["open: has mode 0644, a key file must have 0400: chmod 0400"]),
        (["nothing"], 1, ["nothing: the first line is empty; it must be the key in hexadecimal digits"]),
        (["gone", "."], 1, ["gone: cannot be opened: No such file or directory", ".: is a folder"]),
        (["keyed"], 0, ["keyed: ok: 1 enabled, 1 disabled"]),
        (
            ["plain-acl"],
            0,
            [
                "plain-acl: its lines name no keys, so none was looked at: give --psk-file or --master (notice)",
                "plain-acl: ok: 1 enabled, 0 disabled",
            ],
        ),
        (["plain-acl", "--psk-file", "plain"], 0, ["plain-acl: ok: 1 enabled, 0 disabled"]),
        (
            ["two", "--psk-file", "plain"],
            1,
            ["two:2: 'web2' would share its key with line 1: give each line a key= of its own"],
        ),
        (["two", "--master", "master"], 0, ["two: ok: 2 enabled, 0 disabled"]),
        (
            ["derived"],
            1,
            ["derived:1: '*.dmz' is a suffix: keys for whoever it admits are derived, so set tls_psk_master"],
        ),
        (
            ["derived", "--master", "master", "--epoch", "1", "--epoch", "2"],
            0,
            ["derived: ok: 1 enabled, 1 disabled, of these with match=suffix 1"],
        ),
        (["derived", "--master", "master", "--epoch", "-1"], 1, ["tls_psk_epochs: epoch -1 is not 0 to 4294967295"]),
        (["empty"], 0, ["empty: ok: 0 enabled, 0 disabled"]),
        (
            ["bad", "plain"],
            1,
            [
                "bad:1: 'on' is no status: enabled or disabled",
                "bad:2: the status of 'web2' is missing: enabled or disabled",
                "plain: ok: a key, 32 bytes",
            ],
        ),
    ],
)
def test_check(files: Path, words: list[str], status: int, said: list[str]) -> None:
    done = key("check", *words, folder=files, status=status)
    assert done.stdout.splitlines() == said
    assert done.stderr == ""


def test_check_tells_of_a_suffix_that_is_none(files: Path) -> None:
    done = key("check", "star", folder=files)
    assert (
        "star:1: '*.dmz' is one identity of that name; for all with this ending add match=suffix (notice)"
        in done.stdout
    )


def test_check_does_not_hang_on_a_pipe_nor_follow_a_link(files: Path) -> None:
    os.mkfifo(files / "pipe", 0o400)
    (files / "link").symlink_to("plain")
    done = key("check", "pipe", "link", folder=files, status=1)
    assert "pipe: is no regular file" in done.stdout
    assert "link: is a symbolic link" in done.stdout


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    put_key(tmp_path / "a\x1b[2Jb", KEY)
    done = key("check", "a\x1b[2Jb", folder=tmp_path)
    assert "\x1b" not in done.stdout
    assert done.stdout.startswith("a\\x1b[2Jb: ok")


def test_help_names_the_actions() -> None:
    done = key("--help")
    assert re.findall(r"^    (\w+)", done.stdout, re.M) == ["new", "derive", "check"]
    assert "audisp: error" not in key("new", "--help").stderr
