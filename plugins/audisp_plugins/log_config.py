"""Settings of `log`: auditd.conf's names, ranges and defaults for what concerns the log."""

from __future__ import annotations

import difflib
import grp
from pathlib import Path
from typing import Final, Literal, Protocol

import attrs

from audisp.plugin import ConfigError

MEBIBYTE: Final = 1 << 20

Space = tuple[int, Literal["MiB", "%"]]
Flush = Literal["none", "incremental", "incremental_async", "data", "sync"]

AUDITD_LOG: Final = Path("/var/log/audit/audit.log")
"""auditd's own log file, unless auditd.conf says otherwise."""

MAX_NUM_LOGS: Final = 999
"""auditd's limit."""

MAX_MEBIBYTES: Final = 2**31 - 1
"""auditd keeps sizes in an int."""

_SPACE_ACTIONS: Final = ("ignore", "syslog", "rotate", "email", "exec", "suspend", "single")
ACTIONS: Final = {
    "max_log_file_action": ("ignore", "syslog", "exec", "suspend", "rotate", "keep_logs"),
    "space_left_action": _SPACE_ACTIONS,
    "admin_space_left_action": (*_SPACE_ACTIONS, "halt"),
    "disk_full_action": ("ignore", "syslog", "rotate", "exec", "suspend", "single", "halt"),
    "disk_error_action": ("ignore", "syslog", "exec", "suspend", "single", "halt"),
}
"""What each of auditd's occasions may cause (auditd.conf(5), upstream.md section 3)."""


@attrs.frozen
class Action:
    """What to do on an occasion. program: with name `exec`, and only then."""

    name: str
    program: Path | None = None


class ActionLike(Protocol):
    """What the dispatcher's own settings have for an action."""

    @property
    def name(self) -> str: ...

    @property
    def program(self) -> Path | None: ...


def to_action(given: str | ActionLike) -> Action:
    """An action from ``suspend`` or ``exec /path``, or from somebody else's object with name and program."""
    if not isinstance(given, str):
        return Action(given.name, given.program)
    words = tuple(given.split(" "))
    return read_action(words)


def read_action(words: tuple[str, ...]) -> Action:
    """An action from the words of a setting. Raises ValueError."""
    name = words[0].lower()
    if name != "exec":
        if len(words) > 1:
            raise ValueError(f"{name} takes nothing behind it, but there is {' '.join(words[1:])!r}")
        return Action(name)
    if len(words) != 2 or not words[1].startswith("/"):
        raise ValueError("exec needs the absolute path of one program behind it, without parameters")
    return Action(name, Path(words[1]))


def read_space(words: tuple[str, ...]) -> Space:
    """``75`` (MiB) or ``5%`` of the partition, at most 99%. Raises ValueError."""
    word = words[0] if len(words) == 1 else " ".join(words)
    digits = word.removesuffix("%")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
        raise ValueError(f"{word!r} is neither MiB in digits nor a share such as 5%")
    value = int(digits)
    if digits != word:
        if value > 99:
            raise ValueError(f"{word!r} is more than 99%")
        return value, "%"
    if value > MAX_MEBIBYTES:
        raise ValueError(f"{word!r} is more than {MAX_MEBIBYTES} MiB")
    return value, "MiB"


def read_group(words: tuple[str, ...]) -> int:
    """A group's number from its number or name. Raises ValueError."""
    word = " ".join(words)
    if word.isascii() and word.isdigit() and len(word) <= 10:
        return int(word)
    try:
        return grp.getgrnam(word).gr_gid
    except (KeyError, UnicodeEncodeError):
        near = difflib.get_close_matches(word, [group.gr_name for group in grp.getgrall()], 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"there is no group {word!r}{hint}") from None


IGNORE: Final = Action("ignore")
_ACTION: Final = {"read": read_action}
_SPACE: Final = {"read": read_space}


@attrs.frozen
class LogConfig:
    """Keys of `log`. The dispatcher builds one from auditd.conf; a plugin file may build others."""

    log_file: Path = AUDITD_LOG
    log_group: int = attrs.field(default=0, metadata={"read": read_group})
    """gid. 0: files are 0600 and 0400; else 0640 and 0440."""
    flush: Flush = "none"
    freq: int = 0
    """Records between two flushes, with the incremental ones."""
    num_logs: int = attrs.field(default=0, metadata={"max": MAX_NUM_LOGS})
    """Files kept with `rotate`, the current one included; below 2 nothing is rotated."""
    max_log_file: int = 0
    """MiB; 0: no limit."""
    max_log_file_action: Action = attrs.field(default=IGNORE, converter=to_action, metadata=_ACTION)
    space_left: Space = attrs.field(default=(0, "MiB"), metadata=_SPACE)
    admin_space_left: Space = attrs.field(default=(0, "MiB"), metadata=_SPACE)
    space_left_action: Action = attrs.field(default=IGNORE, converter=to_action, metadata=_ACTION)
    admin_space_left_action: Action = attrs.field(default=IGNORE, converter=to_action, metadata=_ACTION)
    disk_full_action: Action = attrs.field(default=IGNORE, converter=to_action, metadata=_ACTION)
    disk_error_action: Action = attrs.field(default=Action("syslog"), converter=to_action, metadata=_ACTION)
    lock: bool = True
    """Whether a lock file beside the log keeps a second writer away."""
    auditd_log: Path = attrs.field(default=AUDITD_LOG, metadata={"internal": True})
    """The file that only the owner of the stream may write; the dispatcher sets it when auditd.conf has another."""

    def __attrs_post_init__(self) -> None:
        for key, allowed in ACTIONS.items():
            action: Action = getattr(self, key)
            if action.name not in allowed:
                near = difflib.get_close_matches(action.name, allowed, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ConfigError(f"{action.name!r} is not one of {', '.join(allowed)}{hint}", key=key)
            if (action.name == "exec") != (action.program is not None):
                raise ConfigError("exec needs a program, and nothing else takes one", key=key)
        if not self.log_file.is_absolute():
            raise ConfigError(f"{str(self.log_file)!r} is not an absolute path", key="log_file")
        if self.flush.startswith("incremental") and self.freq < 1:
            raise ConfigError(f"flush = {self.flush} needs a freq of 1 or more", key="freq")
        if not 0 <= self.num_logs <= MAX_NUM_LOGS:
            raise ConfigError(f"{self.num_logs} is out of range: 0 to {MAX_NUM_LOGS}", key="num_logs")
        space, admin = self.space_left, self.admin_space_left
        if space[1] == admin[1] and space[0] <= admin[0] and admin[0]:
            raise ConfigError(
                f"{space[0]} must be more than admin_space_left, which is {admin[0]}: it is the earlier warning",
                key="space_left",
            )
