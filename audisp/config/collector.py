"""audisp-collector.conf: whom a collector listens to, what it keeps, and the plugins behind it.

auditd.conf's keys that a collector has are read and bounded as there (`auditd_key`); its others are refused by name.
The defaults are those of a machine whose work is to collect, and are explained in docs/collector.md.
"""

# ruff: noqa: RUF009 - key() makes an attrs field, as attrs.field does
from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from audisp.config import auditd
from audisp.config.audispd import AudispdConf
from audisp.config.auditd import AuditdConf, Space
from audisp.config.files import AUDITD_CONF, OWN_CONF, read_checked
from audisp.config.grammar import ConfigErrors, Setting, parse, shown
from audisp.config.network import (
    PORT_MAX,
    Endpoint,
    TlsKeys,
    at,
    auditd_key,
    file,
    folder,
    listeners,
    span,
    tls_errors,
    transport,
)
from audisp.config.schema import build, key, keys, located, number
from audisp.config.values import Action, capabilities, size, stray
from audisp.errors import ConfigError
from audisp.parse.psk import MAX_EPOCH
from audisp.wire.native_messages import IDLE, MAX_IDLE, MAX_WINDOW, MIN_IDLE, WINDOW

NAME: Final = "audisp-collector.conf"

MAX_CONNECTIONS: Final = 1_000_000
"""Most connections that can be asked for: what a machine of our days could hold in memory."""

MAX_EPOCHS: Final = 8
"""Most live epochs, as in audisp.tls.keyring. Two are what a rotation needs."""

MIN_WINDOW: Final = 3 << 20
"""Smallest window in bytes that can be asked for: the heaviest frame of the native protocol, rounded up."""

MIN_STORE: Final = 64 << 20
"""Smallest bound of the store: what is removed is a segment, so there must be several."""

MIN_AGE: Final = 3600
"""Shortest age in seconds at which records are removed. What is younger has hardly been looked at."""

PLAIN_TCP: Final = "plain TCP: whoever reaches the port can write records, which are marked unauthenticated"
NO_LIBWRAP: Final = "has no effect: hosts.allow and hosts.deny are not read"

ACTIONS: Final = ("space_left_action", "admin_space_left_action", "disk_full_action", "disk_error_action")
"""Keys whose value is an action."""


def _bytes(words: tuple[str, ...]) -> int:
    """A bound of the store; 0: none."""
    value = size(words)
    if 0 < value < MIN_STORE:
        raise ValueError(f"{shown(words[0])} is out of range: 0, or {MIN_STORE >> 20}M and more")
    return value


def _epochs(words: tuple[str, ...]) -> tuple[int, ...]:
    found = tuple(dict.fromkeys(number(word, {"max": MAX_EPOCH}) for word in words))
    if len(found) > MAX_EPOCHS:
        raise ValueError(f"{len(found)} epochs, {MAX_EPOCHS} at most: a key whose epoch is over is taken off the list")
    return found


def _in_flight(default: int, high: int) -> Any:
    return key(default, read=functools.partial(size, low=MIN_WINDOW, high=high))


@attrs.frozen(kw_only=True)
class ListenConf(TlsKeys):
    """The network side: of audisp-collector.conf, and (`from_auditd`) of auditd.conf. Seconds, and bytes."""

    tcp_listen_port: int = key(60, min=1, max=PORT_MAX)
    listen: tuple[Endpoint, ...] = key((), read=listeners)
    """Addresses; empty: all of this host's. See `endpoints`."""
    tcp_listen_queue: int = auditd_key("tcp_listen_queue", 4096)
    tcp_max_per_addr: int = key(1024, min=1, max=PORT_MAX)
    tcp_client_ports: tuple[int, int] = auditd_key("tcp_client_ports")
    tcp_client_max_idle: int = auditd_key("tcp_client_max_idle")
    """Of the C programs' protocol. 0: for ever."""
    use_libwrap: bool = False
    transport: Literal["tcp", "tls"] = key("tls", read=transport)
    """tcp: nothing else than plain TCP."""
    plain: bool | None = None
    """With transport = tls: plain TCP is taken too. See `takes_plain`."""
    tls_allowed_clients: Path | None = auditd_key("tls_allowed_clients")
    tls_psk_master: Path | None = key(None, read=file)
    tls_psk_epochs: tuple[int, ...] = key((0,), read=_epochs)
    max_connections: int = key(12_000, min=1, max=MAX_CONNECTIONS)
    max_handshakes: int = key(2048, min=1, max=MAX_CONNECTIONS)
    """Connections that have not proved a key yet."""
    max_per_identity: int = key(4, min=1, max=PORT_MAX)
    max_bytes_in_flight: int = _in_flight(256 << 20, 1 << 40)
    """Received and not yet stored, packed and unpacked, of all connections together."""
    max_bytes_in_flight_per_host: int = _in_flight(WINDOW, MAX_WINDOW)
    """The window that a sender is told."""
    handshake_timeout: float = key(5.0, min=0.1, max=60)
    """From accept to the proof of a key, and for whatever a frame's rest may take."""
    idle_timeout: int = key(IDLE, min=MIN_IDLE, max=MAX_IDLE)
    """Of the native protocol, whose senders are told, and never silent for so long."""
    max_hosts: int = key(20_000, min=1, max=MAX_CONNECTIONS)
    """Identities of which there is anything in the store."""

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where to listen, each with its port. Empty: at every address, at tcp_listen_port."""
        return tuple(each.at(self.tcp_listen_port) for each in self.listen)

    @property
    def takes_plain(self) -> bool:
        """Whether plain TCP is taken."""
        return self.transport == "tcp" or bool(self.plain)


@attrs.frozen(kw_only=True)
class CollectorConf(ListenConf):
    """audisp-collector.conf. Sizes are bytes (K, M, G in the file), times are seconds; of the store, 0 is no bound."""

    store_dir: Path = key(Path("/var/log/audisp-collector"), read=folder)
    store_size: int = key(0, read=_bytes)
    store_size_per_host: int = key(0, read=_bytes)
    store_age: int = key(0, read=functools.partial(span, low=MIN_AGE))
    store_min_free: int = key(256 << 20, read=functools.partial(size))
    """With less than this free nothing is stored and nothing acknowledged: the disk counts as full."""
    log_group: int = auditd_key("log_group")
    """gid of the store's files."""
    space_left: Space = auditd_key("space_left", (1024, "MiB"))
    admin_space_left: Space = auditd_key("admin_space_left", (512, "MiB"))
    space_left_action: Action = auditd_key("space_left_action", Action("syslog"))
    admin_space_left_action: Action = auditd_key("admin_space_left_action", Action("syslog"))
    disk_full_action: Action = auditd_key("disk_full_action", Action("syslog"))
    disk_error_action: Action = auditd_key("disk_error_action", Action("syslog"))
    action_mail_acct: str = auditd_key("action_mail_acct")

    plugin_dir: Path = auditd_key("plugin_dir", Path("/etc/audit/collector.d"))
    q_depth: int = auditd_key("q_depth")
    overflow_action: Literal["ignore", "syslog", "suspend", "single", "halt"] = auditd_key("overflow_action")
    max_restarts: int = auditd_key("max_restarts")
    end_of_event_timeout: int = auditd_key("end_of_event_timeout")
    name_format: Literal["none", "hostname", "fqd", "numeric", "user"] = auditd_key("name_format")
    name: str | None = auditd_key("name")
    """Node of the collector's own records, with name_format = user."""
    priority_boost: int = auditd_key("priority_boost")
    report_interval: int = auditd_key("report_interval")
    runtime_dir: Path = key(Path("/run/audisp-collector"), read=folder)
    state_dir: Path = key(Path("/var/lib/audisp-collector"), read=folder)
    drain_timeout: float = key(10.0, min=0, max=3600)
    control: bool = True
    capabilities: tuple[str, ...] = key((), read=capabilities)

    def as_auditd(self) -> AuditdConf:
        """What the engine asks of auditd.conf, for the plugins behind the store: no log, no kernel."""
        both = {name: getattr(self, name) for name in _ENGINE}
        return AuditdConf(local_events=False, write_logs=False, log_format="raw", **both)

    def as_audispd(self) -> AudispdConf:
        """What the engine asks of audispd.conf. Its one source is the store."""
        return AudispdConf(
            source=(),
            runtime_dir=self.runtime_dir,
            state_dir=self.state_dir,
            spill_dir=self.state_dir / "spill",
            drain_timeout=self.drain_timeout,
            spill_min_free=self.store_min_free,
            control=self.control,
            enrich=(),
            capabilities=self.capabilities,
        )


_ENGINE: Final = (
    "log_group",
    "action_mail_acct",
    "plugin_dir",
    "q_depth",
    "overflow_action",
    "max_restarts",
    "end_of_event_timeout",
    "name_format",
    "name",
    "priority_boost",
    "report_interval",
)
"""Keys that go to the engine as they are."""

KEYS: Final = tuple(keys(CollectorConf))
"""Every key of audisp-collector.conf."""

_FOREIGN: Final = {name: "" for name in (*auditd.KEYS, *auditd.REMOVED) if name not in KEYS} | {
    "distribute_network": ": every record goes to the plugins",
    "enable_krb5": ": Kerberos is not spoken here, set transport = tls",
    "flush": ": what is acknowledged is on the disk",
    "local_events": ": records of this host are audispd's",
    "log_file": ": records are stored in store_dir",
    "max_log_file": ": store_size bounds the store",
    "num_logs": ": store_size and store_age bound the store",
    "verify_email": ": the account is taken as it stands",
}
"""Keys of auditd.conf that a collector does not have, and what is there instead."""


def from_auditd(conf: AuditdConf) -> ListenConf | None:
    """What auditd.conf says about listening, for the listener of audispd; None if it does not listen.

    As in auditd, plain TCP is what its transport = tcp asks for. Limits that auditd.conf has no key for are ours.
    Raises ConfigError for Kerberos. `listen_errors` finds what else is wrong.
    """
    if conf.tcp_listen_port is None:
        return None
    for name, asked in (("transport", conf.transport == "krb5"), ("enable_krb5", conf.enable_krb5)):
        if asked:
            raise ConfigError("Kerberos is not spoken here; set transport = tls", key=name)
    theirs = {name: getattr(conf, name) for name in keys(ListenConf) if name in auditd.KEYS}
    return ListenConf(**theirs)


def behind_auditd(conf: AuditdConf, own: AudispdConf) -> CollectorConf | None:
    """The whole network side of audispd: what auditd.conf says about listening, and audispd.conf about the store. None
    if it does not listen. Raises ConfigError for Kerberos.

    `space_left` and its like are told to the senders; what is to be done about them is the log's business.
    """
    listen = from_auditd(conf)
    if listen is None:
        return None
    nothing = Action("ignore")
    return CollectorConf(
        **{name: getattr(listen, name) for name in keys(ListenConf)},
        store_dir=own.store_dir or own.state_dir / "store",
        store_size=own.store_size,
        store_min_free=own.store_min_free,
        log_group=conf.log_group,
        space_left=conf.space_left,
        admin_space_left=conf.admin_space_left,
        space_left_action=nothing,
        admin_space_left_action=nothing,
        action_mail_acct=conf.action_mail_acct,
        state_dir=own.state_dir,
        runtime_dir=own.runtime_dir,
        drain_timeout=own.drain_timeout,
    )


def judge_listener(path: Path, conf: AuditdConf, *, allow_links: bool = False) -> list[str]:
    """Notices about the keys of auditd.conf that are about listening, read anew for the lines that they stand in.
    Raises ConfigErrors for what keeps us from listening as it says."""
    if conf.tcp_listen_port is None:
        return []
    settings, _ = parse(read_checked(path, AUDITD_CONF, allow_links=allow_links), path)
    last = {setting.key: setting for setting in settings}
    try:
        listen = from_auditd(conf)
    except ConfigError as problem:
        raise ConfigErrors([at(last, path, problem.key or "transport", problem.message)]) from problem
    assert listen is not None
    errors = list(listen_errors(listen, last, path))
    if errors:
        raise ConfigErrors(errors)
    found = []
    if listen.takes_plain:
        name = "transport" if "transport" in last else "tcp_listen_port"
        found.append((name, PLAIN_TCP))
    if "use_libwrap" in last and listen.use_libwrap:
        found.append(("use_libwrap", NO_LIBWRAP))
    return [f"{path}:{last[name].line}: {name}: {message}" for name, message in found]


def load(path: Path, *, allow_links: bool = False) -> tuple[CollectorConf, list[str]]:
    """audisp-collector.conf and notices about it. Raises ConfigErrors, also if there is no such file: the defaults
    name no key."""
    try:
        data = read_checked(path, OWN_CONF, allow_links=allow_links)
    except FileNotFoundError:
        raise ConfigErrors([ConfigError("there is no such file, so no key to listen with", path=path)]) from None
    except ConfigError as problem:
        raise ConfigErrors([problem]) from problem
    return read(data, path)


def read(data: bytes, path: Path) -> tuple[CollectorConf, list[str]]:
    """As `load`, from the file's content."""
    settings, errors = parse(data, path)
    conf, more = build(CollectorConf, settings, path, ignore=_FOREIGN)
    errors += more
    errors += [
        located(setting, f"is a key of auditd.conf that a collector does not have{_FOREIGN[setting.key]}", path)
        for setting in settings
        if setting.key in _FOREIGN
    ]
    last = {setting.key: setting for setting in settings}
    if conf is not None:
        errors += listen_errors(conf, last, path)
        errors += _cross(conf, last, path)
    if errors or conf is None:
        raise ConfigErrors(sorted(errors, key=lambda error: error.line or 0))
    return conf, _notices(conf, last, path)


def listen_errors(conf: ListenConf, last: Mapping[str, Setting], path: Path) -> Iterator[ConfigError]:
    """What is wrong with keys of the network side that are right each by itself.

    last: the setting that counts, of each key; for auditd.conf as well.
    """

    def error(name: str, message: str) -> ConfigError:
        return at(last, path, name, message)

    if len(set(conf.endpoints)) < len(conf.endpoints):
        yield error("listen", f"names one address twice: without a port it is {conf.tcp_listen_port}")
    if conf.max_bytes_in_flight < conf.max_bytes_in_flight_per_host:
        yield error("max_bytes_in_flight", "is less than max_bytes_in_flight_per_host")
    if conf.transport == "tcp":
        if conf.plain is False:
            yield error("plain", "no is against transport = tcp, which is plain TCP and nothing else")
        return
    yield from tls_errors(conf, last, path)
    if conf.tls_psk_master is not None:
        if conf.tls_allowed_clients is None:
            yield error(
                "tls_psk_master", "needs tls_allowed_clients: not everybody who has a derived key is to come in"
            )
        if conf.tls_psk_file is not None:
            yield error("tls_psk_master", "is set, and tls_psk_file too: take one of the two away")
    elif conf.tls_allowed_clients is None:
        if conf.tls_psk_file is None:
            # Never said, it is not the line of `transport` that has to be changed.
            name = "transport" if "transport" in last else "tls_allowed_clients"
            yield error(name, "there is no key: set tls_allowed_clients, or tls_psk_file and tls_psk_identity")
        elif conf.tls_psk_identity is None:
            yield error("tls_psk_file", "is set, and nobody who may use it: set tls_allowed_clients")


def _cross(conf: CollectorConf, last: Mapping[str, Setting], path: Path) -> Iterator[ConfigError]:
    left, admin, free = conf.space_left, conf.admin_space_left, conf.store_min_free
    if left[0] and admin[0] and left[1] == admin[1] and left[0] <= admin[0]:
        yield at(
            last, path, "space_left", f"{_spell(left)} must be more than admin_space_left, which is {_spell(admin)}"
        )
    for name, space in (("space_left", left), ("admin_space_left", admin)):
        if space[1] == "MiB" and space[0] and space[0] << 20 <= free:
            if name in last:
                yield at(last, path, name, f"{_spell(space)} must be more than store_min_free")
            else:
                yield at(last, path, "store_min_free", f"must be less than {name}, which is {_spell(space)}")
    if conf.store_size and conf.store_size_per_host > conf.store_size:
        yield at(last, path, "store_size_per_host", "is more than store_size")
    if conf.name_format == "user" and conf.name is None:
        yield at(last, path, "name_format", "user needs the key name")


def _spell(space: Space) -> str:
    return f"{space[0]}%" if space[1] == "%" else f"{space[0]} MiB"


def _notices(conf: CollectorConf, last: Mapping[str, Setting], path: Path) -> list[str]:
    """What is accepted and yet worth saying, as FILE:LINE: KEY: MESSAGE."""
    found = [
        (name, f"{shown(' '.join(stray(last[name].words)))} has no effect")
        for name in ACTIONS
        if name in last and stray(last[name].words)
    ]
    if conf.use_libwrap:
        found.append(("use_libwrap", NO_LIBWRAP))
    if conf.takes_plain:
        name = "transport" if conf.transport == "tcp" else "plain"
        found.append((name, PLAIN_TCP))
    if conf.transport == "tcp":
        found += [
            (name, "has no effect with transport = tcp") for name in KEYS if name.startswith("tls_") and name in last
        ]
    else:
        if conf.tls_allowed_clients is not None:
            found.append(("tls_psk_identity", "has no effect beside tls_allowed_clients"))
        if conf.tls_psk_master is None:
            found.append(("tls_psk_epochs", "has no effect without tls_psk_master"))
    if conf.name is not None and conf.name_format != "user":
        found.append(("name", f"has no effect with name_format = {conf.name_format}"))
    if conf.q_depth < auditd.LOW_Q_DEPTH:
        found.append(("q_depth", f"{conf.q_depth} is low; auditd advises {auditd.LOW_Q_DEPTH} or more"))
    return [f"{path}:{last[name].line}: {name}: {message}" for name, message in found if name in last]
