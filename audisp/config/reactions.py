"""reactions.conf: what the HIDS may do, to whom never, and how often. Read by the reactor, which trusts nobody else.

The defaults do nothing: `dry_run` is on, and of the kinds only `notify` is there. docs/reactions.md explains the keys.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from pathlib import Path
from typing import Any, Final

import attrs

from audisp.config.files import OWN_CONF, check_action, read_checked
from audisp.config.grammar import ConfigErrors, Setting, nearest, parse, shown
from audisp.config.schema import build, choice, key, keys, number, one
from audisp.errors import ConfigError

NAME: Final = "reactions.conf"

LEVELS: Final = ("informational", "low", "medium", "high", "critical")
"""Of rules, as Sigma has them, the least first."""
USUAL: Final = ("high", "critical")
ACT_LEVELS: Final = ("medium", "high", "critical")
"""For what touches a process, a session, an account or an address. What a `low` rule finds happens on every host."""
KINDS: Final = (
    "notify",
    "kill_process",
    "freeze_process",
    "end_session",
    "lock_account",
    "block_address",
    "run_command",
)
"""Everything that can be done. Each is a key, whose value is the levels of the rules that may cause it."""
ON_COLLECTOR: Final = ("notify", "run_command")
"""What a collector can do: the processes, sessions, accounts and addresses in its events are other hosts'."""

UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "M": 30 * 86400}
"""Suffixes of a time, as in upstream's ids.conf."""
MAX_TIME: Final = 500 * 86400
"""Longest block or lock: upstream's bound. Nothing we do is for ever, so that a mistake ends by itself."""
MAX_FREEZE: Final = 86400
"""Longest freeze. A stopped process holds what it holds: locks, connections, memory."""
MAX_AGE: Final = 60
"""Seconds. The process, session or address of an older event may be somebody else's by now."""
MAX_PER_HOUR: Final = 1000
"""Most acts in an hour that can be asked for: what the journal keeps in memory, and more than anybody means."""
MAX_DEADLINE: Final = 300.0
MAX_SPARED: Final = 1000
"""Most networks, accounts, programs and groups named. They are gone through for every request."""
NETWORK_BITS: Final = 8
"""A network of fewer bits is a typing error: it would be a 256th of the internet."""
MAIL: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,63}(?:@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}))?")
"""A local user or an address. No dash before it: it is an argument of sendmail."""
WEBHOOK: Final = re.compile(
    r"https://(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[1-9][0-9]{0,4})?"
    r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%/-]{0,400})?(?:\?[A-Za-z0-9._~!$&'()*+,;=:@%/?-]{0,400})?"
)
ACCOUNT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\$?")
PROGRAMS: Final = (
    "/sbin/init",
    "/usr/sbin/init",
    "/lib/systemd/systemd",
    "/usr/lib/systemd/systemd",
    "/usr/lib/systemd/systemd-logind",
    "/usr/sbin/sshd",
    "/usr/sbin/auditd",
    "/usr/bin/dbus-daemon",
)
"""Programs whose loss costs the host, or the way in: never killed nor frozen, in addition to spare_programs."""
GROUPS: Final = ("sudo", "wheel", "admin")


def _levels(allowed: tuple[str, ...], words: tuple[str, ...]) -> tuple[str, ...]:
    if words == ("never",):
        return ()
    return tuple(dict.fromkeys(choice(word, (*allowed, *(("never",) if len(words) == 1 else ()))) for word in words))


def time(words: tuple[str, ...], low: int = 1, high: int = MAX_TIME) -> int:
    """Seconds, from a number with one of UNITS or none. Raises ValueError."""
    word = one(words)
    unit = word[-1:] if word[-1:] in UNITS else ""
    value = number(word.removesuffix(unit), {"max": high}) * UNITS.get(unit, 1)
    if not low <= value <= high:
        raise ValueError(f"{shown(word)} is out of range: {low} to {high} seconds")
    return value


def _network(words: tuple[str, ...]) -> str:
    word = one(words)
    try:
        found = ipaddress.ip_network(word)
    except ValueError:
        try:
            meant = ipaddress.ip_network(word, strict=False)
        except ValueError:
            raise ValueError(f"{shown(word)} is no address and no network, as 192.0.2.0/24") from None
        raise ValueError(f"{shown(word)} has bits behind its prefix (did you mean '{meant}'?)") from None
    if isinstance(found, ipaddress.IPv6Network) and found.network_address.ipv4_mapped is not None:
        raise ValueError(f"{shown(word)} is an IPv4 network in IPv6 words: write it as IPv4")
    if found.prefixlen < NETWORK_BITS:
        raise ValueError(f"{shown(word)} is too much: a prefix of {NETWORK_BITS} bits at least")
    return str(found)


def _account(words: tuple[str, ...]) -> str:
    if not ACCOUNT.fullmatch(one(words)):
        raise ValueError(f"{shown(words[0])} is no name of an account or a group")
    return words[0]


def _path(words: tuple[str, ...]) -> str:
    word = one(words)
    if not word.startswith("/") or "/../" in f"{word}/":
        raise ValueError(f"{shown(word)} is not an absolute path")
    return word


def _command(words: tuple[str, ...]) -> tuple[str, ...]:
    check_action(words[0])
    return words


def _mail(words: tuple[str, ...]) -> str:
    if not MAIL.fullmatch(one(words)):
        raise ValueError(f"{shown(words[0])} is not a user name or a mail address")
    return words[0]


def _webhook(words: tuple[str, ...]) -> str:
    word = one(words)
    if not word.startswith("https://"):
        raise ValueError(f"{shown(word)} must begin with https://")
    if not WEBHOOK.fullmatch(word):
        raise ValueError(f"{shown(word)} is not https://HOST[:PORT]/PATH, without a user and a fragment")
    return word


def _kind(*default: str) -> Any:
    return key(default, read=functools.partial(_levels, ACT_LEVELS))


@attrs.frozen(kw_only=True)
class ReactionsConf:
    """reactions.conf. Times are seconds. Of a kind, the levels of rules that may cause it; empty: it is never done."""

    dry_run: bool = True
    notify: tuple[str, ...] = key(USUAL, read=functools.partial(_levels, LEVELS))
    kill_process: tuple[str, ...] = _kind()
    freeze_process: tuple[str, ...] = _kind()
    end_session: tuple[str, ...] = _kind()
    lock_account: tuple[str, ...] = _kind()
    block_address: tuple[str, ...] = _kind()
    run_command: tuple[str, ...] = _kind()

    spare_addresses: tuple[str, ...] = key((), read=_network, repeat=True)
    spare_accounts: tuple[str, ...] = key((), read=_account, repeat=True)
    spare_programs: tuple[str, ...] = key((), read=_path, repeat=True)
    admin_groups: tuple[str, ...] = key(GROUPS, read=lambda words: tuple(_account((word,)) for word in words))
    """Where their members are logged in from is never blocked."""
    act_on_root: bool = False
    """Whether processes of uid 0 may be killed and frozen. Its account and sessions never are touched."""

    block_time: int = key(12 * 3600, read=time)
    lock_time: int = key(20 * 60, read=time)
    freeze_time: int = key(600, read=functools.partial(time, high=MAX_FREEZE))
    command_time: int = key(0, read=time)
    """After which undo_command runs."""
    max_age: int = key(MAX_AGE, min=1, max=MAX_AGE)

    network_namespace: str | None = key(None, read=_path)
    """The network namespace (a file as /run/netns/NAME) whose addresses are blocked; None: the one it is started in."""
    per_target: int = key(3, min=1, max=MAX_PER_HOUR)
    per_hour: int = key(20, min=1, max=MAX_PER_HOUR)
    """Acts of all kinds but notify. One more trips the breaker."""
    notices_per_hour: int = key(60, min=1, max=MAX_PER_HOUR)

    mail_to: str | None = key(None, read=_mail)
    sendmail: str = key("/usr/lib/sendmail", read=_path)
    notify_command: tuple[str, ...] = key((), read=_command)
    webhook: str | None = key(None, read=_webhook)
    webhook_ca: str | None = key(None, read=_path)
    """Certificates that the webhook's must come from; else the system's."""
    webhook_user: str = key("nobody", read=_account)
    command: tuple[str, ...] = key((), read=_command)
    undo_command: tuple[str, ...] = key((), read=_command)
    deadline: float = key(10.0, min=0.1, max=MAX_DEADLINE)
    """For every program that is started, and for the webhook."""

    def levels(self, kind: str) -> tuple[str, ...]:
        """The levels whose rules may cause this kind."""
        found: tuple[str, ...] = getattr(self, kind)
        return found

    def __attrs_post_init__(self) -> None:
        for name in ("spare_addresses", "spare_accounts", "spare_programs", "admin_groups"):
            if len(getattr(self, name)) > MAX_SPARED:
                raise ConfigError(f"{MAX_SPARED} at most", key=name)
        if self.run_command and not self.command:
            raise ConfigError("needs a program: set command", key="run_command")
        if self.undo_command and not self.command:
            raise ConfigError("undoes command, and there is none", key="undo_command")
        if self.command_time and not self.undo_command:
            raise ConfigError("is when undo_command runs, and there is none", key="command_time")
        if self.undo_command and not self.command_time:
            raise ConfigError("needs a time after which it runs: set command_time", key="undo_command")
        if self.webhook_ca and not self.webhook:
            raise ConfigError("is for webhook, and there is none", key="webhook_ca")


KEYS: Final = tuple(keys(ReactionsConf))
"""All keys of reactions.conf."""


def read(path: Path, *, collector: bool = False) -> ReactionsConf:
    """The settings of this file. Raises FileNotFoundError, ConfigError (ConfigErrors for several).

    collector: the events are other hosts', so that only the kinds ON_COLLECTOR may be there.
    """
    return from_bytes(read_checked(path, OWN_CONF), path, collector=collector)


def from_bytes(data: bytes, path: Path, *, collector: bool = False) -> ReactionsConf:
    """As `read`, of what is in memory."""
    settings, errors = parse(data, path)
    built, more = build(ReactionsConf, settings, path)
    errors += more
    if collector:
        errors += [each for setting in settings if (each := _foreign(setting, path)) is not None]
    if errors:
        raise errors[0] if len(errors) == 1 else ConfigErrors(errors)
    assert built is not None
    return built


def _foreign(setting: Setting, path: Path) -> ConfigError | None:
    """The error of a kind that a collector cannot do."""
    if setting.key not in KINDS or setting.key in ON_COLLECTOR or setting.words == ("never",):
        return None
    kinds = ", ".join(ON_COLLECTOR)
    message = f"cannot be done on a collector, whose events are other hosts': only {kinds}"
    return ConfigError(message, path=setting.file or path, line=setting.line, key=setting.key)


def kind(word: str) -> str:
    """The kind of this name. Raises ValueError with the nearest one."""
    if word in KINDS:
        return word
    raise ValueError(f"{shown(word)} is no reaction{nearest(word, KINDS)}")
