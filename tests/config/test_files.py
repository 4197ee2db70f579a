"""Checks of files: owner, mode, kind and links, for each kind of file, and the folders above code."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from audisp.config.files import (
    AUDITD_CONF,
    EXEC_MODES,
    MAX_FILE,
    OWN_CONF,
    PLUGIN_CONF,
    SHIPPED_CONF,
    FileKind,
    check_action,
    check_folders,
    check_program,
    owners,
    read_checked,
)
from audisp.errors import ConfigError
from tests.needs import needs

STRANGER = 12345
"""A uid that is neither root's nor ours."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"a = b\n")
    path.chmod(0o640)
    return path


@pytest.mark.parametrize("kind", [AUDITD_CONF, OWN_CONF, PLUGIN_CONF])
@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640, 0o644, 0o755])
def test_read(file: Path, kind: FileKind, mode: int) -> None:
    file.chmod(mode)
    assert read_checked(file, kind) == b"a = b\n"


@pytest.mark.parametrize(
    ("kind", "mode", "message"),
    [
        (AUDITD_CONF, 0o620, None),
        (AUDITD_CONF, 0o602, "can be written by everybody (mode 0602): chmod o-w"),
        (OWN_CONF, 0o620, "can be written by its group (mode 0620): chmod g-w,o-w"),
        (PLUGIN_CONF, 0o620, "can be written by its group"),
        (PLUGIN_CONF, 0o666, "can be written by its group and everybody (mode 0666)"),
    ],
)
def test_writable(file: Path, kind: FileKind, mode: int, message: str | None) -> None:
    file.chmod(mode)
    if message is None:
        assert read_checked(file, kind) == b"a = b\n"
        return
    with pytest.raises(ConfigError) as caught:
        read_checked(file, kind)
    assert message in str(caught.value)
    assert caught.value.path == file


def test_links(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("file")
    assert read_checked(link, PLUGIN_CONF) == b"a = b\n"
    assert read_checked(link, AUDITD_CONF, allow_links=True) == b"a = b\n"
    for kind in (AUDITD_CONF, OWN_CONF):
        with pytest.raises(ConfigError, match="is a symbolic link"):
            read_checked(link, kind)
    # What a link leads to is what is checked.
    file.chmod(0o666)
    with pytest.raises(ConfigError, match="can be written"):
        read_checked(link, PLUGIN_CONF)


def test_missing(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError):
        read_checked(tmp_path / "none", PLUGIN_CONF)
    with pytest.raises(FileNotFoundError):
        read_checked(tmp_path / "dangling", PLUGIN_CONF)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match="cannot be opened"):
        read_checked(tmp_path / "loop", PLUGIN_CONF)


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name, word in (("folder", "a folder"), ("pipe", "a named pipe"), ("socket", "a socket")):
            with pytest.raises(ConfigError, match=f"is not a regular file but {word}"):
                read_checked(tmp_path / name, PLUGIN_CONF)
    with pytest.raises(ConfigError, match="is not a regular file but a device"):
        read_checked("/dev/null", PLUGIN_CONF)


def test_size_is_bounded(file: Path) -> None:
    file.write_bytes(b"#" * MAX_FILE)
    assert len(read_checked(file, OWN_CONF)) == MAX_FILE
    file.write_bytes(b"#" * (MAX_FILE + 1))
    with pytest.raises(ConfigError, match="is longer than"):
        read_checked(file, OWN_CONF)


def test_relative_to_a_folder(file: Path) -> None:
    fd = os.open(file.parent, os.O_RDONLY)
    try:
        assert read_checked("file", OWN_CONF, dir_fd=fd, name=file) == b"a = b\n"
        file.chmod(0o666)
        with pytest.raises(ConfigError) as caught:
            read_checked("file", OWN_CONF, dir_fd=fd, name=file)
        assert caught.value.path == file
    finally:
        os.close(fd)


def test_no_descriptor_is_left_open(file: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    read_checked(file, OWN_CONF)
    file.chmod(0o666)
    for _ in range(3):
        with pytest.raises(ConfigError):
            read_checked(file, OWN_CONF)
        with pytest.raises(ConfigError):
            check_folders(file)
    assert len(os.listdir("/proc/self/fd")) == before


@needs("root")
def test_owner(file: Path) -> None:
    assert owners() == {0}
    os.chown(file, STRANGER, 0)
    for kind in (AUDITD_CONF, OWN_CONF, PLUGIN_CONF):
        with pytest.raises(ConfigError, match=f"is owned by uid {STRANGER}, it must be root"):
            read_checked(file, kind)


@needs("root")
def test_without_root_our_own_files_are_good_too(file: Path) -> None:
    file.parent.chmod(0o755)
    for above in file.parents:
        if above.is_relative_to(tempfile.gettempdir()) and above != Path(tempfile.gettempdir()):
            above.chmod(above.stat().st_mode | 0o011)
    file.chmod(0o644)
    os.seteuid(STRANGER)
    try:
        assert owners() == {0, STRANGER}
        assert read_checked(file, OWN_CONF) == b"a = b\n"
    finally:
        os.seteuid(0)
    os.chown(file, STRANGER, 0)
    os.seteuid(STRANGER)
    try:
        assert read_checked(file, OWN_CONF) == b"a = b\n"
    finally:
        os.seteuid(0)


@needs("root")
def test_what_comes_with_the_code_belongs_to_whom_the_code_belongs_to(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chown(file, STRANGER, 0)
    file.chmod(0o664)
    with pytest.raises(ConfigError, match="is owned by uid"):
        read_checked(file, SHIPPED_CONF)
    monkeypatch.setattr("audisp.config.files.__file__", str(file))
    assert read_checked(file, SHIPPED_CONF) == b"a = b\n"
    with pytest.raises(ConfigError, match="is owned by uid"):
        read_checked(file, PLUGIN_CONF)
    file.chmod(0o666)
    with pytest.raises(ConfigError, match="can be written by everybody"):
        read_checked(file, SHIPPED_CONF)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program"
    shutil.copy("/usr/bin/true", path)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("mode", [0o550, 0o750, 0o755, 0o555, 0o4755])
def test_program(program: Path, mode: int) -> None:
    program.chmod(mode)
    assert check_program(str(program), Path("x"), 3).st_ino == program.stat().st_ino


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (0o700, "has mode 0700; owner and group must be able to read and execute it"),
        (0o650, "has mode 0650"),
        (0o740, "has mode 0740"),
        (0o770, "can be written by its group"),
        (0o757, "can be written by everybody"),
    ],
)
def test_program_refused(program: Path, mode: int, message: str) -> None:
    program.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        check_program(str(program), Path("x"), 3)
    assert message in str(caught.value)
    assert str(caught.value).startswith("x:3: path: ")


def test_program_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        check_program(str(tmp_path / "none"), Path("x"))
    with pytest.raises(ConfigError, match="not a regular file but a folder"):
        check_program(str(tmp_path), Path("x"))


@needs("root")
def test_program_of_a_stranger(program: Path) -> None:
    os.chown(program, STRANGER, 0)
    with pytest.raises(ConfigError, match="is owned by uid"):
        check_program(str(program), Path("x"))
    with pytest.raises(ValueError, match="is owned by uid"):
        check_action(str(program))


@pytest.mark.parametrize("mode", [0o700, 0o711, 0o750, 0o751, 0o755, 0o775, 0o777, 0o555, 0o550, 0o500, 0o4755])
def test_action(program: Path, mode: int) -> None:
    program.chmod(mode)
    if mode & 0o777 in EXEC_MODES:
        assert check_action(str(program)) == program
        return
    with pytest.raises(ValueError, match=f"has mode {mode & 0o777:04o}, it must be one of"):
        check_action(str(program))


@pytest.fixture
def safe() -> Iterator[Path]:
    """A folder that nobody but us can reach into, from / down: not below /tmp."""
    home = Path.home()
    try:
        check_folders(home / "file")
    except ConfigError as problem:
        if "No such file" not in str(problem):
            pytest.skip(f"no safe folder for a test: {problem}")
    folder = Path(tempfile.mkdtemp(dir=home, prefix=".audisp-test-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def test_folders(safe: Path) -> None:
    code = safe / "code.py"
    code.write_text("")
    code.chmod(0o644)
    assert check_folders(code) == code.resolve()
    (safe / "deep").mkdir(mode=0o755)
    (safe / "deep" / "link.py").symlink_to("../code.py")
    (safe / "absolute.py").symlink_to(code)
    (safe / "up").symlink_to("deep/../deep")
    for path in (
        safe / "deep" / "link.py",
        safe / "absolute.py",
        safe / "up" / "link.py",
        safe / "deep" / ".." / "code.py",
    ):
        assert check_folders(path) == code.resolve()


def test_folders_others_can_write_to(safe: Path) -> None:
    (safe / "open").mkdir()
    code = safe / "open" / "code.py"
    code.write_text("")
    code.chmod(0o644)
    for mode in (0o777, 0o1777, 0o775, 0o757):
        (safe / "open").chmod(mode)
        with pytest.raises(ConfigError, match="can be written by") as caught:
            check_folders(code)
        assert caught.value.path == safe.resolve() / "open"
    (safe / "open").chmod(0o755)
    code.chmod(0o664)
    with pytest.raises(ConfigError, match="can be written by its group"):
        check_folders(code)
    # The folder that a link stands in counts as much as the one that it leads to.
    code.chmod(0o644)
    (safe / "open" / "link.py").symlink_to(code)
    (safe / "inner").symlink_to("open")
    (safe / "open").chmod(0o777)
    with pytest.raises(ConfigError, match="can be written by"):
        check_folders(safe / "inner" / "link.py")


def test_folders_below_tmp_are_never_safe(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("")
    with pytest.raises(ConfigError, match="can be written by"):
        check_folders("/tmp/code.py")


@needs("root")
def test_folders_of_a_stranger(safe: Path) -> None:
    (safe / "his").mkdir(mode=0o755)
    (safe / "his" / "code.py").write_text("")
    (safe / "his" / "code.py").chmod(0o644)
    os.chown(safe / "his", STRANGER, 0)
    with pytest.raises(ConfigError, match=f"his: is owned by uid {STRANGER}"):
        check_folders(safe / "his" / "code.py")
    os.chown(safe / "his", 0, 0)
    os.chown(safe / "his" / "code.py", STRANGER, 0)
    with pytest.raises(ConfigError, match=rf"code\.py: is owned by uid {STRANGER}"):
        check_folders(safe / "his" / "code.py")


def test_folders_odd_paths(safe: Path) -> None:
    with pytest.raises(ConfigError, match="is not an absolute path"):
        check_folders("code.py")
    with pytest.raises(ConfigError, match="No such file"):
        check_folders(safe / "none.py")
    with pytest.raises(ConfigError, match="is not a regular file but a folder"):
        check_folders(safe)
    (safe / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match="more than 40 symbolic links"):
        check_folders(safe / "loop")
    (safe / "here.py").symlink_to(".")
    for path in (safe / "here.py", safe / "..", Path("/")):
        with pytest.raises(ConfigError, match="is not a regular file but a folder"):
            check_folders(path)
    (safe / "file").write_text("")
    (safe / "file").chmod(0o644)
    with pytest.raises(ConfigError, match="is not a folder"):
        check_folders(safe / "file" / "code.py")
