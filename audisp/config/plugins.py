"""plugins.d: one configured plugin per name, from NAME.conf (auditd's keys), NAME.audisp (ours), or both.

NAME.conf is judged as auditd judges it (upstream.md section 1). NAME.audisp beside it adds our keys, and auditd skips
it. NAME.audisp alone is a plugin that auditd does not know: `plugin =` for one inside this process, `path =` for a
child program. One bad file costs its own plugin and no other.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pwd
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, TypeVar

import attrs

from audisp.buffer.segment import MAX_IDENTITY
from audisp.config.files import (
    PATH_SHOWN,
    PLUGIN_CONF,
    SHIPPED_CONF,
    FileKind,
    check_folders,
    check_program,
    read_checked,
)
from audisp.config.grammar import ConfigErrors, Setting, nearest, parse, shown
from audisp.config.schema import build, choice, key, keys, located, number, one, unknown
from audisp.config.values import capabilities, size
from audisp.errors import ConfigError, ParseError, PluginError
from audisp.parse.filter import compile_filter
from audisp.shapes.registry import SHAPES

T = TypeVar("T")

MAX_FILES: Final = 1000
"""Most files read from one folder. A hundred times a full one."""

MIN_QUEUE: Final = 64 << 10
"""Smallest queue in bytes: four of the longest records that a source lets in."""

SHORTEST_FOLDER: Final = 4
"""auditd demands that the folder of `path` has at least four characters (upstream.md 1.3)."""

AF_UNIX: Final = "af_unix"
"""Our plugin that stands in for auditd's builtin_af_unix."""

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+@~-]*\Z")
"""A plugin's name: it becomes a folder's name, a word in audit records and in status."""

_ENTRY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")

_OURS: Final = ("active", "plugin")
_UPSTREAM: Final = ("active", "direction", "path", "type", "args", "format")
_OVERFLOW = Literal["ignore", "syslog", "suspend", "single", "halt", "drop_oldest", "drop_newest", "spill"]
_FOR_CHILDREN: Final = ("user", "capabilities", "nice", "memory_max")
_ACTIONS: Final = ("syslog", "email", "exec", "single", "halt")

LEAST_MEMORY: Final = 64 << 20
"""Smallest memory_max of an isolated plugin. An idle one has 31 MiB (VmData), and needs as much again for the events of
a large batch and the stack of a thread."""


def _user(words: tuple[str, ...]) -> str:
    word = one(words)
    try:
        if word.isascii() and word.isdigit():
            pwd.getpwuid(number(word))
        else:
            pwd.getpwnam(word)
    except (KeyError, UnicodeEncodeError):
        near = nearest(word, [entry.pw_name for entry in pwd.getpwall()])
        raise ValueError(f"there is no user {shown(word)}{near}") from None
    return word


def _absolute(words: tuple[str, ...]) -> str:
    path = one(words)
    if not path.startswith("/"):
        raise ValueError(f"{shown(path)} must be absolute")
    return path


def _is_root(user: str) -> bool:
    return user == "0" or (not user.isdigit() and pwd.getpwnam(user).pw_uid == 0)


def _filter(text: str) -> None:
    try:
        compile_filter(text)
    except ParseError as error:
        raise ValueError(str(error)) from None


def _shape(words: tuple[str, ...]) -> str:
    return choice(one(words), tuple(SHAPES))


def _patterns(text: str) -> None:
    for word in text.split():
        if len(word) > MAX_IDENTITY or not all("!" <= char <= "~" for char in word):
            raise ValueError(f"{shown(word)} matches no identity: those are 1 to {MAX_IDENTITY} characters from ! to ~")


def _actions(words: tuple[str, ...]) -> tuple[str, ...]:
    if [word.lower() for word in words] == ["none"]:
        return ()
    return tuple(choice(word, _ACTIONS) for word in words)


@attrs.frozen(kw_only=True)
class HostKeys:
    """The keys with which the host treats one plugin. Sizes are bytes (K, M, G in the file), times are seconds.

    None: the dispatcher's own default, or what auditd.conf says for all.
    """

    required: bool | None = None
    """Live sources wait for this plugin when its queue is full."""
    overflow_action: _OVERFLOW | None = None
    queue_bytes: int | None = key(None, read=functools.partial(size, low=MIN_QUEUE))
    queue_records: int | None = key(None, min=1)
    spill_bytes: int | None = key(None, read=functools.partial(size, low=1 << 20))
    spill_min_free: int | None = key(None, read=functools.partial(size))
    filter_keep: tuple[str, ...] = key((), repeat=True, rest=True, check=_filter)
    """Expressions (ausearch-expression(5)); of events for which none is true the plugin gets nothing."""
    filter_drop: tuple[str, ...] = key((), repeat=True, rest=True, check=_filter)
    """Events for which one of these is true are left out, whatever filter_keep says."""
    hosts: tuple[str, ...] = key((), repeat=True, rest=True, check=_patterns)
    """On a collector: identities, with * ? [...], whose records the plugin gets; see `patterns`."""
    shape: str | None = key(None, read=_shape)
    shape_version: str | None = None
    isolation: Literal["none", "process"] = "none"
    """process: a plugin of Python's in a process of its own. A child program has one anyway."""
    actions: tuple[str, ...] | None = key(None, read=_actions)
    """What an isolated plugin may have the dispatcher do; None: dispatch/far.py, ACTIONS."""
    reactions: str | None = key(None, read=_absolute)
    """reactions.conf: the plugin may ask the reactor, which is started with this file, for what it allows."""
    user: str | None = key(None, read=_user)
    capabilities: tuple[str, ...] | None = key(None, read=capabilities)
    nice: int | None = key(None, min=-20, max=19)
    memory_max: int | None = key(None, read=functools.partial(size, low=1 << 20))
    max_restarts: int | None = None
    restart_delay: float = key(0.1, min=0, max=3600)
    restart_delay_max: float = key(30.0, min=0, max=86_400)
    deliver_timeout: float = key(60.0, min=0.1, max=86_400)

    @property
    def patterns(self) -> tuple[str, ...]:
        """All of `hosts`, one by one; empty: everybody's."""
        return tuple(dict.fromkeys(word for text in self.hosts for word in text.split()))

    def __attrs_post_init__(self) -> None:
        if self.restart_delay_max < self.restart_delay:
            raise ConfigError(
                f"{self.restart_delay_max:g} is below restart_delay ({self.restart_delay:g})", key="restart_delay_max"
            )
        if self.shape_version is not None:
            if self.shape is None:
                raise ConfigError("is of no use without shape", key="shape_version")
            versions = SHAPES[self.shape]
            if self.shape_version not in versions:
                there = f"{self.shape} has {', '.join(versions)}" if versions else f"{self.shape} has no versions"
                raise ConfigError(f"{shown(self.shape_version)} is none: {there}", key="shape_version")


HOST_KEYS: Final = tuple(keys(HostKeys))
"""Our keys that every plugin may have."""


@attrs.frozen
class _Upstream:
    """auditd's own keys of a plugin."""

    active: bool = False
    direction: str | None = None
    path: str | None = None
    type: Literal["always", "builtin"] = "always"
    args: tuple[str, ...] = ()
    format: Literal["string", "binary"] = "string"


@attrs.frozen(kw_only=True)
class PluginConf(HostKeys):
    """One configured plugin.

    path: NAME.conf, or NAME.audisp where that stands alone. command: program and arguments of a child; else plugin:
    entry point or /path/file.py. settings: what is for the plugin's own schema (`settings_of`). fingerprint: changes
    when either file or the program does. notices: lines for the log. An inactive one is parsed in full, an active one
    has also passed upstream's checks of its program, or `check_folders` for its own file.
    """

    name: str
    path: Path
    active: bool = False
    command: tuple[str, ...] | None = None
    format: Literal["string", "binary"] = "string"
    plugin: str | None = None
    settings: tuple[Setting, ...] = ()
    fingerprint: bytes = b""
    notices: tuple[str, ...] = ()


def settings_of(conf: PluginConf, schema: type[T]) -> T:
    """The plugin's own settings as its schema says. Raises ConfigErrors, or PluginError for a schema that is none.

    The host's keys never reach a schema: one that claims any of them is refused.
    """
    try:
        taken = sorted({*keys(schema)} & {*HOST_KEYS, *_OURS})
        value, errors = build(schema, conf.settings, conf.path, hints=(*HOST_KEYS, *_OURS))
    except (TypeError, NameError) as problem:
        raise PluginError(f"plugin {conf.name}: its settings cannot be read: {problem}") from problem
    if taken:
        raise PluginError(f"plugin {conf.name}: its settings {', '.join(taken)} have names that the host uses")
    if errors or value is None:
        raise ConfigErrors(errors)
    return value


def notices_of(conf: PluginConf, settings: object) -> list[str]:
    """What the plugin's own schema says about settings that are allowed and should be known.

    A schema may have a method `notices` without parameters that returns texts, each `KEY: MESSAGE`; they get file and
    line. Raises PluginError if it cannot be asked.
    """
    asked = getattr(settings, "notices", None)
    if not callable(asked):
        return []
    try:
        texts = [str(text) for text in asked()]
    except Exception as problem:
        raise PluginError(f"plugin {conf.name}: its notices cannot be had: {problem!r}") from problem
    lines = {setting.key: f"{setting.file or conf.path}:{setting.line}" for setting in conf.settings}
    return [f"{lines.get(text.partition(':')[0], conf.path)}: {text}" for text in texts]


@attrs.frozen
class _Found:
    """The files of one name."""

    conf: str | None = None
    ours: str | None = None


def scan(folder: Path, *, shipped: bool = False) -> tuple[list[PluginConf], list[ConfigError]]:
    """Every plugin of a folder in order of name, and what is wrong with the others.

    shipped: the folder comes with our code (conf/observe), and is trusted as the code is; see SHIPPED_CONF.

    The stem of an error's path is the name of the plugin it costs; an error about the folder itself has its path.
    Names are skipped as auditd skips them (upstream.md 1.1), except that `.audisp` is ours.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as problem:
        return [], [ConfigError(f"no plugins, the folder cannot be opened: {problem.strerror}", path=folder)]
    try:
        found, errors = _names(os.listdir(fd), folder)
        confs: list[PluginConf] = []
        for name in sorted(found):
            try:
                confs.append(_load(name, found[name], folder, fd, SHIPPED_CONF if shipped else PLUGIN_CONF))
            except ConfigErrors as problems:
                errors.extend(problems.errors)
            except ConfigError as problem:
                errors.append(problem)
        return confs, errors
    finally:
        os.close(fd)


def _names(files: Sequence[str], folder: Path) -> tuple[dict[str, _Found], list[ConfigError]]:
    found: dict[str, _Found] = {}
    errors: list[ConfigError] = []
    # NAME.conf comes before NAME, so that of the two the one with the suffix is the plugin.
    for file in sorted(files, key=lambda each: (not each.endswith(".conf"), each)):
        name, dot, suffix = file.partition(".")
        if not name or (dot and suffix not in ("conf", "audisp")):
            continue
        if not _NAME.match(name):
            where = folder / shown(file, limit=255)[1:-1]
            errors.append(ConfigError("is no name for a plugin: letters, digits, _ - + @ ~ only", path=where))
            continue
        so_far = found.get(name, _Found())
        if len(found) >= MAX_FILES and name not in found:
            errors.append(ConfigError(f"more than {MAX_FILES} plugins, the rest is left out", path=folder))
            break
        if suffix == "audisp":
            found[name] = attrs.evolve(so_far, ours=file)
        elif so_far.conf is not None:
            errors.append(ConfigError(f"is left out: {so_far.conf} is a plugin of the same name", path=folder / file))
        else:
            found[name] = attrs.evolve(so_far, conf=file)
    return found, errors


def _load(name: str, files: _Found, folder: Path, fd: int, kind: FileKind) -> PluginConf:
    """One plugin from its files. Raises ConfigError or ConfigErrors."""
    main = folder / (files.conf or files.ours or name)
    digest = hashlib.sha256()
    settings: dict[str, list[Setting]] = {}
    errors: list[ConfigError] = []
    notices: list[str] = []
    for file in (files.conf, files.ours):
        settings[file or ""] = []
        if file is None:
            continue
        try:
            data = read_checked(file, kind, dir_fd=fd, name=folder / file)
        except FileNotFoundError:
            notices.append(f"{folder / file}: leads to no file, and is taken as inactive")
            continue
        digest.update(b"%d:" % len(data) + data)
        settings[file], wrong = parse(data, folder / file)
        errors += wrong
    if files.conf is not None and files.ours is not None:
        errors += _misplaced(settings[files.ours], files.conf)
    both = [*settings[files.conf or ""], *settings[files.ours or ""]]
    conf = _assemble(name, main, both, errors, notices, in_conf=files.conf is not None)
    return attrs.evolve(conf, fingerprint=_fingerprint(digest, conf))


def _misplaced(settings: Sequence[Setting], conf: str) -> list[ConfigError]:
    """auditd's keys in the .audisp file beside a .conf: they would be true for us and not for auditd."""
    return [
        located(setting, f"belongs into {conf}, where auditd sees it too", "")
        for setting in settings
        if setting.key in (*_UPSTREAM, "plugin")
    ]


def _assemble(
    name: str, path: Path, settings: list[Setting], errors: list[ConfigError], notices: list[str], *, in_conf: bool
) -> PluginConf:
    last = {setting.key: setting for setting in settings}
    plugin = last.get("plugin")
    inside = plugin is not None and not in_conf
    if plugin is not None and in_conf and plugin.file == path:
        errors.append(located(plugin, f"belongs into {name}.audisp alone: auditd would refuse this file", path))
    claimed = ("active", "plugin", "path") if inside else _UPSTREAM
    upstream, wrong = build(
        _Upstream, [each for each in settings if each.key in claimed and each.key != "plugin"], path
    )
    errors += wrong
    host, wrong = build(HostKeys, [each for each in settings if each.key in HOST_KEYS], path)
    errors += wrong
    rest = [each for each in settings if each.key not in (*claimed, *HOST_KEYS, "plugin")]
    if not inside and "reactions" in last:
        errors.append(located(last["reactions"], "is for a plugin of Python's with isolation = process", path))
    entry: str | None = None
    builtin = upstream is not None and (upstream.path or "").lower().startswith("builtin_")
    if plugin is not None and inside:
        entry = _entry(plugin, errors)
        errors += _of_a_process(last, host, path, notices)
    elif builtin:
        entry = AF_UNIX
        if upstream is not None and upstream.active:
            notices.append(f"{path}:{last['path'].line}: path: {last['path'].text} is our own plugin {AF_UNIX}")
        rest = [*_builtin_args(last, upstream), *rest]
    else:
        errors += [unknown(each, path, (*_UPSTREAM, *HOST_KEYS, "plugin")) for each in rest]
        rest = []
    if upstream is not None and upstream.active and upstream.type == "builtin" and not inside:
        notices.append(f"{path}:{last['type'].line}: type: builtin is obsolete, and taken as always")
    if errors or upstream is None or host is None:
        raise ConfigErrors(sorted(errors, key=lambda error: (str(error.path), error.line or 0)))
    command = None
    if entry is None and upstream.path is not None:
        command = (upstream.path, *upstream.args)
        _check_path(last["path"], path)
    if upstream.active:
        if command is not None:
            check_program(command[0], path, last["path"].line)
            notices += _exposed(command[0], last["path"], path)
        elif entry is None:
            raise ConfigError(
                "is missing: the program to start (or plugin, in a .audisp file alone)", path=path, key="path"
            )
        elif entry.startswith("/"):
            _check_code(entry, plugin, path)
    return PluginConf(
        name=name,
        path=path,
        active=upstream.active,
        command=command,
        format=upstream.format,
        plugin=entry,
        settings=tuple(rest),
        notices=tuple(notices),
        **attrs.asdict(host, recurse=False),
    )


def _of_a_process(last: dict[str, Setting], host: HostKeys | None, path: Path, notices: list[str]) -> list[ConfigError]:
    """What is wrong with keys of a plugin of Python's that are for a process of its own."""
    errors = [located(last["path"], "is for a child program, and plugin is not", path)] if "path" in last else []
    if host is None:
        return errors
    if host.isolation == "none":
        needs = "is for a process of its own: a child program (path =), or isolation = process"
        for_it = (*_FOR_CHILDREN, "actions", "reactions")
        return errors + [located(last[each], needs, path) for each in for_it if each in last]
    if host.reactions is not None and os.geteuid() == 0 and (host.user is None or _is_root(host.user)):
        # It reads what attackers write; that it may not act by itself is what the reactor is there for.
        errors.append(located(last["reactions"], "needs user = somebody who is not root", path))
    if host.memory_max is not None and host.memory_max < LEAST_MEMORY:
        errors.append(located(last["memory_max"], f"is below what Python takes: {LEAST_MEMORY >> 20}M", path))
    if host.user is None and os.geteuid() == 0:
        notices.append(f"{path}:{last['isolation'].line}: isolation: its process belongs to root: user is not set")
    return errors


def _builtin_args(last: dict[str, Setting], upstream: _Upstream | None) -> list[Setting]:
    """`args` for our af_unix. With `type = builtin`, as in auditd 3, `format` says what clients get."""
    args = last.get("args")
    words = args.words if args else ()
    old = upstream is not None and upstream.type == "builtin" and upstream.format == "binary"
    if not old or {"string", "binary"} & {*words}:
        return [args] if args else []
    return [attrs.evolve(args or last["format"], key="args", words=(*words, "binary"))]


def _entry(setting: Setting, errors: list[ConfigError]) -> str:
    """The value of `plugin`: an entry point's name or a file's."""
    try:
        word = one(setting.words)
        if not (_ENTRY.match(word) or (word.startswith("/") and word.endswith(".py"))):
            raise ValueError(f"{shown(word)} is neither the name of an installed plugin nor /path/to/file.py")
    except ValueError as problem:
        errors.append(located(setting, str(problem), ""))
        return ""
    return word


def _check_path(setting: Setting, path: Path) -> None:
    """What auditd demands of `path` even in an inactive file, and that it is absolute."""
    folder = setting.words[0].rpartition("/")[0]
    if not folder.startswith("/"):
        raise located(setting, f"{shown(setting.words[0])} is not an absolute path", path)
    if len(folder) < SHORTEST_FOLDER:
        raise located(setting, f"the folder {shown(folder)} is shorter than {SHORTEST_FOLDER} characters", path)


def _exposed(program: str, setting: Setting, path: Path) -> list[str]:
    """A word about a program that others can exchange for another: auditd looks at the file alone, and so do we."""
    try:
        check_folders(program)
    except ConfigError as problem:
        called = shown(program, PATH_SHOWN)
        return [f"{path}:{setting.line}: path: {called} can be exchanged by others than root, through {problem.path}"]
    return []


def _check_code(file: str, setting: Setting | None, path: Path) -> None:
    try:
        check_folders(file)
    except ConfigError as problem:
        raise ConfigError(str(problem), path=path, line=setting.line if setting else None, key="plugin") from problem


def _fingerprint(digest: hashlib._Hash, conf: PluginConf) -> bytes:
    """Hash of both files' content and of which program, or file of code, stands behind them right now."""
    program = conf.command[0] if conf.command else conf.plugin if conf.plugin and conf.plugin.startswith("/") else None
    for file in (program, conf.reactions):
        if file is None:
            continue
        try:
            found = os.stat(file)
        except OSError:
            digest.update(b"gone")
        else:
            digest.update(
                b"%d %d %d %d %d"
                % (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, stat.S_IMODE(found.st_mode))
            )
    return digest.digest()
