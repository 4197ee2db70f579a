"""Starts a child program, and tells how it ended.

Invariants:
- The child is our direct child, and the pid that was spawned is the pid the program runs in.
- No Python runs between fork and exec (other threads of ours may hold locks then): a plain program is started by
  posix_spawn. Whatever posix_spawn cannot set is set by `execstep.py`, a fresh single-threaded interpreter in the same
  pid that then becomes the program.
- The program sees descriptors 0, 1 and 2 and no other, no signal blocked or ignored, an empty environment (as
  auditd gives it), ``/`` as working directory, our umask, and OOM score adjustment 0.
- It is the leader of a process group of its own, so that Ctrl-C in a terminal reaches the dispatcher alone and the
  drain can feed the child to the end. (auditd's children share its group, and ignore SIGINT instead.)
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import json
import os
import pwd
import signal
import stat
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import attrs
import trio

from audisp.dispatch.privileges import CAPABILITIES, capability_number
from audisp.errors import PluginError

EXEC_STEP: Final = Path(__file__).with_name("execstep.py")
NOT_STARTED: Final = (126, 127)
"""What the exec step exits with when a setting or the exec failed (126), or the program is gone (127), as shells do."""

_FOR_ALL_SIGNALS: Final = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


@attrs.frozen
class Ended:
    """How a child ended: exactly one of `code` and `signal` is set, or neither if the kernel no longer knew."""

    code: int | None
    signal: int | None
    description: str

    @property
    def clean(self) -> bool:
        """True for exit status 0."""
        return self.code == 0


class Launched:
    """A child process. Compared by identity. Owns its pidfd, which is closed when the child has been reaped."""

    __slots__ = ("_ended", "_lock", "_pidfd", "_stepped", "command", "pid")

    def __init__(self, pid: int, pidfd: int, command: tuple[str, ...], stepped: bool) -> None:
        self.pid = pid
        self.command = command
        self._pidfd = pidfd
        self._stepped = stepped
        self._ended: Ended | None = None
        self._lock = threading.Lock()  # a signal from another thread must never meet a closed or reused descriptor

    def __repr__(self) -> str:
        state = self._ended.description if self._ended else "running"
        return f"<Launched {self.command[0]} pid {self.pid}, {state}>"

    @property
    def pidfd(self) -> int:
        """The pidfd; -1 after the child has been reaped."""
        return self._pidfd

    @property
    def ended(self) -> Ended | None:
        """How it ended, once `wait` or `poll` has seen that."""
        return self._ended

    def signal(self, number: int) -> bool:
        """Send a signal to this very process, never to a later owner of the pid. False if it has ended.

        May be called from any thread. Raises PermissionError if the child runs as another `user` and we have given up
        cap_kill: see `privileges.FOR_USERS`.
        """
        with self._lock:
            if self._pidfd < 0:
                return False
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                return False
        return True

    def poll(self) -> Ended | None:
        """Reap the child if it has ended. Never blocks. To be called in the thread whose task waits, if one does."""
        with self._lock:
            if self._ended is not None:
                return self._ended
            try:
                result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                # Only possible when SIGCHLD is ignored or somebody else waited for any child at all.
                self._finish(Ended(None, None, "ended, status lost"))
                return self._ended
            if result is None:
                return None
            self._finish(_ended(result.si_code, result.si_status, self._stepped))
            return self._ended

    async def wait(self) -> Ended:
        """Wait until the child has ended, and reap it. A checkpoint; one task at a time may wait."""
        while True:
            ended = self.poll()
            if ended is not None:
                await trio.lowlevel.checkpoint()
                return ended
            with contextlib.suppress(trio.ClosedResourceError):  # reaped by poll meanwhile
                await trio.lowlevel.wait_readable(self._pidfd)

    def _finish(self, ended: Ended) -> None:
        self._ended = ended
        pidfd, self._pidfd = self._pidfd, -1
        # A task that waits for this descriptor must be woken before it closes: a closed one wakes nobody.
        with contextlib.suppress(RuntimeError):  # outside trio there is no such task
            trio.lowlevel.notify_closing(pidfd)
        os.close(pidfd)


def launch(
    command: Sequence[str],
    *,
    stdin_fd: int,
    stderr_fd: int,
    stdout: Literal["null", "inherit"] = "null",
    user: str | None = None,
    capabilities: Sequence[str] | None = None,
    nice: int | None = None,
    memory_max: int | None = None,
) -> Launched:
    """Start `command` (absolute path, then its arguments; argv[0] is the path). Quick; not a checkpoint.

    stdin_fd, stderr_fd: become its descriptors 0 and 2; they stay open here and belong to the caller.
    user: name or number; its groups are set and no_new_privs, so that nothing it runs can gain rights.
    capabilities: all that it may have, by name (``cap_net_admin``); an empty list: none. None: what root or the user
    has anyway. nice: absolute, -20 to 19. memory_max: bytes of private writable memory (see execstep.py).

    Raises PluginError with the reason when it cannot be started. With user, capabilities, nice or memory_max, or when
    our working directory is not ``/``, a failure after this call's own checks shows as a line on the child's stderr and
    exit status 126 or 127.
    """
    if not command or not command[0].startswith("/"):
        raise PluginError(f"{command[0] if command else 'command'}: must be an absolute path")
    for word in command:
        if "\0" in word:
            raise PluginError(f"{command[0]}: an argument contains a NUL byte")
    spec = _spec(command[0], user, capabilities, nice, memory_max)
    stepped = bool(spec) or not _at_root()
    argv = [*_step(spec), *command] if stepped else list(command)
    if stepped:
        _check_program(command[0])
    try:
        pid = _spawn(argv, stdin_fd, stderr_fd, stdout)
    except OSError as error:
        raise PluginError(_cannot(argv[0], error)) from error
    _reset_oom(pid)
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:  # too many descriptors: nobody could watch this child, so it must not live
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise PluginError(f"{command[0]}: cannot watch the process: {error.strerror}") from error
    return Launched(pid, pidfd, tuple(command), stepped)


def _spawn(argv: list[str], stdin_fd: int, stderr_fd: int, stdout: Literal["null", "inherit"]) -> int:
    with contextlib.ExitStack() as held:
        null = held.enter_context(_opened("/dev/null"))
        # A source of a dup2 must not itself be overwritten by an earlier one.
        actions: list[tuple[Any, ...]] = [
            (os.POSIX_SPAWN_DUP2, held.enter_context(_above_standard(stdin_fd)), 0),
            (os.POSIX_SPAWN_DUP2, held.enter_context(_above_standard(stderr_fd)), 2),
        ]
        if stdout == "null" or not _is_open(1):
            actions.append((os.POSIX_SPAWN_DUP2, null, 1))
        # Ours are all close-on-exec; these came from whoever started us.
        actions.extend((os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable())
        return os.posix_spawn(
            argv[0],
            argv,
            {},
            file_actions=actions,
            setpgroup=0,
            setsigmask=[],
            setsigdef=_FOR_ALL_SIGNALS,
        )


def _ended(code: int, status: int, stepped: bool) -> Ended:
    if code == os.CLD_EXITED:
        text = f"exit status {status}"
        if stepped and status in NOT_STARTED:
            text += " (perhaps it could not be started: see its last line)"
        return Ended(status, None, text)
    try:
        name = signal.Signals(status).name
    except ValueError:
        name = f"signal {status}"
    return Ended(None, status, f"killed by {name}" + (", core dumped" if code == os.CLD_DUMPED else ""))


def _spec(
    program: str,
    user: str | None,
    capabilities: Sequence[str] | None,
    nice: int | None,
    memory_max: int | None,
) -> dict[str, Any]:
    """The exec step's orders; empty if there is nothing to do."""
    spec: dict[str, Any] = {}
    if user is not None:
        entry = _user(program, user)
        spec["user"] = [entry.pw_uid, entry.pw_gid, sorted(os.getgrouplist(entry.pw_name, entry.pw_gid))]
    if capabilities is not None:
        numbers = {}
        for name in capabilities:
            number = capability_number(name)
            if number is None:
                near = difflib.get_close_matches(name.lower(), CAPABILITIES, 1)
                raise PluginError(
                    f"{program}: capabilities: {name!r} is no capability"
                    + (f"; did you mean {near[0]}?" if near else "")
                )
            numbers[name.lower()] = number
        spec["capabilities"] = sorted(set(numbers.values()))
    if nice is not None:
        if not -20 <= nice <= 19:
            raise PluginError(f"{program}: nice: {nice} is not between -20 and 19")
        spec["nice"] = nice
    if memory_max is not None:
        if memory_max <= 0:
            raise PluginError(f"{program}: memory_max: {memory_max} is not a size")
        spec["memory_max"] = memory_max
    return spec


def _user(program: str, user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(int(user)) if user.isascii() and user.isdigit() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        near = difflib.get_close_matches(user, [entry.pw_name for entry in pwd.getpwall()], 1)
        raise PluginError(
            f"{program}: user: there is no user {user!r}" + (f"; did you mean {near[0]}?" if near else "")
        ) from None


def _step(spec: dict[str, Any]) -> list[str]:
    if not sys.executable:
        raise PluginError("user, capabilities, nice, memory_max need a Python interpreter, and its path is unknown")
    # -I: no PYTHON* variables, no user site, no working directory in the path. -S: no site-packages.
    return [sys.executable, "-I", "-S", "-E", str(EXEC_STEP), json.dumps(spec, separators=(",", ":")), "--"]


def _at_root() -> bool:
    # posix_spawn cannot change the directory, and ours belongs to all our threads. The daemon runs in "/" anyway.
    try:
        return os.getcwd() == "/"
    except OSError:  # removed under us
        return False


def _check_program(program: str) -> None:
    # The exec itself is the judge; this only says at once what can be known at once.
    try:
        found = os.stat(program)
    except OSError as error:
        raise PluginError(_cannot(program, error)) from error
    if not stat.S_ISREG(found.st_mode):
        raise PluginError(f"{program}: cannot be started: not a regular file")
    if not found.st_mode & 0o111:
        raise PluginError(_cannot(program, PermissionError(errno.EACCES, os.strerror(errno.EACCES))))


def _cannot(program: str, error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.errno == errno.ENOEXEC:
        reason = "not a program the kernel can run (a script needs a first line such as #!/bin/sh)"
    elif error.errno in (errno.EMFILE, errno.ENFILE, errno.EBADF):
        reason = f"our descriptors: {reason}"
    elif error.errno == errno.ENOENT and os.path.lexists(program):
        reason = "the file exists, but the interpreter in its first line, or the target of the link, does not"
    elif error.errno == errno.EACCES:
        reason = "permission denied: the file is not executable, or lies on a file system mounted noexec"
    return f"{program}: cannot be started: {reason}"


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        # posix_spawn's dup2 onto 1 must not meet /dev/null already sitting at 0, 1 or 2.
        with _above_standard(fd) as high:
            yield high
    finally:
        os.close(fd)


@contextlib.contextmanager
def _above_standard(fd: int) -> Iterator[int]:
    """`fd`, or a copy of it above 2 for as long as the block lasts. dup2 clears close-on-exec on the target."""
    if fd > 2:
        yield fd
        return
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    try:
        yield high
    finally:
        os.close(high)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _inheritable() -> list[int]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2:
            with contextlib.suppress(OSError):  # closed since, such as the one that listed the folder
                if os.get_inheritable(fd):
                    found.append(fd)
    return found


def _reset_oom(pid: int) -> None:
    # auditd's later children inherit its -1000, by accident; a plugin that eats memory must be killable.
    try:
        with open("/proc/self/oom_score_adj", "rb") as file:
            if int(file.read()) >= 0:
                return
        fd = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return  # no /proc, or the child has changed its user already: the exec step has done it itself
    try:
        os.write(fd, b"0")
    except OSError:
        return
    finally:
        os.close(fd)
