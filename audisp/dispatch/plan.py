"""What to run: options and configuration files, read and judged as a whole before anything starts."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Final, Literal

import attrs

from audisp.config import audispd, auditd, collector, plugins
from audisp.config.grammar import ConfigErrors, shown
from audisp.config.plugins import PluginConf
from audisp.errors import ConfigError
from audisp.sources.contract import SourceSpec, parse_source

CONF_DIR: Final = Path("/etc/audit")
"""auditd's own default for -c."""
NODE: Final = re.compile(rb"[!-~]{1,255}\Z")
"""A node name in a record; _POSIX_HOST_NAME_MAX is what auditd's buffer adds for it."""
RECORD_SLOT: Final = 8_970
"""Bytes that auditd sets aside per queued record (MAX_AUDIT_MESSAGE_LENGTH); q_depth counts in these."""
OBSERVE_QUEUE_DEPTH: Final = 2_000
"""q_depth of --observe, which reads no auditd.conf: auditd's default."""
LOG: Final = "log"
"""Name of the plugin that writes auditd's own log."""
PACKAGE: Final = Path(__file__).resolve().parent.parent
"""The package's folder. In a checkout conf/ lies beside it, in a wheel inside it."""

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
    """As it is in force: the folders may be others than those that were read."""
    as_read: audispd.AudispdConf
    plugin_dir: Path
    plugins: tuple[PluginConf, ...]
    sources: tuple[SourceSpec, ...]
    node: bytes | None
    notices: tuple[str, ...] = ()
    errors: tuple[ConfigError, ...] = ()
    files: tuple[Path, ...] = ()
    """Which of auditd.conf and audispd.conf there were."""

    @property
    def owner(self) -> bool:
        """We are the audit daemon."""
        return any(spec.type == "netlink" for spec in self.sources)

    @property
    def network(self) -> collector.CollectorConf | None:
        """What other hosts may send, and where it is stored; None: nobody is listened to. Not by one that observes, nor
        beside sources that the command line names."""
        if self.options.observe or self.options.sources:
            return None
        return collector.behind_auditd(self.auditd, self.own)

    @property
    def writes_log(self) -> bool:
        """We write auditd's log file, as auditd does in the background."""
        takes = self.owner or self.network is not None
        return takes and self.auditd.write_logs and not self.options.foreground and not self.options.observe

    @property
    def queue_bytes(self) -> int:
        """Default bound of each plugin's queue."""
        return self.auditd.q_depth * RECORD_SLOT


def conf_folder() -> Path:
    """The shipped configuration: conf/ of a checkout, the same files inside an installed package."""
    checkout = PACKAGE.parent
    return checkout / "conf" if (checkout / "pyproject.toml").is_file() else PACKAGE / "shipped"


def load(options: Options, before: tuple[Path, ...] = ()) -> Plan:
    """Read everything. Raises ConfigErrors for what the dispatcher cannot start with; bad plugin files are in
    `errors`, and cost their own plugin alone, as with auditd.

    before: `files` of the plan in force. A file that is gone since then is an error: whoever moves or replaces it does
    not mean that everything goes over to the defaults, which have other plugins and another log.
    """
    notices: list[str] = []
    files: tuple[Path, ...] = ()
    conf = auditd.AuditdConf(q_depth=OBSERVE_QUEUE_DEPTH, log_format="raw")
    own = audispd.AudispdConf()
    if options.conf_dir is not None:
        both = (options.conf_dir / "auditd.conf", options.conf_dir / audispd.NAME)
        files = tuple(path for path in both if os.path.lexists(path))
        wrong = [
            ConfigError("is gone since the last reading; an empty file would mean the defaults", path=path)
            for path in before
            if path not in files
        ]
        try:
            conf, said = auditd.load(options.conf_dir / "auditd.conf", allow_links=options.allow_links)
            notices += said
            path = options.conf_dir / "auditd.conf"
            notices += collector.judge_listener(path, conf, allow_links=options.allow_links)
        except ConfigErrors as problems:
            wrong += problems.errors
        try:
            own, said = audispd.load(options.conf_dir / audispd.NAME, allow_links=options.allow_links)
            notices += said
        except ConfigErrors as problems:
            wrong += problems.errors
        if wrong:
            # Both files' errors at once: who mends them does not want to start as often as there are mistakes.
            raise ConfigErrors(wrong)
    listens = conf.tcp_listen_port is not None and not options.observe and not options.sources
    specs = _sources(options, own, conf.local_events, listens)
    # What comes with the code is as trustworthy as the code, whoever owns the checkout.
    shipped = options.observe and options.plugin_dir is None
    folder = conf_folder() / "observe" if shipped else options.plugin_dir or conf.plugin_dir
    found, errors = plugins.scan(folder, shipped=shipped)
    for each in found:
        notices += each.notices
        if each.active and each.hosts and not listens:
            notices.append(f"{each.path}: hosts: has no effect: nobody sends here (auditd.conf: tcp_listen_port)")
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
        as_read=own,
        plugin_dir=folder,
        plugins=tuple(each for each in found if each.active),
        sources=specs,
        node=node_name(conf),
        notices=tuple(notices),
        errors=tuple(errors),
        files=files,
    )


def _sources(options: Options, own: audispd.AudispdConf, local_events: bool, listens: bool) -> tuple[SourceSpec, ...]:
    """The sources to read beside the network. listens: there is that. Raises ConfigErrors."""

    def wrong(message: str, key: str = "source") -> ConfigErrors:
        path = None if options.sources or options.conf_dir is None else options.conf_dir / audispd.NAME
        return ConfigErrors([ConfigError(message, path=path, key=key)])

    # An observer owns nothing; which live source it reads is found out when it starts (dispatch/observe.py).
    wanted = options.sources or (("multicast",) if options.observe else own.source)
    try:
        specs = tuple(parse_source(text) for text in wanted)
    except ConfigError as error:
        raise wrong(error.message) from error
    if any(spec.type == "internal" for spec in specs):
        raise wrong("internal is the dispatcher's own, and always there")
    if options.observe and any(spec.type == "netlink" for spec in specs):
        raise wrong("netlink takes the stream; an observer reads multicast")
    if not local_events:
        kept = tuple(spec for spec in specs if spec.type not in ("netlink", "multicast"))
        if options.sources and kept != specs:
            raise wrong("auditd.conf says local_events = no, so the kernel's records may not be read")
        if not kept and not listens:
            raise wrong("auditd.conf says local_events = no, and there is no other source: nothing to read")
        specs = kept
    names = [str(spec) for spec in specs]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise wrong(f"{', '.join(doubled)} is given twice")
    if {"netlink", "multicast"} <= set(names):
        raise wrong("netlink and multicast carry the same records: choose one")
    return specs


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
    node = os.fsencode(name.replace(" ", "_"))
    if not NODE.match(node):
        # A line end or a space in it would make lines, or fields, of its own in every record.
        raise ConfigErrors(
            [
                ConfigError(
                    f"{shown(name)} cannot stand in a record: 1 to 255 printable ASCII characters can", key="name"
                )
            ]
        )
    return node
