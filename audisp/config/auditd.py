"""auditd.conf: every key that auditd 4.2 knows, with its ranges, its built-in defaults and its cross-checks.

Where auditd's code and its manual disagree the code is followed (upstream.md section 3; docs/compatibility.md).
Keys that only matter to a collector are validated and kept, so that a file is judged as auditd judges it.
"""

# ruff: noqa: RUF009 - key() makes an attrs field, as attrs.field does
from __future__ import annotations

import functools
import grp
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from audisp.config.files import AUDITD_CONF, owners, read_checked
from audisp.config.grammar import ConfigErrors, Setting, nearest, parse, shown
from audisp.config.schema import DIGITS, build, key, keys, located, number, one
from audisp.config.values import Action, action, stray
from audisp.errors import ConfigError

Space = tuple[int, Literal["MiB", "%"]]

SHORTEST_FOLDER: Final = 4
"""auditd demands a folder name at least as long as /var (3.0.9, 4.2)."""

LOW_Q_DEPTH: Final = 512
"""auditd warns below this."""

REPORT_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "M": 30 * 86_400}
REPORT_MAX: Final = 40 * 86_400
REPORT_LONG: Final = 6 * 3600
"""auditd warns above this."""

REMOVED: Final = ("dispatcher", "disp_qos")
"""Keys of auditd 2 that auditd still takes, and ignores."""

ULONG_MAX: Final = 2**64 - 1
"""auditd's limit for sizes in MiB, an unsigned long."""

GID_MAX: Final = 2**32 - 2
"""Largest gid; the one above it means none."""

SENDMAIL: Final = "/usr/lib/sendmail"
"""What auditd sends mail with."""

_LOG: Final = ("ignore", "syslog", "suspend", "rotate", "keep_logs")
_SPACE: Final = ("ignore", "syslog", "rotate", "email", "exec", "suspend", "single")
_ADMIN: Final = (*_SPACE, "halt")
_FULL: Final = ("ignore", "syslog", "rotate", "exec", "suspend", "single", "halt")
_ERROR: Final = ("ignore", "syslog", "exec", "suspend", "single", "halt")
_ACTIONS: Final = ("space_left_action", "admin_space_left_action", "disk_full_action", "disk_error_action")


def _act(default: str, choices: tuple[str, ...]) -> Any:
    return key(Action(default), read=functools.partial(action, choices=choices))


def _full(words: tuple[str, ...]) -> Action:
    # auditd's table allows `exec` here and no word behind it, so that it can never be used; upstream.md section 3.
    return action((one(words),), _LOG)


def _space(words: tuple[str, ...]) -> Space:
    word = one(words)
    if not word.endswith("%"):
        return number(word, {"max": ULONG_MAX}), "MiB"
    try:
        return number(word[:-1], {"max": 99}), "%"
    except ValueError:
        raise ValueError(f"{shown(word)} is neither MiB in digits nor a share from 0% to 99%") from None


def _group(words: tuple[str, ...]) -> int:
    word = one(words)
    if word.isascii() and word.isdigit():
        return number(word, {"max": GID_MAX})
    try:
        return grp.getgrnam(word).gr_gid
    except (KeyError, UnicodeEncodeError):
        near = nearest(word, [entry.gr_name for entry in grp.getgrall()])
        raise ValueError(f"there is no group {shown(word)}{near}") from None


def _log_file(words: tuple[str, ...]) -> Path:
    word = one(words)
    folder, _, name = word.rpartition("/")
    if not word.startswith("/") or len(folder) < SHORTEST_FOLDER or not name:
        raise ValueError(f"{shown(word)} is not the full name of a file in a folder such as /var/log/audit")
    if not os.path.isdir(folder):
        raise ValueError(f"there is no folder {shown(folder)}: make one for root alone (mkdir -m 0700)")
    path = Path(word)
    try:
        found = path.lstat()
    except FileNotFoundError:
        return path
    except PermissionError:
        raise ValueError(f"{shown(word)} cannot be seen by uid {os.geteuid()}; ask as root") from None
    except OSError as problem:
        raise ValueError(f"{shown(word)} cannot be used: {problem.strerror}") from problem
    if stat.S_ISLNK(found.st_mode):
        raise ValueError(f"{shown(word)} is a symbolic link; the log is never written through one")
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{shown(word)} is not a regular file")
    if found.st_uid not in owners():
        raise ValueError(f"{shown(word)} is owned by uid {found.st_uid}, it must be root")
    return path


def _ports(words: tuple[str, ...]) -> tuple[int, int]:
    word = one(words)
    low, dash, high = word.partition("-")
    first = number(low, {"max": 65_535})
    last = number(high, {"max": 65_535}) if dash else first
    if last < first:
        raise ValueError(f"{shown(word)} ends before it begins")
    return first, last


def _report(words: tuple[str, ...]) -> int:
    word = one(words)
    unit = word[-1] if word[-1] in REPORT_UNITS else ""
    digits = word[: len(word) - len(unit)]
    if not (digits.isascii() and digits.isdigit() and len(digits) <= DIGITS):
        raise ValueError(f"{shown(word)} is not a number with one of s, m, h, d, M (months) behind it")
    value = int(digits) * REPORT_UNITS[unit]
    if value > REPORT_MAX:
        raise ValueError(f"{shown(word)} is more than 40 days")
    return value


def _mail(words: tuple[str, ...]) -> str:
    word = one(words)
    if word.startswith("-"):
        raise ValueError(f"{shown(word)} would be an option of the program that sends mail")
    return word


def _wrong_mail(word: str) -> str | None:
    """What auditd with verify_email = yes finds wrong, but for the look-up of the domain.

    That is done when mail is sent: no name server holds up a start (and for auditd a failed look-up is no error).
    """
    if len(word) < 2:
        return f"{shown(word)} is too short for an account"
    bad = [char for char in word if not (char.isascii() and (char.isalnum() or char in "@.-_"))]
    if bad:
        return f"{shown(word)} has {shown(bad[0])} in it; letters, digits, and @ . - _ are allowed"
    _, at, domain = word.partition("@")
    if at and "." not in domain:
        return f"{shown(word)} needs a full domain behind '@'"
    return None


def _absolute(words: tuple[str, ...]) -> Path:
    word = one(words)
    if not word.startswith("/"):
        raise ValueError(f"{shown(word)} is not an absolute path")
    return Path(word)


def _identity(words: tuple[str, ...]) -> str:
    word = one(words)
    if not (len(word) <= 255 and all(0x21 <= ord(char) <= 0x7E for char in word)):
        raise ValueError(f"{shown(word)} is not 1 to 255 printable ASCII characters")
    return word


@attrs.frozen
class AuditdConf:
    """auditd.conf. Keys, ranges and defaults are those built into auditd."""

    local_events: bool = True
    write_logs: bool = True
    log_file: Path = key(Path("/var/log/audit/audit.log"), read=_log_file)
    log_format: Literal["enriched", "raw", "nolog"] = "enriched"
    log_group: int = key(0, read=_group)
    """gid; a name is looked up when the file is read."""
    priority_boost: int = 4
    flush: Literal["none", "incremental", "incremental_async", "data", "sync"] = "none"
    freq: int = 0
    """Records between two flushes, with flush incremental or incremental_async."""
    num_logs: int = key(0, max=999)
    name_format: Literal["none", "hostname", "fqd", "numeric", "user"] = "none"
    name: str | None = None
    max_log_file: int = key(0, max=ULONG_MAX)
    """MiB."""
    max_log_file_action: Action = key(Action("ignore"), read=_full)
    space_left: Space = key((0, "MiB"), read=_space)
    admin_space_left: Space = key((0, "MiB"), read=_space)
    space_left_action: Action = _act("ignore", _SPACE)
    admin_space_left_action: Action = _act("ignore", _ADMIN)
    disk_full_action: Action = _act("ignore", _FULL)
    disk_error_action: Action = _act("syslog", _ERROR)
    verify_email: bool = True
    action_mail_acct: str = key("root", read=_mail)
    tcp_listen_port: int | None = key(None, min=1, max=65_535)
    """None: nobody is listened to."""
    tcp_listen_queue: int = key(5, min=1, max=65_535)
    tcp_max_per_addr: int = key(1, min=1, max=1024)
    use_libwrap: bool = True
    tcp_client_ports: tuple[int, int] = key((0, 65_535), read=_ports)
    tcp_client_max_idle: int = 0
    """Seconds, 0 = for ever."""
    transport: Literal["tcp", "tls", "krb5"] = "tcp"
    enable_krb5: bool = False
    krb5_principal: str = "auditd"
    krb5_key_file: Path = Path("/etc/audit/audit.key")
    tls_auth: Literal["psk"] = "psk"
    tls_crypto_profile: Literal["compatible", "system", "pqc"] = "compatible"
    tls_psk_file: Path | None = key(None, read=_absolute)
    tls_psk_identity: str | None = key(None, read=_identity)
    tls_allowed_clients: Path | None = key(None, read=_absolute)
    tls_cipher_suites: str | None = None
    tls_key_exchange: str | None = None
    tls_require_pqc: bool = False
    distribute_network: bool = False
    q_depth: int = key(2000, min=1, max=99_999)
    """Records; each plugin's queue gets this times 8,970 bytes."""
    overflow_action: Literal["ignore", "syslog", "suspend", "single", "halt"] = "syslog"
    max_restarts: int = 10
    plugin_dir: Path = key(Path("/etc/audit/plugins.d"), read=_absolute)
    end_of_event_timeout: int = 2
    """Seconds."""
    report_interval: int = key(0, read=_report)
    """Seconds, 0 = never."""


def load(path: Path, *, allow_links: bool = False) -> tuple[AuditdConf, list[str]]:
    """auditd.conf and notices about it. A missing file means the defaults, with a notice. Raises ConfigErrors."""
    try:
        data = read_checked(path, AUDITD_CONF, allow_links=allow_links)
    except FileNotFoundError:
        return AuditdConf(), [f"{path}: there is no such file, the built-in defaults are used"]
    except ConfigError as problem:
        raise ConfigErrors([problem]) from problem
    return read(data, path)


def read(data: bytes, path: Path) -> tuple[AuditdConf, list[str]]:
    """As `load`, from the file's content."""
    settings, errors = parse(data, path)
    conf, more = build(AuditdConf, settings, path, ignore=REMOVED)
    errors += more
    if conf is not None and b"\n" in data:
        # auditd makes these checks only if there was a line: an empty file is the defaults, one comment is an error.
        errors += _cross(conf, {setting.key: setting.line for setting in settings}, path)
    errors += _mails(settings, path)
    errors += _removed(settings, path)
    if errors or conf is None:
        raise ConfigErrors(sorted(errors, key=lambda error: error.line or 0))
    if conf.log_format == "nolog":
        conf = attrs.evolve(conf, write_logs=False)
    return conf, _notices(conf, settings, path)


def _cross(conf: AuditdConf, lines: Mapping[str, int], path: Path) -> Iterator[ConfigError]:
    """What is wrong with keys that are right each by itself."""

    def error(name: str, message: str) -> ConfigError:
        return ConfigError(message, path=path, line=lines.get(name), key=name)

    space, admin = conf.space_left, conf.admin_space_left
    if not (_share(space) or _share(admin)) and space[0] <= admin[0]:
        yield error("space_left", f"{_spell(space)} must be more than admin_space_left, which is {_spell(admin)}")
    if conf.flush in ("incremental", "incremental_async") and conf.freq == 0:
        yield error("flush", f"{conf.flush} needs freq, the number of records between two flushes")
    if conf.name_format == "user" and conf.name is None:
        yield error("name_format", "user needs the key name")


def _mails(settings: Iterable[Setting], path: Path) -> Iterator[ConfigError]:
    """verify_email governs the accounts that come after it."""
    verify = True
    for setting in settings:
        if setting.key == "verify_email":
            verify = setting.words[0].lower() != "no"
        elif setting.key == "action_mail_acct" and verify:
            wrong = _wrong_mail(setting.words[0])
            if wrong:
                yield ConfigError(wrong, path=path, line=setting.line, key=setting.key)


def _removed(settings: Iterable[Setting], path: Path) -> Iterator[ConfigError]:
    """Of a key that is ignored, too, auditd demands that it has one word."""
    for setting in settings:
        if setting.key in REMOVED and len(setting.words) > 1:
            yield located(
                setting, f"takes one value, but there is {shown(' '.join(setting.words[1:]))} behind it", path
            )


def _share(space: Space) -> bool:
    """True for a share of the disk; 0% counts as 0 MiB, as in auditd."""
    return space[1] == "%" and space[0] > 0


def _spell(space: Space) -> str:
    return f"{space[0]}%" if space[1] == "%" else f"{space[0]} MiB"


def _notices(conf: AuditdConf, settings: Iterable[Setting], path: Path) -> list[str]:
    """What is accepted and yet worth saying, as FILE:LINE: KEY: MESSAGE."""
    last = {setting.key: setting for setting in settings}
    found: list[tuple[str, str]] = [(name, "is no longer used, and ignored") for name in REMOVED]
    found += [
        (name, f"{shown(' '.join(stray(last[name].words)))} has no effect")
        for name in _ACTIONS
        if name in last and stray(last[name].words)
    ]
    if conf.log_format == "nolog":
        found.append(("log_format", "NOLOG is obsolete: set write_logs = no"))
    if conf.q_depth < LOW_Q_DEPTH:
        found.append(("q_depth", f"{conf.q_depth} is low; auditd advises {LOW_Q_DEPTH} or more"))
    if conf.report_interval > REPORT_LONG:
        found.append(("report_interval", "is longer than 6 hours"))
    if conf.freq and conf.flush not in ("incremental", "incremental_async"):
        found.append(("freq", f"has no effect with flush = {conf.flush}"))
    space, admin = conf.space_left, conf.admin_space_left
    if _share(space) and _share(admin) and space[0] <= admin[0]:
        found.append(("space_left", f"{_spell(space)} should be more than admin_space_left, which is {_spell(admin)}"))
    if conf.tcp_listen_port is None and (conf.transport != "tcp" or conf.enable_krb5):
        found += [(name, "has no effect without tcp_listen_port") for name in ("transport", "enable_krb5")]
    for name in ("space_left_action", "admin_space_left_action"):
        if getattr(conf, name).name == "email" and not os.access(SENDMAIL, os.X_OK):
            found.append((name, f"{SENDMAIL} is needed for email, and cannot be run"))
    return [f"{path}:{last[name].line}: {name}: {message}" for name, message in found if name in last]


KEYS: Final = tuple(keys(AuditdConf))
"""Every key of auditd.conf."""

__all__ = ["KEYS", "REMOVED", "Action", "AuditdConf", "Space", "load", "read"]
