"""Key files and lists on disk: what is refused before a byte is read, and what is written."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from audisp.errors import ConfigError
from audisp.parse.psk import MAX_KEY_FILE, Key, KeyText
from audisp.tls.keyfile import read_acl, read_key, write_key
from tests.needs import needs
from tests.tls.ends import KEY, OTHER
from tests.tls.files import put_acl, put_key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return put_key(tmp_path / "key", KEY)


def test_a_key(path: Path) -> None:
    assert read_key(path) == read_key(str(path)) == KeyText(KEY)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o440, 0o444, 0o000, 0o500, 0o4400, 0o1400])
def test_modes(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"key: has mode {mode:04o}, a key file must have 0400"):
        read_key(path)


def test_a_symbolic_link(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(ConfigError, match="link: is a symbolic link"):
        read_key(link)
    with pytest.raises(ConfigError, match="link: is a symbolic link"):
        read_acl(link)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        read_key(tmp_path)
    with pytest.raises(ConfigError, match="cannot be opened: No such file"):
        read_key(tmp_path / "gone")
    with pytest.raises(ConfigError, match="is no regular file"):
        read_key("/dev/null")


@pytest.mark.parametrize("read", [read_key, read_acl])
def test_a_named_pipe_does_not_hang(tmp_path: Path, read) -> None:  # type: ignore[no-untyped-def]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o400)
    with pytest.raises(ConfigError, match="pipe: is no regular file"):
        read(pipe)


@needs("root")
def test_owners(path: Path) -> None:
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigError, match="is owned by uid 12345, it must be root"):
        read_key(path)
    acl = put_acl(path.with_name("acl"), "a enabled")
    os.chown(acl, 12345, -1)
    with pytest.raises(ConfigError, match="is owned by uid 12345, it must be root"):
        read_acl(acl)


@needs("root")
def test_our_own_effective_user_may_own_it() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = put_key(Path(folder, "key"), KEY)
        os.chown(path, 12345, -1)
        os.chown(folder, 12345, -1)
        os.seteuid(12345)
        try:
            assert read_key(path) == KeyText(KEY)
        finally:
            os.seteuid(0)


@needs("root")
def test_systemds_credentials(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.chmod(0o440)
    with pytest.raises(ConfigError, match="has mode 0440"):
        read_key(path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent))
    assert read_key(path) == KeyText(KEY)
    path.chmod(0o444)
    with pytest.raises(ConfigError, match="has mode 0444"):
        read_key(path)
    path.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent.parent))
    with pytest.raises(ConfigError, match="has mode 0440"):
        read_key(path)


def test_too_long(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(KEY.reveal().hex().encode() + b"\n" + bytes(MAX_KEY_FILE))
    path.chmod(0o400)
    with pytest.raises(ConfigError, match=f"key: is longer than {MAX_KEY_FILE} bytes"):
        read_key(path)


def test_what_is_wrong_inside_is_named_and_the_key_is_not(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(KEY.reveal().hex().encode() + b"!\n")
    path.chmod(0o400)
    with pytest.raises(ConfigError, match=r"key: character 65 of the first line is no hexadecimal digit\Z") as caught:
        read_key(path)
    assert caught.value.__cause__ is None
    assert KEY.reveal().hex() not in repr(caught.getrepr(showlocals=False))


@pytest.mark.parametrize(("mode", "fine"), [(0o644, True), (0o400, True), (0o660, False), (0o602, False)])
def test_modes_of_lists(tmp_path: Path, mode: int, fine: bool) -> None:
    acl = put_acl(tmp_path / "acl", "a enabled")
    acl.chmod(mode)
    if fine:
        assert [entry.name for entry in read_acl(acl)[0].entries] == [b"a"]
    else:
        with pytest.raises(ConfigError, match=f"acl: can be written by others than its owner .mode {mode:04o}"):
            read_acl(acl)


def test_written_keys(tmp_path: Path) -> None:
    path = tmp_path / "new"
    old = os.umask(0)
    try:
        write_key(path, OTHER, b"web1#2")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert read_key(path) == KeyText(OTHER, b"web1#2")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="new: is there already"):
        write_key(path, KEY, None)
    assert path.read_bytes() == before


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "new").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="is there already"):
        write_key(tmp_path / "new", KEY, None)
    assert not (tmp_path / "elsewhere").exists()


def test_a_mode_that_cannot_be_had_leaves_no_file(tmp_path: Path) -> None:
    old = os.umask(0o777)
    try:
        with pytest.raises(ConfigError, match="it got the mode 0000"):
            write_key(tmp_path / "new", KEY, None)
    finally:
        os.umask(old)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match="cannot be made: No such file"):
        write_key(tmp_path / "no" / "new", KEY, None)


def test_nobody_sees_a_key_with_a_wider_mode(tmp_path: Path) -> None:
    """From the moment that it is there: a key file that is made and then narrowed would be seen here."""
    seen: set[int] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            for entry in os.scandir(tmp_path):
                try:
                    seen.add(stat.S_IMODE(entry.stat().st_mode))
                except FileNotFoundError:
                    continue

    watcher = threading.Thread(target=look)
    watcher.start()
    old = os.umask(0)
    try:
        for number in range(50):
            write_key(tmp_path / str(number), Key(bytes([number]) * 32), b"a")
    finally:
        os.umask(old)
        over.set()
        watcher.join()
    assert seen <= {0o400}
