"""Words of configuration values that more than one file uses: actions, sizes, capabilities."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

import attrs

from audisp.config.files import check_action
from audisp.config.grammar import nearest, shown
from audisp.config.schema import DIGITS, choice, one

SIZES: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
"""Suffixes of a size in bytes, powers of two."""

SIZE_MAX: Final = 1 << 50
"""Largest size in bytes (1 PiB): beyond any disk, and far from any overflow in what is added to it."""

CAPABILITIES: Final = (
    "cap_chown",
    "cap_dac_override",
    "cap_dac_read_search",
    "cap_fowner",
    "cap_fsetid",
    "cap_kill",
    "cap_setgid",
    "cap_setuid",
    "cap_setpcap",
    "cap_linux_immutable",
    "cap_net_bind_service",
    "cap_net_broadcast",
    "cap_net_admin",
    "cap_net_raw",
    "cap_ipc_lock",
    "cap_ipc_owner",
    "cap_sys_module",
    "cap_sys_rawio",
    "cap_sys_chroot",
    "cap_sys_ptrace",
    "cap_sys_pacct",
    "cap_sys_admin",
    "cap_sys_boot",
    "cap_sys_nice",
    "cap_sys_resource",
    "cap_sys_time",
    "cap_sys_tty_config",
    "cap_mknod",
    "cap_lease",
    "cap_audit_write",
    "cap_audit_control",
    "cap_setfcap",
    "cap_mac_override",
    "cap_mac_admin",
    "cap_syslog",
    "cap_wake_alarm",
    "cap_block_suspend",
    "cap_audit_read",
    "cap_perfmon",
    "cap_bpf",
    "cap_checkpoint_restore",
)
"""Names of the capabilities, at the index that is their number (linux/capability.h)."""


@attrs.frozen
class Action:
    """What to do when disk space or the disk fails. program: only with name `exec`."""

    name: str
    program: Path | None = None


def action(words: tuple[str, ...], choices: Collection[str]) -> Action:
    """An action of auditd.conf, `exec` with its program. Raises ValueError.

    Words too many are ignored, as auditd does; `stray` finds them for a notice.
    """
    name = choice(words[0], choices)
    if name != "exec":
        return Action(name)
    if len(words) == 1:
        raise ValueError("exec needs the absolute path of a program behind it")
    return Action(name, check_action(words[1]))


def stray(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words of an action that have no effect."""
    return words[2:] if words[0].lower() == "exec" else words[1:]


def size(words: tuple[str, ...], low: int = 0, high: int = SIZE_MAX) -> int:
    """A size in bytes: digits, and K, M or G for powers of 1024. Raises ValueError."""
    word = one(words)
    suffix = word[-1:].upper() if word[-1:].upper() in SIZES else ""
    digits = word[: len(word) - len(suffix)]
    if not (digits.isascii() and digits.isdigit() and len(digits) <= DIGITS):
        raise ValueError(f"{shown(word)} is not a size: digits, with K, M or G behind them if you like")
    value = int(digits) * SIZES[suffix]
    if not low <= value <= high:
        raise ValueError(f"{shown(word)} is out of range: {_plain(low)} to {_plain(high)}")
    return value


def _plain(value: int) -> str:
    for suffix in "GMK":
        if value and value % SIZES[suffix] == 0:
            return f"{value // SIZES[suffix]}{suffix}"
    return str(value)


def capabilities(words: tuple[str, ...]) -> tuple[str, ...]:
    """Capability names as `cap_x`, written with or without `cap_`, in any case; `none` alone is none at all."""
    if len(words) == 1 and words[0].lower() == "none":
        return ()
    found = []
    for word in words:
        name = "cap_" + word.lower().removeprefix("cap_")
        if name not in CAPABILITIES:
            raise ValueError(f"{shown(word)} is not a capability{nearest(name, CAPABILITIES)}")
        found.append(name)
    return tuple(dict.fromkeys(found))
