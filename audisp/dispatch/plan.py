"""What to run: options and configuration files, read and judged as a whole before anything starts."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final, Literal

import attrs

from audisp.config import audispd, auditd, plugins
from audisp.config.grammar import ConfigErrors
from audisp.config.plugins import PluginConf
from audisp.errors import ConfigError
from audisp.sources.contract import SourceSpec, parse_source

CONF_DIR: Final = Path("/etc/audit")
"""auditd's own default for -c."""
RECORD_SLOT: Final = 8_970
"""Bytes that auditd sets aside per queued record (MAX_AUDIT_MESSAGE_LENGTH); q_depth counts in these."""
OBSERVE_QUEUE_DEPTH: Final = 2_000
"""q_depth of --observe, which reads no auditd.conf: auditd's default."""
LOG: Final = "log"
"""Name of the plugin that writes auditd's own log."""

Enable = Literal["enable", "disable", "nochange"]


@attrs.frozen
class Options:
    """What the command line says. conf_dir None: no /etc/audit is read (--observe)."""

    conf_dir: Path | None = CONF_DIR
    foreground: bool = False
    no_fork: bool = False
    allow_links: bool = False
    enable: Enable = "enable"
    observe: bool = False
    sources: tuple[str, ...] = ()
    plugin_dir: Path | None = None
    runtime_dir: Path | None = None


@attrs.frozen
class Plan:
    """A whole configuration. plugins: active ones alone. notices: lines for the log. errors: of files left out."""

    options: Options
    auditd: auditd.AuditdConf
    own: audispd.AudispdConf
    plugins: tuple[PluginConf, ...]
    sources: tuple[SourceSpec, ...]
    node: bytes | None
    notices: tuple[str, ...] = ()
    errors: tuple[ConfigError, ...] = ()

    @property
    def owner(self) -> bool:
        """We are the audit daemon."""
        return any(spec.type == "netlink" for spec in self.sources)

    @property
    def writes_log(self) -> bool:
        """We write auditd's log file, as auditd does in the background."""
        return self.owner and self.auditd.write_logs and not self.options.foreground and not self.options.observe

    @property
    def queue_bytes(self) -> int:
        """Default bound of each plugin's queue."""
        return self.auditd.q_depth * RECORD_SLOT


def load(options: Options) -> Plan:
    """Read everything. Raises ConfigErrors for what the dispatcher cannot start with; bad plugin files are in
    `errors`, and cost their own plugin alone, as with auditd."""
    notices: list[str] = []
    conf, own = auditd.AuditdConf(q_depth=OBSERVE_QUEUE_DEPTH), audispd.AudispdConf()
    if options.conf_dir is not None:
        conf, said = auditd.load(options.conf_dir / "auditd.conf", allow_links=options.allow_links)
        notices += said
        own, said = audispd.load(options.conf_dir / audispd.NAME, allow_links=options.allow_links)
        notices += said
    # An observer owns nothing; which live source it reads is found out when it starts (dispatch/observe.py).
    wanted = options.sources or (("multicast",) if options.observe else own.source)
    specs = tuple(parse_source(text) for text in wanted)
    if any(spec.type == "internal" for spec in specs):
        raise ConfigErrors([ConfigError("internal is the dispatcher's own, and always there", key="source")])
    if options.observe and any(spec.type == "netlink" for spec in specs):
        raise ConfigErrors([ConfigError("netlink takes the stream; an observer reads multicast", key="source")])
    if not conf.local_events:
        if options.sources:
            raise ConfigErrors(
                [ConfigError("no, so the kernel's records may not be read: take --source away", key="local_events")]
            )
        specs = tuple(spec for spec in specs if spec.type not in ("netlink", "multicast"))
    names = [str(spec) for spec in specs]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ConfigErrors([ConfigError(f"{', '.join(doubled)} is given twice", key="source")])
    if {"netlink", "multicast"} <= set(names):
        raise ConfigErrors([ConfigError("netlink and multicast carry the same records: choose one", key="source")])
    folder = options.plugin_dir or conf.plugin_dir
    found, errors = plugins.scan(folder)
    for each in found:
        notices += each.notices
    fresh = audispd.AudispdConf()
    if own.runtime_dir != fresh.runtime_dir and own.state_dir == fresh.state_dir:
        # A second instance beside the first must not share its books.
        own = attrs.evolve(own, state_dir=own.runtime_dir / "state")
    if options.runtime_dir is not None:
        own = attrs.evolve(own, runtime_dir=options.runtime_dir, state_dir=options.runtime_dir / "state")
    return Plan(
        options=options,
        auditd=conf,
        own=own,
        plugins=tuple(each for each in found if each.active),
        sources=specs,
        node=node_name(conf),
        notices=tuple(notices),
        errors=tuple(errors),
    )


def node_name(conf: auditd.AuditdConf) -> bytes | None:
    """The node name that `name_format` asks for (auditd.conf(5)). Raises ConfigErrors if it cannot be found out."""
    try:
        match conf.name_format:
            case "none":
                return None
            case "user":
                name = conf.name or ""
            case "hostname":
                name = socket.gethostname()
            case "fqd":
                found = socket.getaddrinfo(socket.gethostname(), None, flags=socket.AI_CANONNAME)
                name = found[0][3]
            case _:
                name = str(socket.getaddrinfo(socket.gethostname(), None)[0][4][0])
    except OSError as error:
        raise ConfigErrors(
            [ConfigError(f"the name of this host cannot be found out: {error}", key="name_format")]
        ) from error
    return os.fsencode(name.replace(" ", "_"))
