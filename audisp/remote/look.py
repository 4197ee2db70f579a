"""What `audisp status` says of a sender: the plugin `remote` by what it tells the dispatcher, the program audisp-remote
by its state file. Both use the same words (`state.about`).

The state file is data of another process: bounded, a regular file, of a trusted owner; what it says is shown, and
nothing is done because of it.
"""

from __future__ import annotations

import os
import pwd
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from audisp.config.files import owners
from audisp.config.grammar import ConfigErrors
from audisp.config.remote import NAME, load
from audisp.errors import ConfigError

PROGRAM: Final = "audisp-remote"
"""File name of a plugin's program: ours, or the C program of that name."""
PLUGIN: Final = "remote"
OPTION: Final = "--config"
DEFAULT: Final = Path("/etc/audit") / NAME
MAX_STATE: Final = 64 << 10
"""Bytes of a state file: ours has two thousand, the C program's a third of that."""
MAX_TEXT: Final = 300
"""Characters of one value that are shown: a reason why there is no connection is the longest."""
STALE: Final = 15.0
"""A state file is written every 5 seconds: three times that without one, and its sender hangs or is gone."""
NONE: Final = "none"


@attrs.frozen(kw_only=True)
class Sending:
    """What is known of one sender; None: it does not say, or there is none. error: why nothing is known.

    sent: records that a server has acknowledged to this process. waiting: records in its spool, unstored: those on
    their way there. lost, damaged: given up because the spool was full; lost by the disk. oldest_seconds: age of the
    oldest record that waits. state_seconds: age of the state file, and stale: it is too old to be believed.
    """

    server: str | None = None
    protocol: str | None = None
    cipher: str | None = None
    sent: int | None = None
    waiting: int | None = None
    unstored: int | None = None
    lost: int | None = None
    damaged: int | None = None
    known: int | None = None
    """Records that were read again after a crash, and had been stored."""
    oldest_seconds: float | None = None
    problem: str | None = None
    """Why there is no connection."""
    trouble: str | None = None
    """What the server said last, and did not take back."""
    held: str | None = None
    """Why it does not try to send."""
    spool_error: str | None = None
    state_file: str | None = None
    state_seconds: float | None = None
    stale: bool = False
    pid: int | None = None
    error: str | None = None


def add_senders(snapshot: dict[str, Any]) -> dict[str, Any]:
    """The snapshot, with a `sender` in each plugin that is one."""
    for plugin in snapshot["plugins"].values():
        found: Sending | None = None
        if plugin["kind"] == "child" and Path(plugin["program"]).name == PROGRAM:
            found = of_program(plugin.get("arguments", ()), plugin.get("user"), plugin["pids"])
        elif plugin["kind"] == "in-process" and plugin["program"] == PLUGIN:
            found = _sending(plugin["detail"]) if plugin["detail"] else Sending(error="the plugin is not open")
        if found is not None:
            plugin["sender"] = attrs.asdict(found)
    return snapshot


def config_of(arguments: Sequence[str]) -> Path:
    """The configuration file that an audisp-remote with these arguments reads; it runs in /."""
    named = DEFAULT
    for at, word in enumerate(arguments):
        if word == OPTION and at + 1 < len(arguments):
            named = Path(arguments[at + 1])
        elif word.startswith(f"{OPTION}="):
            named = Path(word.removeprefix(f"{OPTION}="))
    return Path("/") / named


def of_program(arguments: Sequence[str], user: str | None, pids: Sequence[int]) -> Sending:
    """What the state file of a child program says. user: whom it runs as, if the plugin's file says so."""
    try:
        path = load(config_of(arguments))[0].state_file
        text, age = read_state(path, owners() | _uid(user))
    except ConfigErrors as errors:
        more = f", and {len(errors.errors) - 1} more" if len(errors.errors) > 1 else ""
        return Sending(error=f"{errors.errors[0]}{more}")
    except ConfigError as error:
        return Sending(error=str(error))
    found = _sending(dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line))
    # One of an earlier process says nothing true of this one.
    stale = age > STALE or (found.pid is not None and bool(pids) and found.pid not in pids)
    return attrs.evolve(found, state_file=str(path), state_seconds=round(age, 1), stale=stale)


def _uid(user: str | None) -> frozenset[int]:
    if user is None:
        return frozenset()
    try:
        return frozenset((int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid,))
    except KeyError:
        return frozenset()


def read_state(path: Path, trusted: frozenset[int]) -> tuple[str, float]:
    """The text of a state file, and how many seconds ago it was written. Raises ConfigError."""
    try:
        # O_NONBLOCK: opening a named pipe would wait for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ConfigError("is not there: it does not run, or not for long enough (5 s)", path=path) from None
    except OSError as error:
        what = "is a symbolic link" if path.is_symlink() else f"cannot be opened: {error.strerror}"
        raise ConfigError(what, path=path) from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError("is no regular file", path=path)
        if found.st_uid not in trusted:
            raise ConfigError(f"is owned by uid {found.st_uid}, who may not say what is true here", path=path)
        if found.st_mode & 0o022:
            raise ConfigError(f"can be written by others (mode {stat.S_IMODE(found.st_mode):04o})", path=path)
        data = os.read(fd, MAX_STATE + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", path=path) from error
    finally:
        os.close(fd)
    if len(data) > MAX_STATE:
        raise ConfigError(f"is longer than {MAX_STATE} bytes", path=path)
    return data.decode("ascii", "backslashreplace"), max(0.0, time.time() - found.st_mtime)


def _sending(said: Mapping[str, str]) -> Sending:
    def word(key: str) -> str | None:
        value = said.get(key, NONE)[:MAX_TEXT]
        return None if value == NONE else value

    def count(key: str) -> int | None:
        value = said.get(key, "")
        return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else None

    try:
        oldest = float(said.get("oldest_age", NONE))
    except ValueError:
        oldest = None
    held = {
        "suspend": "suspended until SIGUSR2 (audisp resume)",
        "stopped": "stopped for a while by an action",
        "away": "no address of this host is in home_network",
    }
    waiting = count("waiting")
    return Sending(
        server=word("server"),
        protocol=word("protocol"),
        cipher=word("cipher"),
        sent=count("sent"),
        waiting=count("queue_length") if waiting is None else waiting,
        unstored=count("unstored"),
        lost=count("lost"),
        damaged=count("damaged"),
        known=count("known"),
        oldest_seconds=oldest,
        problem=word("problem"),
        trouble=word("trouble"),
        held=next((text for key, text in held.items() if said.get(key) == "yes"), None),
        spool_error=word("spool_error"),
        pid=count("pid"),
    )
