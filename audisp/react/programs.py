"""Running one program: argv, no shell, nothing of our environment, an end to it whatever it does.

A program gets a process group of its own, which is killed as a whole at the deadline; one that has left its group by
then is on its own, as with every daemon.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
from collections.abc import Sequence
from typing import Final

import attrs
import trio

from audisp.config.files import check_action

SAID: Final = 400
"""Characters of what a program says when it fails, kept for the log."""
ENVIRONMENT: Final = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
"""What a program sees. PATH, because scripts of administrators call others; no word of ours is looked up in it."""
MAX_HEARD: Final = 64 * 1024
"""Bytes read of what a program says."""
KILL_WAIT: Final = 5.0
"""Seconds to wait for what was killed. What then still runs hangs in the kernel."""


@attrs.frozen
class Ran:
    """How it ended. said: the last of its standard error, where it was asked for."""

    ok: bool
    text: str
    said: str = ""
    output: bytes = b""


async def run(
    command: Sequence[str],
    *,
    stdin: bytes = b"",
    deadline: float,
    user: str | None = None,
    hear: bool = False,
    checked: bool = False,
) -> Ran:
    """Run the program to its end, or to `deadline` seconds. Never raises but Cancelled. A checkpoint.

    user: run as this user, without our groups. hear: keep standard output and error; only for programs of the system,
    as there is no bound to what one writes. checked: the administrator's own program, of which owner and mode are
    looked at once more, as auditd does when it is about to run one.
    """
    # Files in memory, and no pipes: whatever a program leaves running behind it, nobody waits for its end.
    heard = [os.memfd_create(name) for name in ("output", "error")] if hear else []
    output, error = heard or (subprocess.DEVNULL, subprocess.DEVNULL)
    try:
        if checked:
            check_action(command[0])
        entry = pwd.getpwnam(user) if user is not None else None
        with trio.move_on_after(deadline):
            done = await trio.run_process(
                list(command),
                stdin=stdin,
                stdout=output,
                stderr=error,
                check=False,
                env=ENVIRONMENT,
                cwd="/",
                process_group=0,
                deliver_cancel=_end,
                user=entry.pw_uid if entry else None,
                group=entry.pw_gid if entry else None,
                extra_groups=[] if entry else None,
            )
            told, said = (os.pread(fd, MAX_HEARD, 0) for fd in heard) if heard else (b"", b"")
            text = said.decode("utf-8", "replace").strip()[-SAID:]
            return Ran(done.returncode == 0, _how(command[0], done.returncode), text, told)
        return Ran(False, f"{command[0]}: killed after {deadline:g} s")
    except ValueError as problem:
        return Ran(False, str(problem))
    except KeyError:
        return Ran(False, f"{command[0]}: there is no user {user}")
    except OSError as problem:
        return Ran(False, f"{command[0]}: {problem.strerror or problem}")
    finally:
        for fd in heard:
            os.close(fd)


async def _end(process: trio.Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with trio.move_on_after(KILL_WAIT) as waiting:
        waiting.shield = True
        await process.wait()


def _how(program: str, status: int) -> str:
    if status == 0:
        return f"{program}: done"
    return f"{program}: " + (f"exit status {status}" if status > 0 else f"killed by signal {-status}")
