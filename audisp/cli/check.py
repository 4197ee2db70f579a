"""`audisp check [DIR]`: says what is wrong with a configuration, without running anything of it.

Prints one line per finding, ``FILE:LINE: KEY: MESSAGE``, then a summary. Programs are looked at and never started; of
plugins in this process, the active ones are imported, for their schema, after the checks of their files; isolated ones
are asked in a process of their own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TextIO

import attrs
import trio

from audisp.config import audispd, auditd, collector, ids, plugins, reactions, remote
from audisp.config.files import OWN_CONF, PLUGIN_CONF, FileKind, read_checked
from audisp.config.grammar import ConfigErrors, parse, shown
from audisp.dispatch.isolated import describe
from audisp.dispatch.made import isolated
from audisp.errors import AudispError, ConfigError
from audisp.sources.contract import parse_source

OK: Final = 0
"""Exit status: everything is as auditd and we would accept it, whatever notices there are."""
WRONG: Final = 1
"""Exit status: at least one error."""
UNREADABLE: Final = 2
"""Exit status: there is no such folder, or it cannot be read; nothing was checked."""

DEFAULT: Final = Path("/etc/audit")
"""The folder that is checked if none is named: auditd's own."""

REMOTE: Final = "audisp-remote"
"""Name of the program that forwards, the C program's and ours; an active child of this name needs its file."""

OPTION: Final = "--config"
"""With it ours is told another file."""

COLLECTOR_PLUGINS: Final = collector.CollectorConf().plugin_dir
"""Where a collector's plugins are if its file does not say."""

SchemaFor = Callable[[str], type | None]
"""From the value of `plugin =` to the attrs class of its settings. None: unknown here, so not checked. May raise
AudispError for a plugin that does not exist or cannot be loaded."""


@attrs.define
class Findings:
    """What a check has found so far, each a whole line."""

    errors: list[str] = attrs.field(factory=list)
    notices: list[str] = attrs.field(factory=list)
    plugins: int = 0

    def add(self, problem: AudispError) -> None:
        """One error, or all of a ConfigErrors."""
        self.errors += [str(each) for each in flat(problem)]


def flat(problem: AudispError) -> Iterator[AudispError]:
    """The error itself, or each one that it holds."""
    if isinstance(problem, ConfigErrors):
        yield from problem.errors
    else:
        yield problem


def find(folder: Path, schema_for: SchemaFor, *, allow_links: bool = False) -> Findings:
    """Everything that is wrong or worth a notice in a folder with auditd.conf, audispd.conf and its plugins.d.

    Where they are, audisp-remote.conf and audisp-collector.conf as well, with the collector's own folder of plugins;
    and reactions.conf and ids.conf.

    plugins.d is where auditd.conf says; if auditd.conf cannot be used, or says nothing, it is DIR/plugins.d where that
    exists, so that a folder that is not yet in its place can be checked.
    """
    findings = Findings()
    plugin_dir = auditd.AuditdConf().plugin_dir
    try:
        conf, notices = auditd.load(folder / "auditd.conf", allow_links=allow_links)
    except ConfigError as problem:
        findings.add(problem)
    else:
        findings.notices += notices
        plugin_dir = conf.plugin_dir
        try:
            findings.notices += collector.judge_listener(folder / "auditd.conf", conf, allow_links=allow_links)
        except ConfigError as problem:
            findings.add(problem)
    beside = folder / "plugins.d"
    if plugin_dir == auditd.AuditdConf().plugin_dir and beside.is_dir():
        plugin_dir = beside
    try:
        ours, notices = audispd.load(folder / audispd.NAME, allow_links=allow_links)
    except ConfigError as problem:
        findings.add(problem)
    else:
        findings.notices += notices
        _sources(ours, folder / audispd.NAME, findings, allow_links=allow_links)
    forwarding = _plugins(plugin_dir, folder, schema_for, findings)
    forwarding |= _collector(folder / collector.NAME, schema_for, findings, allow_links=allow_links)
    _remote(folder / remote.NAME, forwarding, findings)
    _reactions(folder, findings)
    return findings


def _plugins(
    plugin_dir: Path, folder: Path, schema_for: SchemaFor, findings: Findings, *, collector: bool = False
) -> set[Path]:
    """Look at a folder of plugins. Returns the configurations of active children that forward. collector: all events
    are other hosts'."""
    confs, errors = plugins.scan(plugin_dir)
    findings.plugins += len(confs)
    for error in errors:
        findings.add(error)
    forwarding = set()
    for each in confs:
        findings.notices += each.notices
        if each.active and each.plugin is not None:
            _settings(each, schema_for, findings)
        if each.active and each.reactions is not None:
            _reactor(each, findings, collector=collector)
        if each.active and each.command is not None and Path(each.command[0]).name == REMOTE:
            named = each.command[each.command.index(OPTION) + 1 :] if OPTION in each.command else ()
            forwarding.add(Path(named[0]) if named else folder / remote.NAME)
    return forwarding


def _reactor(conf: plugins.PluginConf, findings: Findings, *, collector: bool) -> None:
    """Look at what the reactor of a plugin goes by; on a collector, whether it asks for what a collector cannot do."""
    path = Path(conf.reactions or "")
    try:
        reactions.read(path, collector=collector)
    except FileNotFoundError:
        (line,) = _lines(conf.path, "reactions", PLUGIN_CONF)[-1:]
        findings.add(ConfigError(f"{path} is missing", path=conf.path, line=line, key="reactions"))
    except ConfigError as problem:
        for each in flat(problem):
            if str(each) not in findings.errors:
                findings.add(each)


def _remote(default: Path, forwarding: set[Path], findings: Findings) -> None:
    """Look at what audisp-remote goes by; and at the file that nobody goes by yet, if there is one."""
    for path in sorted(forwarding | {default}):
        if path not in forwarding and not os.path.lexists(path):
            continue
        try:
            findings.notices += remote.load(path, used=path in forwarding)[1]
        except ConfigError as problem:
            findings.add(problem)


def _reactions(folder: Path, findings: Findings) -> None:
    """Look at what the HIDS goes by, where it is there. reactions.conf is taken for a host's, if no plugin names it.
    ids.conf is upstream's, and may be there for nobody but upstream."""
    try:
        reactions.read(folder / reactions.NAME)
    except FileNotFoundError:
        pass
    except ConfigError as problem:
        for each in flat(problem):
            if str(each) not in findings.errors:
                findings.add(each)
    try:
        ids.read(folder / ids.NAME)
    except FileNotFoundError:
        pass
    except ConfigError as problem:
        findings.notices += [str(each) for each in flat(problem)]


def _collector(path: Path, schema_for: SchemaFor, findings: Findings, *, allow_links: bool) -> set[Path]:
    """Look at a collector's file, if there is one, and its plugins. Returns as `_plugins`."""
    if not os.path.lexists(path):
        return set()
    try:
        conf, notices = collector.load(path, allow_links=allow_links)
    except ConfigError as problem:
        findings.add(problem)
        return set()
    findings.notices += notices
    beside = path.parent / COLLECTOR_PLUGINS.name
    plugin_dir = beside if conf.plugin_dir == COLLECTOR_PLUGINS and beside.is_dir() else conf.plugin_dir
    # Without plugins a collector stores, which is its work.
    if not plugin_dir.is_dir():
        return set()
    return _plugins(plugin_dir, path.parent, schema_for, findings, collector=True)


def _sources(conf: audispd.AudispdConf, path: Path, findings: Findings, *, allow_links: bool) -> None:
    """What a source is, is known to the sources and not to the file's schema; so its line is looked up here."""
    for number, text in enumerate(conf.source):
        try:
            parse_source(text)
        except ConfigError as problem:
            lines = _lines(path, "source", OWN_CONF, allow_links=allow_links)
            line = lines[number] if number < len(lines) else None
            findings.add(ConfigError(problem.message, path=path, line=line, key="source"))


def _lines(path: Path, key: str, kind: FileKind, *, allow_links: bool = False) -> list[int]:
    """Where a key stands in a file that has been read without an error before."""
    settings, _ = parse(read_checked(path, kind, allow_links=allow_links), path)
    return [setting.line for setting in settings if setting.key == key]


def _settings(conf: plugins.PluginConf, schema_for: SchemaFor, findings: Findings) -> None:
    try:
        if isolated(conf):
            findings.notices += _described(conf)
            return
        schema = schema_for(conf.plugin or "")
        if schema is not None:
            findings.notices += plugins.notices_of(conf, plugins.settings_of(conf, schema))
    except ConfigError as problem:
        findings.add(problem)
    except AudispError as problem:
        # The key stands last, as `parse` lets the last one count; af_unix comes without it, from `path`.
        line = next(reversed(_lines(conf.path, "plugin", PLUGIN_CONF)), None)
        findings.add(ConfigError(str(problem), path=conf.path, line=line, key="plugin"))


def _described(conf: plugins.PluginConf) -> tuple[str, ...]:
    """What an isolated plugin says of its settings, in a process of its own, which has no more rights than it will.
    Raises ConfigErrors, PluginError."""
    if os.geteuid() != 0:
        # We cannot make it another user's; and it gets no more than we have.
        conf = attrs.evolve(conf, user=None, capabilities=None, nice=None)

    def say(level: str, message: str, *, limit: str | None = None) -> None:
        print(_printable(message), file=sys.stderr)

    return trio.run(describe, conf, say).notices


def check(
    folder: Path, schema_for: SchemaFor, *, out: TextIO | None = None, allow_links: bool = False, quiet: bool = False
) -> int:
    """Print what `find` finds and return the exit status: OK, WRONG or UNREADABLE. quiet: errors only."""
    to = out or sys.stdout
    if not folder.is_dir():
        print(f"{shown(str(folder), limit=4096)} is not a folder", file=to)
        return UNREADABLE
    findings = find(folder, schema_for, allow_links=allow_links)
    for line in findings.errors:
        print(_printable(line), file=to)
    if not quiet:
        for line in findings.notices:
            print(_printable(f"{line} (notice)"), file=to)
        print(_summary(findings), file=to)
    return WRONG if findings.errors else OK


def _summary(findings: Findings) -> str:
    noticed = _count(len(findings.notices), "notice")
    if findings.errors:
        return f"{_count(len(findings.errors), 'error')}, {noticed}"
    return f"ok: {_count(findings.plugins, 'plugin')} configured, {noticed}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _printable(line: str) -> str:
    # Paths come from the file system and the command line: nothing in them may steer a terminal or fail to encode.
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in line
    )
