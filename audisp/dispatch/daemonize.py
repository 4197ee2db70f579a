"""Becoming a daemon as auditd does: into the background or not, the surroundings, the pid file, the priorities.

The order for the program: `settle`, `Readiness` from `into_background` (or `in_foreground`), then everything that can
fail, then `ready`. All of it comes before trio.run and before any thread: a fork takes only the thread that calls it.

The process that asked for a daemon waits until the daemon is ready and exits 0 then; if the daemon fails, it exits with
the daemon's own code. So `systemctl start` (Type=forking) and scripts see what really happened.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import socket
import stat
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn

from audisp.errors import AudispError

EXIT_START: Final = 1
"""auditd(8), EXIT CODES: priority, background, netlink, pid file, plugins, host name, audit pid, and the like."""
EXIT_USAGE: Final = 2
"""Bad or too many arguments."""
EXIT_PRIVILEGE: Final = 4
"""Not privileged enough."""
EXIT_CONFIG: Final = 6
"""An error in the configuration."""

LOCK_MODE: Final = 0o600
"""Of a pid file that is also our lock. Whoever may open a file may lock it (flock(2)): one that others can read would
let any local user keep the audit daemon from starting."""
NOTICE_MODE: Final = 0o644
"""Of a pid file that only tells others our pid."""
OOM_NEVER: Final = -1000
"""oom_score_adj with which the kernel never picks a process (proc(5)); what auditd gives itself."""
LOCK_ATTEMPTS: Final = 10
"""Times that a pid file may vanish between our open and our lock; more means that something is at war with us."""
MAX_PID_TEXT: Final = 32
"""Bytes read of a pid file that somebody else holds, to name him."""


class StartError(AudispError):
    """The dispatcher cannot start. `code` is the exit code that auditd would give."""

    def __init__(self, message: str, code: int = EXIT_START) -> None:
        self.code = code
        super().__init__(message)


def settle() -> None:
    """Put the process where a daemon lives. Makes relative paths useless: resolve them first.

    Working directory ``/``; no write bit for others or the group in what we create (auditd: umask | 022); no signal
    blocked, and SIGCHLD not ignored, whatever started us (we reap our children ourselves); descriptors 0 to 2 open, so
    that no later socket can become somebody's stdout; no limit on file size and CPU time, as far as we may.
    """
    os.chdir("/")
    old = os.umask(0o077)
    os.umask(old | 0o022)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _open_standard()
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CPU):
        _, hard = resource.getrlimit(limit)
        try:
            resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except (ValueError, OSError):  # not ours to raise: go as high as the hard limit lets us
            resource.setrlimit(limit, (hard, hard))


def _open_standard() -> None:
    while True:
        fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        if fd > 2:
            os.close(fd)
            return
        os.set_inheritable(fd, True)  # the standard ones are meant to be inherited


class Readiness:
    """Tells whoever waits for the daemon how the start went. In the foreground nobody waits, and nothing happens."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    @property
    def background(self) -> bool:
        """True if this process is the daemon in the background and has not told yet."""
        return self._fd is not None

    def ready(self) -> None:
        """All is running: the parent exits 0, and the terminal is let go of (stderr becomes /dev/null). A service
        manager that waits for it (systemd's Type=notify) is told."""
        notify(b"READY=1")
        if self._fd is not None:
            _null_to(2)
            self._tell(0)

    def failed(self, code: int) -> None:
        """It did not work: the parent exits with `code`. stderr, still the caller's, has the reason."""
        self._tell(code)

    def _tell(self, code: int) -> None:
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        with contextlib.suppress(BrokenPipeError):  # the caller was killed: it need not know
            os.write(fd, bytes([code & 0xFF]))
        os.close(fd)


def notify(text: bytes) -> None:
    """Tell the service manager, if one wants to be told (sd_notify(3)). Whether it hears it is no concern of ours."""
    address = os.fsencode(os.environ.get("NOTIFY_SOCKET", ""))
    if not address.startswith((b"/", b"@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        # It never waits: the manager may be the one who waits for us.
        sock.setblocking(False)
        sock.sendto(text, b"\0" + address[1:] if address.startswith(b"@") else address)


def in_foreground() -> Readiness:
    """For -n and -f: this process stays what it is."""
    return Readiness(None)


def into_background() -> Readiness:
    """Fork; the child returns, as leader of a session of its own, stdin and stdout on /dev/null.

    The parent never returns: it waits, and exits with 0 when the child is `ready`, else with the child's code.
    Raises StartError if a second thread exists already or the fork fails.
    """
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise StartError(f"cannot go into the background: {threads} threads exist already")
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        pid = os.fork()
    except OSError as error:
        os.close(read)
        os.close(write)
        raise StartError(f"cannot go into the background: {error.strerror}") from error
    if pid:
        os.close(write)
        _await_child(pid, read)
    os.close(read)
    os.setsid()
    _null_to(0)
    _null_to(1)
    return Readiness(write)


def _await_child(pid: int, read: int) -> NoReturn:
    # Ctrl-C here ends the waiting, not the daemon, which has a session of its own by then.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    told = os.read(read, 1)
    if told:
        os._exit(told[0])
    _, status = os.waitpid(pid, 0)  # it let go of the pipe without a word: it is dead, or as good as
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        os.write(2, f"audispd: killed by {signal.Signals(-code).name} before it was ready\n".encode())
    os._exit(code if code > 0 else EXIT_START)


def _null_to(target: int) -> None:
    fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    if fd == target:
        os.set_inheritable(fd, True)
        return
    os.dup2(fd, target)
    os.close(fd)


class PidFile:
    """Our pid in a file for as long as the context lasts, gone afterwards; never through a symlink.

    With `lock` (mode 0600) one instance alone has it: a file that a dead daemon left is taken over; one that a live one
    holds raises StartError with its pid. Without (mode 0644) it tells others our pid, whatever it said before; what
    makes us the only one stands elsewhere. To be entered in the process that stays, after the fork.
    """

    def __init__(self, path: Path | str, *, lock: bool = True) -> None:
        self.path = Path(path)
        self._lock = lock
        self._mode = LOCK_MODE if lock else NOTICE_MODE
        self._text = b""
        self._fd = -1

    def __enter__(self) -> PidFile:
        self._fd = self._locked() if self._lock else self._open()
        self._text = b"%d\n" % os.getpid()
        try:
            os.fchmod(self._fd, self._mode)
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, self._text, 0)
        except OSError as error:
            self.close()
            raise StartError(f"{self.path}: cannot write the pid: {error.strerror}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the file, if it still is ours, and let go of the lock. May be called twice."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        with contextlib.suppress(OSError):  # the folder may be gone, or our right to it; the lock ends all the same
            ours = self._lock or os.pread(fd, MAX_PID_TEXT, 0) in (self._text, b"")
            if ours and _same(os.fstat(fd), self.path):
                os.unlink(self.path)
        os.close(fd)

    def _open(self) -> int:
        """The file, made if it is missing; a plain file of ours. Raises StartError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            fd = os.open(self.path, flags, self._mode)
        except OSError as error:
            raise StartError(f"{self.path}: cannot open the pid file: {error.strerror}") from error
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.geteuid()) or found.st_nlink > 1:
            os.close(fd)
            raise StartError(f"{self.path}: not a plain file of ours, so it is not used as pid file")
        return fd

    def _locked(self) -> int:
        for _ in range(LOCK_ATTEMPTS):
            fd = self._open()
            held = False
            try:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise StartError(f"{self.path}: another instance runs, {_holder(fd)}") from None
                # A daemon that ended between our open and our lock has removed the file we hold.
                if _same(os.fstat(fd), self.path):
                    held = True
                    return fd
            finally:
                if not held:
                    os.close(fd)
        raise StartError(f"{self.path}: the pid file keeps vanishing")


def _same(ours: os.stat_result, path: Path) -> bool:
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


def _holder(fd: int) -> str:
    text = os.pread(fd, MAX_PID_TEXT, 0).strip()
    return f"pid {int(text)}" if text.isdigit() else "which has not written its pid yet"


def boost_priority(by: int) -> None:
    """auditd's `priority_boost`: nice(-by), for us and all plugins to come. 0 does nothing. Raises StartError."""
    if by:
        try:
            os.nice(-by)
        except OSError as error:
            raise StartError(f"priority_boost = {by}: cannot raise the priority: {error.strerror}") from error


def avoid_oom_killer() -> str | None:
    """Ask the kernel never to kill us for memory, as auditd does; launch.py takes it back for children.

    Returns None, or why it could not be done, which is for the log and no reason not to run.
    """
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"%d" % OOM_NEVER)
        finally:
            os.close(fd)
    except OSError as error:
        return f"not exempt from the out-of-memory killer: {error.strerror} (needs cap_sys_resource)"
    return None
