"""audisp-remote.conf: every key of the C program's, with its values and defaults, and our own beside them.

The C program's code is followed, not its manual (upstream.md section 4; verdicts confirmed with audisp-remote 3.0.9).
What an action means here is in docs/remote.md: its notice is given, and no record is given up.
"""

# ruff: noqa: RUF009 - key() makes an attrs field, as attrs.field does
from __future__ import annotations

import functools
import ipaddress
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from audisp.config.files import PATH_SHOWN, FileKind, owners, read_checked
from audisp.config.grammar import ConfigErrors, Setting, parse, shown
from audisp.config.network import (
    PORT_MAX,
    Endpoint,
    Network,
    TlsKeys,
    at,
    file,
    folder,
    networks,
    refused,
    servers,
    tls_errors,
    transport,
)
from audisp.config.schema import build, choice, key, keys, number, one, yes_no
from audisp.config.values import Action, size, stray
from audisp.errors import ConfigError

NAME: Final = "audisp-remote.conf"

REMOTE_CONF: Final = FileKind(links=True, forbidden=0o002)
"""The C program follows a link and lets a group write to the file."""

RECORD_BYTES: Final = 8970
"""Longest record (MAX_AUDIT_MESSAGE_LENGTH): what a record of queue_depth may need of the spool."""

SPOOL_SIZE: Final = 1 << 30
"""Smallest spool where spool_size is not set: three million records of an ordinary host even without compression, some
hours of a busy one."""

MIN_SPOOL: Final = 16 << 20
"""Smallest spool that can be asked for: two segments that are worth the name."""

EXEC_MODE: Final = 0o750
"""What owner and group must be able to do with an action's program, exactly; of the others only that they do not
write. audisp-remote looks at no other bits."""

RETRY_MAX: Final = 30
"""Longest wait between two attempts in seconds, unless the file says otherwise: a collector that was restarted has its
hosts back within half a minute, and 10,000 hosts that wait for one make 330 attempts a second."""

MAX_WAIT: Final = 86_400
"""Longest of our own times in seconds. A day: what waits longer is no longer forwarded but forgotten."""

_A: Final = ("ignore", "syslog", "exec", "warn_once_continue", "warn_once", "suspend", "single", "halt", "stop")
_ENDING: Final = (*_A, "reconnect")
_STARTUP: Final = ("ignore", "syslog", "warn_once_continue", "warn_once", "exec")

ACTIONS: Final = (
    "network_failure_action",
    "disk_low_action",
    "disk_full_action",
    "disk_error_action",
    "remote_ending_action",
    "generic_error_action",
    "generic_warning_action",
    "queue_error_action",
    "startup_failure_action",
    "overflow_action",
)
"""Keys whose value is an action."""

_KRB5: Final = ("krb5_principal", "krb5_client_name", "krb5_key_file")
_TLS_ONLY: Final = tuple(name for name in keys(TlsKeys) if name != "tls_auth")


def _action(words: tuple[str, ...], choices: Collection[str]) -> Action:
    """An action, `exec` with its program. Words too many are ignored, as audisp-remote does. Raises ValueError."""
    name = choice(words[0], choices)
    if name != "exec":
        return Action(name)
    if len(words) == 1:
        raise ValueError("exec needs the absolute path of a program behind it")
    return Action(name, check_action_program(words[1]))


def check_action_program(path: str) -> Path:
    """The program of an action, if audisp-remote would run it. Raises ValueError with the reason."""
    what = shown(path, PATH_SHOWN)
    if not path.startswith("/"):
        raise ValueError(f"{what} is not an absolute path")
    try:
        found = os.stat(path)
    except OSError as problem:
        raise ValueError(f"{what} cannot be used: {problem.strerror}") from problem
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{what} is not a regular file")
    if found.st_uid not in owners():
        raise ValueError(f"{what} is owned by uid {found.st_uid}, it must be root")
    mode = found.st_mode & 0o777
    if mode & 0o772 != EXEC_MODE:
        raise ValueError(f"{what} has mode {mode:04o}; it must be 0750, or 0755 (chmod 0750)")
    return Path(path)


def _act(default: str, choices: Collection[str] = _A) -> Any:
    return key(Action(default), read=functools.partial(_action, choices=choices))


def _local_port(words: tuple[str, ...]) -> int:
    word = one(words)
    return 0 if word.lower() == "any" else number(word, {"max": PORT_MAX})


def _format(words: tuple[str, ...]) -> str:
    word = choice(one(words), ("managed", "ascii"))
    if word == "ascii":
        raise refused("auditd reads such lines and throws them away; managed is what it keeps", word)
    return word


def _krb5(words: tuple[str, ...]) -> bool:
    if yes_no(one(words)):
        raise refused("Kerberos is not spoken here; take the line out, and set transport = tls", words[0])
    return False


@attrs.frozen(kw_only=True)
class RemoteConf(TlsKeys):
    """audisp-remote.conf. Times are seconds, sizes are bytes (K, M, G in the file)."""

    remote_server: tuple[Endpoint, ...] = key((), read=servers)
    """In the order in which they are to be tried; see `servers`. Never empty in a file that is used."""
    port: int = key(60, min=1, max=PORT_MAX)
    local_port: int = key(0, read=_local_port)
    """0: any."""
    transport: Literal["tcp", "tls"] = key("tcp", read=transport)
    mode: Literal["immediate", "forward"] = "immediate"
    """Both write to the spool; the word is taken for the C program's sake."""
    queue_file: Path = key(Path("/var/spool/audit/remote.log"), read=file)
    """The C program's queue: what it holds is taken over into the spool."""
    queue_depth: int = key(2048, min=1)
    """Records; the spool has room for at least as many of the longest, unless spool_size says otherwise."""
    format: Literal["managed"] = key("managed", read=_format)
    network_retry_time: int = key(1, min=1)
    """Between the second and the third attempt; doubles from then on, to network_retry_max."""
    max_tries_per_record: int = key(3, min=1)
    max_time_per_record: int = key(5, min=1)
    """For connecting, for the handshake, for an answer; and after this much failure network_failure_action is due."""
    heartbeat_timeout: int = 0
    """0: never (of the C programs' protocol)."""
    network_failure_action: Action = _act("stop")
    disk_low_action: Action = _act("ignore")
    disk_full_action: Action = _act("warn_once")
    disk_error_action: Action = _act("warn_once")
    remote_ending_action: Action = _act("reconnect", _ENDING)
    generic_error_action: Action = _act("syslog")
    generic_warning_action: Action = _act("syslog")
    queue_error_action: Action = _act("stop")
    startup_failure_action: Action = _act("warn_once_continue", _STARTUP)
    overflow_action: Action = _act(
        "syslog", ("ignore", "syslog", "suspend", "single", "halt", "drop_oldest", "drop_newest")
    )
    """When the spool is full."""
    enable_krb5: bool = key(False, read=_krb5)
    krb5_principal: str | None = None
    krb5_client_name: str | None = None
    krb5_key_file: str | None = None

    protocol: Literal["auto", "native", "rmw"] = "auto"
    failback_time: int = key(300, max=MAX_WAIT)
    """After this much on another server than the first, the ones before it are tried again. 0: not while it lasts."""
    network_retry_max: int | None = key(None, min=1, max=MAX_WAIT)
    """See `retry_max`."""
    home_network: tuple[Network, ...] = key((), read=networks)
    """Only while this host has an address in one of them is a server tried. Empty: anywhere."""
    spool_dir: Path = key(Path("/var/spool/audisp-remote"), read=folder)
    spool_size: int | None = key(None, read=functools.partial(size, low=MIN_SPOOL))
    """See `spool_bytes`."""
    spool_min_free: int = key(256 << 20, read=functools.partial(size))
    spool_sync: Literal["always", "interval"] = "always"
    spool_sync_interval: float = key(1.0, min=0.01, max=60)
    state_file: Path = key(Path("/run/audit/remote.state"), read=file)

    @property
    def servers(self) -> tuple[Endpoint, ...]:
        """The servers, each with its port."""
        return tuple(each.at(self.port) for each in self.remote_server)

    @property
    def retry_max(self) -> int:
        """Longest wait between two attempts, and how long the action `stop` stops."""
        return self.network_retry_max or max(RETRY_MAX, self.network_retry_time)

    @property
    def spool_bytes(self) -> int:
        """Bound of the spool."""
        return self.spool_size or max(SPOOL_SIZE, self.queue_depth * RECORD_BYTES)

    @property
    def speaks(self) -> Literal["auto", "native", "rmw"]:
        """`protocol`; without TLS there is nothing but rmw."""
        return self.protocol if self.transport == "tls" else "rmw"


def load(path: Path, *, used: bool = True) -> tuple[RemoteConf, list[str]]:
    """audisp-remote.conf and notices about it. Raises ConfigErrors, also if there is no such file.

    used: somebody forwards by it, so that it is an error if it names no server; otherwise that is a notice, because
    the file that distributions ship does not.
    """
    try:
        data = read_checked(path, REMOTE_CONF)
    except FileNotFoundError:
        raise ConfigErrors([ConfigError("there is no such file, so no server to send to", path=path)]) from None
    except ConfigError as problem:
        raise ConfigErrors([problem]) from problem
    return read(data, path, used=used)


def read(data: bytes, path: Path, *, used: bool = True) -> tuple[RemoteConf, list[str]]:
    """As `load`, from the file's content."""
    # Of its own file the C program, unlike auditd, takes the last line without a line end too.
    settings, errors = parse(data if data.endswith(b"\n") or not data else data + b"\n", path)
    conf, more = build(RemoteConf, settings, path)
    # `remote_server =` as it is shipped: one error, whether it is found by the grammar or by us.
    empty = next((error for error in errors if error.key == "remote_server"), None)
    errors = [error for error in errors if error is not empty] + more
    last = {setting.key: setting for setting in settings}
    missing = None
    if "remote_server" not in last:
        line = empty.line if empty else None
        missing = ConfigError("names no server to send to", path=path, line=line, key="remote_server")
    elif empty is not None:
        errors.append(empty)
    if missing and used:
        errors.append(missing)
    if conf is not None:
        errors += _cross(conf, last, path)
    if errors or conf is None:
        raise ConfigErrors(sorted(errors, key=lambda error: error.line or 0))
    return conf, [str(missing)] * bool(missing) + _notices(conf, last, path)


def _cross(conf: RemoteConf, last: Mapping[str, Setting], path: Path) -> Iterator[ConfigError]:
    """What is wrong with keys that are right each by itself."""
    if len(set(conf.servers)) < len(conf.servers):
        yield at(last, path, "remote_server", f"names one server twice: without a port it is {conf.port}")
    if conf.transport == "tls":
        for name, what in (("tls_psk_file", "the key's file"), ("tls_psk_identity", "whose key it is")):
            if getattr(conf, name) is None:
                yield at(last, path, "transport", f"tls needs {name}, {what}")
        yield from tls_errors(conf, last, path)
    elif conf.protocol == "native":
        yield at(last, path, "protocol", "native needs transport = tls")
    if conf.network_retry_max is not None and conf.network_retry_max < conf.network_retry_time:
        message = f"{conf.network_retry_max} is below network_retry_time ({conf.network_retry_time})"
        yield at(last, path, "network_retry_max", message)


def _notices(conf: RemoteConf, last: Mapping[str, Setting], path: Path) -> list[str]:
    """What is accepted and yet worth saying, as FILE:LINE: KEY: MESSAGE."""
    found = [
        (name, f"{shown(' '.join(stray(last[name].words)))} has no effect")
        for name in ACTIONS
        if name in last and stray(last[name].words)
    ]
    found += [(name, "has no effect: Kerberos is not spoken here") for name in _KRB5]
    if conf.transport == "tcp":
        found += [(name, "has no effect with transport = tcp") for name in (*_TLS_ONLY, "protocol")]
        if not all(_is_loopback(each.host) for each in conf.remote_server):
            found.append(
                (
                    "transport" if "transport" in last else "remote_server",
                    "tcp: nothing is encrypted, nobody is authenticated, and a record may arrive twice",
                )
            )
    if conf.spool_sync == "interval":
        found.append(
            ("spool_sync", f"a power failure loses what came in the last {conf.spool_sync_interval:g} s before it")
        )
    else:
        found.append(("spool_sync_interval", "has no effect with spool_sync = always"))
    if len(conf.remote_server) < 2:
        found.append(("failback_time", "has no effect with one server"))
    return [f"{path}:{last[name].line}: {name}: {message}" for name, message in found if name in last]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"


KEYS: Final = tuple(keys(RemoteConf))
"""Every key of audisp-remote.conf."""

UPSTREAM: Final = (
    *KEYS[KEYS.index("remote_server") : KEYS.index("protocol")],
    *keys(TlsKeys),
)
"""Those that the C program (4.2) knows."""
