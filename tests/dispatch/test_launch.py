"""Children as they really come out: what they see in /proc, whom they run as, how their end is told."""

from __future__ import annotations

import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from audisp.dispatch.execstep import main as exec_step_main
from audisp.dispatch.launch import EXEC_STEP, Launched, launch
from audisp.errors import PluginError
from tests.needs import needs

SHOW = """#!/bin/sh
cat /proc/self/status; ls -l /proc/$$/fd; echo "cwd: $(pwd -P)"; echo "umask: $(umask)"
echo "env: $(tr '\\0' ' ' </proc/$$/environ)"; echo "oom: $(cat /proc/$$/oom_score_adj)"
echo "comm: $(cat /proc/$$/comm)"
echo "pid: $$"; echo "argv: $(tr '\\0' '|' </proc/$$/cmdline)"; echo "pgrp: $(cut -d' ' -f5 /proc/$$/stat)"
echo "data: $(grep 'data size' /proc/$$/limits)"
echo "on stderr" >&2
"""
DEADLINE = 20.0


@pytest.fixture
def show(tmp_path: Path) -> str:
    """A script that prints all a child can know about itself."""
    folder = tmp_path.parents[1]
    for part in (tmp_path, tmp_path.parent, folder):
        part.chmod(0o755)  # the user of some tests must reach it
    path = tmp_path / "show-all"
    path.write_text(SHOW)
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def at_root() -> Iterator[None]:
    """Run in "/", as the daemon does, so that plain programs are spawned directly."""
    before = os.getcwd()
    os.chdir("/")
    yield
    os.chdir(before)


async def run(command: tuple[str, ...], **options: Any) -> tuple[Launched, str, str, str]:
    """The child, its stdout (captured through our own descriptor 1), its stderr, how it ended."""
    mine, theirs = socket.socketpair()
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    saved = os.dup(1)
    try:
        os.dup2(out_write, 1)
        child = launch(command, stdin_fd=theirs.fileno(), stderr_fd=err_write, stdout="inherit", **options)
    finally:
        os.dup2(saved, 1, inheritable=False)
        for fd in (saved, out_write, err_write):
            os.close(fd)
        theirs.close()
    with trio.fail_after(DEADLINE), mine:
        out, err = await _read(out_read), await _read(err_read)
        ended = await child.wait()
    return child, out, err, ended.description


async def _read(fd: int) -> str:
    parts = []
    async with trio.lowlevel.FdStream(fd) as stream:
        async for part in stream:
            parts.append(bytes(part))
    return b"".join(parts).decode()


def seen(text: str, key: str) -> str:
    """The value that the script printed behind `key`."""
    found = re.search(rf"^{key}:[ \t]*(.*)$", text, re.M)
    assert found, text
    return found[1]


def what_proc_says(pid: int) -> tuple[str, bytes, int]:
    """Name, command line and parent of a process."""
    folder = Path(f"/proc/{pid}")
    fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
    return (folder / "comm").read_text(), (folder / "cmdline").read_bytes(), int(fields[1])


@pytest.mark.parametrize("stepped", [False, True])
async def test_a_child_inherits_nothing(show: str, at_root: None, stepped: bool) -> None:
    # What must not leak: a blocked and an ignored signal, a descriptor that somebody gave us inheritable, variables.
    stray = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(stray, True)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.environ["LEAK"] = "secret"
    try:
        child, out, err, ended = await run((show, "one", "two words"), **({"nice": 3} if stepped else {}))
    finally:
        del os.environ["LEAK"]
        signal.signal(signal.SIGHUP, ignored)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(stray)
    assert ended == "exit status 0"
    assert err == "on stderr\n"
    assert int(seen(out, "SigBlk"), 16) == 0
    # 32 and 33 are libc's own (no program can name them): glibc's posix_spawn leaves them ignored in every child.
    assert int(seen(out, "SigIgn"), 16) & ~(0b11 << 31) == 0
    # ls -l of the shell's own descriptors (in no pipeline, or it would have a pipe for it): 0, 1, 2; dash keeps its
    # script open as 10 or so (its own doing).
    open_ones = {int(found[1]): found[2] for found in re.finditer(r"^l[-rwx]+ .* (\d+) -> (.*)$", out, re.M)}
    assert {fd for fd, target in open_ones.items() if target != show} == {0, 1, 2}
    assert open_ones[0].startswith("socket:")
    assert seen(out, "cwd") == "/"
    # dash sets PWD for its own children; the initial environment is what environ shows.
    assert seen(out, "env") == ""
    assert int(seen(out, "oom")) == 0
    assert seen(out, "comm") == "show-all"
    assert int(seen(out, "pid")) == child.pid == int(seen(out, "pgrp"))
    assert seen(out, "argv") == f"/bin/sh|{show}|one|two words|"
    assert int(seen(out, "PPid")) == child.pid  # /proc/self is the cat
    mask = os.umask(0)
    os.umask(mask)
    assert int(seen(out, "umask"), 8) == mask


async def test_it_has_its_own_name_at_once(at_root: None) -> None:
    mine, theirs = socket.socketpair()
    with mine, theirs:
        child = launch(("/bin/cat",), stdin_fd=theirs.fileno(), stderr_fd=2)
        comm, cmdline, parent = what_proc_says(child.pid)
        assert (comm, cmdline, parent) == ("cat\n", b"/bin/cat\0", os.getpid())
        assert os.readlink(f"/proc/{child.pid}/fd/1") == "/dev/null"
        assert child.poll() is None
        theirs.close()
        mine.close()
        with trio.fail_after(DEADLINE):
            assert (await child.wait()).clean
    assert child.pidfd == -1
    assert child.signal(signal.SIGTERM) is False
    assert (await child.wait()).code == 0


async def test_killed_is_told_by_name() -> None:
    mine, theirs = socket.socketpair()
    with mine, theirs:
        child = launch(("/bin/cat",), stdin_fd=theirs.fileno(), stderr_fd=2)
        sent: list[bool] = []
        thread = threading.Thread(target=lambda: sent.append(child.signal(signal.SIGKILL)))
        thread.start()
        with trio.fail_after(DEADLINE):
            ended = await child.wait()
        thread.join()
    assert sent == [True]
    assert (ended.code, ended.signal, ended.description) == (None, signal.SIGKILL, "killed by SIGKILL")
    assert not ended.clean


async def test_exit_status_is_told(at_root: None) -> None:
    _, _, _, ended = await run(("/bin/sh", "-c", "exit 3"))
    assert ended == "exit status 3"


def test_low_descriptors_as_sources(at_root: None) -> None:
    """stdin from our 2 and stderr to our 0 must not overwrite one another."""
    script = (
        "import os, sys; sys.path[:0] = [sys.argv[1]]\n"
        "from audisp.dispatch.launch import launch\n"
        "os.chdir('/')\n"
        "child = launch(('/bin/sh', '-c', 'cat; echo bad >&2'), stdin_fd=2, stderr_fd=0, stdout='inherit')\n"
        "import select; select.select([child.pidfd], [], [], 20)\n"
        "print(child.poll().description)\n"
    )
    in_read, in_write = os.pipe()
    err_read, err_write = os.pipe()
    os.write(in_write, b"through two\n")
    os.close(in_write)
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script, root], stdin=err_write, stdout=subprocess.PIPE, stderr=in_read, timeout=60
    )
    os.close(in_read)
    os.close(err_write)
    with os.fdopen(err_read, "rb") as file:
        assert file.read() == b"bad\n"
    assert done.stdout == b"through two\nexit status 0\n"


def test_a_missing_program_is_told_at_once(tmp_path: Path, at_root: None) -> None:
    with pytest.raises(PluginError, match=r"/nowhere/plugin: cannot be started: No such file"):
        launch(("/nowhere/plugin",), stdin_fd=0, stderr_fd=2)
    with pytest.raises(PluginError, match=r"/nowhere/plugin: cannot be started: No such file"):
        launch(("/nowhere/plugin",), stdin_fd=0, stderr_fd=2, nice=1)
    data = tmp_path / "data"
    data.write_text("hello")
    with pytest.raises(PluginError, match="not executable"):
        launch((str(data),), stdin_fd=0, stderr_fd=2)
    data.chmod(0o755)
    with pytest.raises(PluginError, match="first line"):
        launch((str(data),), stdin_fd=0, stderr_fd=2)
    data.write_text("#!/nowhere/sh\n")
    with pytest.raises(PluginError, match="interpreter in its first line"):
        launch((str(data),), stdin_fd=0, stderr_fd=2)
    with pytest.raises(PluginError, match="not a regular file"):
        launch((str(tmp_path),), stdin_fd=0, stderr_fd=2, nice=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"command": ("cat",)}, "absolute path"),
        ({"command": ()}, "absolute path"),
        ({"command": ("/bin/cat", "a\0b")}, "NUL"),
        ({"user": "rooot"}, "no user 'rooot'; did you mean root?"),
        ({"user": "99999999999999999999"}, "no user"),
        ({"capabilities": ["cap_net_admim"]}, "did you mean cap_net_admin?"),
        ({"nice": 20}, "not between -20 and 19"),
        ({"memory_max": 0}, "not a size"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginError, match=re.escape(message)):
        launch(**{"command": ("/bin/cat",), "stdin_fd": 0, "stderr_fd": 2, **options})


async def test_nice_and_memory(show: str) -> None:
    _, out, _, ended = await run((show,), nice=7, memory_max=256 << 20)
    assert ended == "exit status 0"
    assert re.search(rf"{256 << 20}\s+{256 << 20}", seen(out, "data"))
    _, out, _, _ = await run(("/bin/sh", "-c", "nice"), nice=7)
    assert out == "7\n"


async def test_memory_max_holds(at_root: None) -> None:
    hog = "import sys; sys.stderr.write('started\\n'); data = bytearray(512 << 20)"
    _, _, err, ended = await run((sys.executable, "-I", "-S", "-c", hog), memory_max=128 << 20)
    assert err.startswith("started\n")
    assert "MemoryError" in err
    assert ended == "exit status 1"


@needs("root")
async def test_user_without_capabilities(show: str) -> None:
    _, out, _, ended = await run((show,), user="nobody")
    assert ended == "exit status 0"
    assert set(seen(out, "Uid").split()) == {"65534"}
    assert set(seen(out, "Gid").split()) == {"65534"}
    assert set(seen(out, "Groups").split()) == {"65534"}
    assert seen(out, "NoNewPrivs") == "1"
    for key in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(seen(out, key), 16) == 0, key


@needs("root")
async def test_user_with_a_capability(show: str) -> None:
    _, out, _, ended = await run((show,), user="65534", capabilities=["CAP_NET_BIND_SERVICE", "cap_syslog"])
    assert ended == "exit status 0"
    mask = 1 << 10 | 1 << 34
    for key in ("CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"):
        assert int(seen(out, key), 16) == mask, key
    assert set(seen(out, "Uid").split()) == {"65534"}
    assert seen(out, "NoNewPrivs") == "1"


@needs("root")
@pytest.mark.parametrize(("names", "mask"), [((), 0), (("cap_audit_read",), 1 << 37)])
async def test_root_with_fewer_capabilities(show: str, names: tuple[str, ...], mask: int) -> None:
    child, out, _, ended = await run((show,), capabilities=names)
    assert ended == "exit status 0"
    assert seen(out, "Uid").split()[0] == "0"
    for key in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(seen(out, key), 16) == mask, key
    assert int(seen(out, "pid")) == child.pid  # the same pid, although a step came between


@needs("root")
async def test_a_failing_step_says_so(tmp_path: Path) -> None:
    """Gone between our look and the exec: the step's own report. A script whose folder the user may not enter."""
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    program = hidden / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    _, _, err, ended = await run((str(program),), user="nobody")
    assert err == f"{program}: cannot be started: Permission denied\n"
    assert ended.startswith("exit status 126 (perhaps it could not be started")


def test_the_step_alone(capfd: pytest.CaptureFixture[str]) -> None:
    """Run as its file is run, with bad orders."""
    for argv, status, text in (
        (["{}", "--", "/nowhere/program"], 127, "/nowhere/program: cannot be started: No such file or directory"),
        (["{", "--", "/bin/true"], 126, "/bin/true: cannot be started: SPEC: "),
        (["{}"], 126, "exec step: cannot be started: wants SPEC"),
        (['{"memory_max":1e99}', "--", "/bin/true"], 126, "/bin/true: cannot be started: "),
        (['{"nice":5}', "--", "/bin/true"], 0, ""),
    ):
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-E", str(EXEC_STEP), *argv], stderr=subprocess.PIPE, timeout=60
        )
        assert done.returncode == status
        assert done.stderr.decode().startswith(text)
        assert done.stderr.count(b"\n") <= 1
    assert callable(exec_step_main)


async def test_no_descriptor_is_left_behind(at_root: None) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    _, _, _, _ = await run(("/bin/true",))
    before = count()
    for _ in range(5):
        await run(("/bin/true",))
        with pytest.raises(PluginError):
            launch(("/nowhere",), stdin_fd=0, stderr_fd=2)
    assert count() == before


def test_poll_without_trio(at_root: None) -> None:
    child = launch(("/bin/true",), stdin_fd=0, stderr_fd=2)
    assert select.select([child.pidfd], [], [], DEADLINE)[0]
    ended = child.poll()
    assert ended is not None
    assert ended.clean
    assert child.poll() is ended
    assert "exit status 0" in repr(child)


async def test_poll_beside_a_waiting_task(at_root: None) -> None:
    """The task that waits is woken, whoever reaps the child."""
    child = launch(("/bin/sleep", "1000"), stdin_fd=0, stderr_fd=2)
    seen_by_task = []

    async def wait() -> None:
        seen_by_task.append(await child.wait())

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert child.signal(signal.SIGTERM)
            while child.poll() is None:
                os.sched_yield()  # never lets the task run: this reaps it first
    assert [ended.description for ended in seen_by_task] == ["killed by SIGTERM"]


def test_reaped_by_somebody_else(at_root: None) -> None:
    child = launch(("/bin/true",), stdin_fd=0, stderr_fd=2)
    os.waitpid(child.pid, 0)
    ended = child.poll()
    assert ended is not None
    assert (ended.code, ended.signal, ended.clean, ended.description) == (None, None, False, "ended, status lost")


def test_without_descriptors(at_root: None) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        with pytest.raises(PluginError, match="our descriptors: Too many open files"):
            launch(("/bin/true",), stdin_fd=0, stderr_fd=2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    with pytest.raises(PluginError, match="our descriptors: Bad file descriptor"):
        launch(("/bin/true",), stdin_fd=9_999, stderr_fd=2)
