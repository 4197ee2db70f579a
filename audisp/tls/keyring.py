"""The keys that a collector knows: read from files once, looked up in handshakes, exchanged whole at a reload.

Three ways, as the configuration says: one identity with one key; a list of clients where each line names its key, as
upstream; a list of clients whose keys are derived from a master key. An identity as offered names one key and no other:
``web1`` that of epoch 0, ``web1#2`` that of epoch 2, so two keys of one host can live at the same time without anybody
having to guess which one is meant (``docs/decisions/0011-tls-psk-on-the-systems-openssl.md``).
"""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from audisp.config.grammar import ConfigErrors
from audisp.errors import ConfigError, ParseError
from audisp.parse.acl import MAX_ACL_ERRORS, AccessList, Entry
from audisp.parse.form import terminal_safe
from audisp.parse.psk import MAX_EPOCH, Key, KeyText, check_identity, derive, split_epoch
from audisp.tls.keyfile import read_acl, read_key

MAX_EPOCHS: Final = 8
"""Most live epochs. Two are what a rotation needs; more mean that old ones were forgotten."""


class Verdict(enum.Enum):
    """What is known of an identity. The values are upstream's reasons, but for `epoch-not-live` and `enabled`."""

    ENABLED = "enabled"
    INVALID = "invalid-identity"
    UNKNOWN = "unknown-identity"
    DISABLED = "disabled-identity"
    NOT_LIVE = "epoch-not-live"
    NO_KEY = "missing-per-identity-key"


@attrs.frozen
class Found:
    """host: whose identity it is. epoch: of its key. key: None unless it is enabled."""

    host: bytes
    epoch: int
    verdict: Verdict
    key: Key | None = None

    @property
    def reason(self) -> str:
        """For logs; empty if it may come in."""
        return "" if self.verdict is Verdict.ENABLED else self.verdict.value


@attrs.frozen
class KeyFiles:
    """What the configuration says.

    acl: `tls_allowed_clients`. shared: `tls_psk_file`. identity: `tls_psk_identity`, for when there is no acl.
    master, epochs: keys of lines without key= are derived from it, for these epochs.
    """

    acl: Path | None = None
    shared: Path | None = None
    identity: bytes | None = None
    master: Path | None = None
    epochs: tuple[int, ...] = (0,)


@attrs.frozen
class _Keys:
    """All that was read, in one piece."""

    acl: AccessList | None
    shared: Key | None
    own: Mapping[bytes, Key]
    master: Key | None
    notices: tuple[str, ...]


class KeyRing:
    """What a server's context asks. Reads its files when it is made; raises ConfigError (ConfigErrors for several)."""

    def __init__(self, files: KeyFiles) -> None:
        _check(files)
        self.files = files
        self._keys = _load(files)

    @property
    def notices(self) -> tuple[str, ...]:
        """What a person should be told about the files as they were last read."""
        return self._keys.notices

    def reload(self) -> None:
        """Read the files again. Raises ConfigError, and then everything stays as it was.

        May be called in a thread, since it reads files; who is connected is the caller's to ask for, by `status`.
        """
        self._keys = _load(self.files)

    def lookup(self, identity: bytes) -> Found:
        """What is known of an identity as offered, any bytes; with the key, if it may come in. Reads no file."""
        keys = self._keys
        found = self._status(keys, identity)
        if found.verdict is not Verdict.ENABLED:
            if keys.master is not None and found.verdict is not Verdict.INVALID:
                derive(keys.master, b"nobody", 0)  # as much work as for somebody, so that time does not tell them apart
            return found
        key = keys.own.get(identity)
        if key is None and keys.acl is None:
            key = keys.shared
        elif key is None:
            key = derive(keys.master, found.host, found.epoch) if keys.master is not None else keys.shared
        return attrs.evolve(found, key=key)

    def status(self, identity: bytes) -> Verdict:
        """What `lookup` would say of it now. A connection whose identity is not ENABLED any more is to be closed."""
        return self._status(self._keys, identity).verdict

    def _status(self, keys: _Keys, identity: bytes) -> Found:
        try:
            check_identity(identity)
        except ParseError:
            return Found(identity, 0, Verdict.INVALID)
        if keys.acl is None:
            known = identity == self.files.identity
            return Found(identity, 0, Verdict.ENABLED if known else Verdict.UNKNOWN)
        access = keys.acl.find(identity)
        if access is None:
            return Found(identity, split_epoch(identity)[1], Verdict.UNKNOWN)
        if not access.enabled:
            verdict = Verdict.DISABLED
        elif access.key is not None:
            verdict = Verdict.ENABLED if identity in keys.own else Verdict.NO_KEY
        elif keys.master is not None:
            verdict = Verdict.ENABLED if access.epoch in self.files.epochs else Verdict.NOT_LIVE
        else:
            # One shared key, and so one epoch.
            verdict = Verdict.ENABLED if keys.shared is not None and not access.epoch else Verdict.NO_KEY
        return Found(access.host, access.epoch, verdict)


def read_client_key(path: Path | str, identity: bytes) -> tuple[bytes, Key]:
    """A client's identity as it is to be offered, and its key.

    `identity` is `tls_psk_identity`. A key file that was made by us says whose it is; if that is `identity` with an
    epoch, this is what is offered: so a key is exchanged by exchanging one file. Raises ConfigError.
    """
    _check_identity(identity)
    text = read_key(path)
    _no_master(text, path, "tls_psk_file")
    if text.identity is None or text.identity == identity:
        return identity, text.key
    if split_epoch(text.identity)[0] == identity:
        return text.identity, text.key
    raise ConfigError(
        f"is the key of '{terminal_safe(text.identity)}', and tls_psk_identity is '{terminal_safe(identity)}'",
        path=path,
    )


def _check_identity(identity: bytes) -> None:
    try:
        check_identity(identity)
    except ParseError as problem:
        raise ConfigError(str(problem), key="tls_psk_identity") from problem


def _check(files: KeyFiles) -> None:
    """Raises ConfigError for settings that do not go together."""
    if files.identity is not None:
        _check_identity(files.identity)
    if files.master is not None:
        if files.acl is None:
            raise ConfigError(
                "a master key needs tls_allowed_clients: not everybody who has a derived key is to come in",
                key="tls_psk_master",
            )
        if files.shared is not None:
            raise ConfigError("there is a tls_psk_file too: take one of the two away", key="tls_psk_master")
        if not 1 <= len(set(files.epochs)) == len(files.epochs) <= MAX_EPOCHS:
            raise ConfigError(f"name 1 to {MAX_EPOCHS} different epochs", key="tls_psk_epochs")
        wrong = [epoch for epoch in files.epochs if not 0 <= epoch <= MAX_EPOCH]
        if wrong:
            raise ConfigError(f"epoch {wrong[0]} is not 0 to {MAX_EPOCH}", key="tls_psk_epochs")
    elif files.acl is None:
        if files.shared is None:
            raise ConfigError("there is no key: set tls_psk_file, or tls_allowed_clients", key="tls_psk_file")
        if files.identity is None:
            raise ConfigError("there is a tls_psk_file and nobody who may use it", key="tls_psk_identity")


def _no_master(text: KeyText, path: Path | str, setting: str) -> None:
    if text.master:
        raise ConfigError(
            f"is a master key, and {setting} wants a host's: `audisp key derive` makes one of it", path=path
        )


def _load(files: KeyFiles) -> _Keys:
    """Raises ConfigError, or ConfigErrors with everything that is wrong."""
    errors: list[ConfigError] = []
    notices: list[str] = []
    master = shared = None
    if files.master is not None:
        try:
            master = read_key(files.master)
            if master.identity is not None:
                raise ConfigError(
                    f"is the key of '{terminal_safe(master.identity)}' and no master key", path=files.master
                )
        except ConfigError as problem:
            errors.append(problem)
    if files.shared is not None:
        try:
            shared = read_key(files.shared)
            _no_master(shared, files.shared, "tls_psk_file")
        except ConfigError as problem:
            errors.append(problem)
    acl: AccessList | None = None
    own: dict[bytes, Key] = {}
    if files.acl is not None:
        try:
            acl, wrong, notices = read_acl(files.acl)
            errors += wrong or _lines_problems(acl, files)
            if not errors:
                own = _own_keys(acl, files.acl, errors, notices)
            if not any(entry.enabled for entry in acl.entries):
                notices.append(f"{files.acl}: no line is enabled, so nobody can connect")
        except ConfigError as problem:
            errors.append(problem)
    if len(errors) > 1:
        raise ConfigErrors(errors)
    if errors:
        raise errors[0]
    if shared is not None and acl is not None and any(entry.key is not None for entry in acl.entries):
        shared = None
        notices.append(f"{files.shared}: is not used, since the lines of {files.acl} have keys of their own")
    return _Keys(acl, shared.key if shared else None, own, master.key if master else None, tuple(notices))


def _lines_problems(acl: AccessList, files: KeyFiles) -> list[ConfigError]:
    """Lines that do not go together, or not with the settings (upstream.md section 6; suffixes and epochs are ours)."""
    entries = acl.entries
    keyed = [entry for entry in entries if entry.key is not None]
    # A host may have keys of later epochs only: `web1 enabled` beside `web1#2 enabled key=/path`.
    hosts = {host for host, epoch in (split_epoch(entry.name) for entry in keyed) if epoch}
    without = [entry for entry in entries if entry.key is None and (entry.suffix or entry.name not in hosts)]

    def error(entry: Entry, message: str) -> list[ConfigError]:
        shown = "*" * entry.suffix + terminal_safe(entry.name)
        return [ConfigError(f"'{shown}' {message}", path=files.acl, line=entry.line)]

    if files.master is not None:
        for entry in without:
            found = acl.find(entry.name)
            if split_epoch(entry.name)[1] and found is not None and found.host == entry.name:
                return error(entry, "has an epoch, and there is no line for the host itself: add one")
        return []
    for entry in without:
        if entry.suffix:
            return error(entry, "is a suffix: keys for whoever it admits are derived, so set tls_psk_master")
    if without and keyed:
        return error(
            without[0], "has no key=, and other lines have: all must have one, or none (or set tls_psk_master)"
        )
    enabled = [entry for entry in without if entry.enabled]
    if enabled and files.shared is None:
        return error(enabled[0], "has no key: give the line a key=, or set tls_psk_file or tls_psk_master")
    if len(enabled) > 1:
        return error(enabled[1], f"would share its key with line {enabled[0].line}: give each line a key= of its own")
    return []


def _own_keys(acl: AccessList, path: Path, errors: list[ConfigError], notices: list[str]) -> dict[bytes, Key]:
    """The keys that lines name, by identity. What is wrong is added to `errors`."""
    own: dict[bytes, Key] = {}
    lines: dict[Key, int] = {}
    for entry in acl.entries:
        if entry.key is None:
            continue
        file = Path(os.fsdecode(entry.key))
        if not entry.enabled and not file.exists():
            notices.append(f"{path}:{entry.line}: {file} is not there; it is not needed while the line says disabled")
            continue
        try:
            text = read_key(file)
            _no_master(text, file, "key=")
            if text.identity not in (None, entry.name):
                raise ConfigError(f"is the key of '{terminal_safe(text.identity or b'')}'", path=file)
            earlier = lines.setdefault(text.key, entry.line)
            if earlier != entry.line:
                raise ConfigError(f"holds the same key as the file of line {earlier}", path=file)
        except ConfigError as problem:
            errors.append(ConfigError(f"'{terminal_safe(entry.name)}': {problem}", path=path, line=entry.line))
            if len(errors) > MAX_ACL_ERRORS:
                break
            continue
        own[entry.name] = text.key
    return own
