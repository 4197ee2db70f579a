"""audispd.conf: our own settings that belong to no plugin, beside auditd.conf. Every key has a default."""

# ruff: noqa: RUF009 - key() makes an attrs field, as attrs.field does
from __future__ import annotations

import functools
from pathlib import Path
from typing import Final, Literal

import attrs

from audisp.config.files import OWN_CONF, read_checked
from audisp.config.grammar import ConfigErrors, parse, shown
from audisp.config.schema import build, choice, key, keys, one
from audisp.config.values import capabilities, size
from audisp.errors import ConfigError
from audisp.parse.labels import rule

NAME: Final = "audispd.conf"
MAX_VARIABLES: Final = 64
"""As in audisp.enrich.facts: each is looked for in every environment."""


def _folder(words: tuple[str, ...]) -> Path:
    word = one(words)
    if not word.startswith("/") or word.strip("/") == "":
        raise ValueError(f"{shown(word)} is not the absolute path of a folder")
    return Path(word)


ENRICH: Final = ("container", "unit", "cgroup", "parents", "script", "labels")
"""What can be found out about an event's process on a live host, beside chosen environment variables."""


def _enrich(words: tuple[str, ...]) -> tuple[str, ...]:
    if len(words) == 1 and words[0].lower() == "none":
        return ()
    return tuple(dict.fromkeys(choice(word, ENRICH) for word in words))


def _variables(words: tuple[str, ...]) -> tuple[str, ...]:
    for word in words:
        if "=" in word:
            raise ValueError(f"{shown(word)} is no name of an environment variable: it holds no '='")
    if len(words) > MAX_VARIABLES:
        raise ValueError(f"{len(words)} variables, {MAX_VARIABLES} at most")
    return tuple(dict.fromkeys(words))


def _labels(words: tuple[str, ...]) -> tuple[str, ...]:
    return () if len(words) == 1 and words[0].lower() == "none" else words


def _label(text: str) -> None:
    rule(text.split())


@attrs.frozen
class AudispdConf:
    """audispd.conf. Sizes are bytes (K, M, G in the file), times are seconds."""

    source: tuple[str, ...] = key(("netlink",), repeat=True, rest=True)
    """netlink, multicast, unix:PATH, stdin, file:PATH, follow:PATH; once each; the option --source replaces all."""
    runtime_dir: Path = key(Path("/run/audisp"), read=_folder)
    """Folder of the control socket, the state file and whatever else lives as long as the process."""
    state_dir: Path = key(Path("/var/lib/audisp"), read=_folder)
    """Folder of what outlives the process: the last serial, the books."""
    spill_dir: Path = key(Path("/var/spool/audisp"), read=_folder)
    """Folder of the queues that spill to disk, one folder per plugin in it."""
    drain_timeout: float = key(10.0, min=0, max=3600)
    """How long SIGTERM waits for queues to empty."""
    spill_min_free: int = key(256 << 20, read=functools.partial(size))
    """What a spill leaves free on its file system."""
    keep_bad_bytes: int = key(64 << 10, read=functools.partial(size, high=64 << 20))
    """How much rejected input is kept aside per source, for a person to look at."""
    rcvbuf: int = key(8 << 20, read=functools.partial(size, low=64 << 10, high=1 << 30))
    """Receive buffer of the netlink sockets (SO_RCVBUFFORCE where allowed)."""
    own_activity_warn: int = key(20, max=100)
    """Warn when this share, in percent, of 10 s of records is about ourselves; 0 = never."""
    control: bool = True
    """Whether there is a control socket (audisp status, rotate, resume)."""
    enrich: tuple[str, ...] = key(ENRICH, read=_enrich)
    """What to find out about the process of each event, for shapes and for plugins that want events; none: nothing."""
    enrich_env: tuple[str, ...] = key((), read=_variables)
    """Environment variables of a starting program that are noted; they are in no audit record."""
    enrich_inherit: Literal["container", "all"] = "container"
    """What of its parent's place a process has that was gone before we could look."""
    enrich_processes: int = key(8_192, min=256, max=65_536)
    """Processes that are remembered."""
    label: tuple[str, ...] = key((), repeat=True, rest=True, check=_label)
    """NAME exe|argv|script|key PATTERN: the label that a process gets, and its children."""
    unlabel: tuple[str, ...] = key((), repeat=True, rest=True, check=_label)
    """The same, and it loses the label. Looked at after all `label`."""
    label_inherit: tuple[str, ...] | None = key(None, read=_labels)
    """Labels that children get of their parents; None: all."""
    store_dir: Path | None = key(None, read=_folder)
    """Where what other hosts send is stored (auditd.conf: tcp_listen_port). None: `store` in state_dir."""
    store_size: int = key(1 << 30, read=functools.partial(size, low=64 << 20))
    """Bytes; beyond it the oldest is removed."""
    store_min_free: int = key(256 << 20, read=functools.partial(size))
    """With less free nothing is stored and nothing acknowledged."""
    capabilities: tuple[str, ...] = key((), read=capabilities)
    """Capabilities to keep besides those that the configured parts name."""


def load(path: Path, *, allow_links: bool = False) -> tuple[AudispdConf, list[str]]:
    """audispd.conf and notices about it; a missing file is the defaults, without a notice. Raises ConfigErrors."""
    try:
        data = read_checked(path, OWN_CONF, allow_links=allow_links)
    except FileNotFoundError:
        return AudispdConf(), []
    except ConfigError as problem:
        raise ConfigErrors([problem]) from problem
    return read(data, path), []


def read(data: bytes, path: Path) -> AudispdConf:
    """As `load`, from the file's content."""
    settings, errors = parse(data, path)
    conf, more = build(AudispdConf, settings, path)
    errors += more
    if errors or conf is None:
        raise ConfigErrors(sorted(errors, key=lambda error: error.line or 0))
    return conf


KEYS: Final = tuple(keys(AudispdConf))
"""Every key of audispd.conf."""
