"""What `audisp key new | derive | check` do.

What goes to standard output can be used as it is: the line for the collector's list, or the content of a key file.
Everything for people goes to standard error, and no key to a terminal.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
from pathlib import Path
from typing import Final

import attrs

from audisp.config.grammar import ConfigErrors
from audisp.errors import AudispError, ConfigError, ParseError
from audisp.parse.acl import ACL_LINE
from audisp.parse.form import terminal_safe
from audisp.parse.psk import MIN_KEY, Key, KeyText, check_identity, derive, key_text, with_epoch
from audisp.tls.keyfile import KEY_MODE, read_acl, read_key, write_key
from audisp.tls.keyring import KeyFiles, KeyRing

OK: Final = 0
WRONG: Final = 1
"""Something is wrong with a file, or could not be done."""
USAGE: Final = 2
"""As argparse's own for arguments that make no sense."""
LOOKED_AT: Final = 4_096
"""Bytes of a file that show whether it is a key or a list."""
FEW_BYTES: Final = 16
"""Fewer different bytes than this in a key are worth a notice: of 32 random ones, 30 differ on average."""


def key(given: argparse.Namespace) -> int:
    """Run what was asked for; returns the exit status."""
    try:
        if given.action == "new":
            return _new(given)
        if given.action == "derive":
            return _derive(given)
    except ParseError as problem:
        _say(f"audisp: {problem}")
        return USAGE
    except ConfigError as problem:
        _say(f"audisp: {problem}")
        return WRONG
    return _check(given)


def _say(line: str) -> None:
    print(terminal_safe(line), file=sys.stderr)


def _new(given: argparse.Namespace) -> int:
    """Raises ParseError for an identity that is none, ConfigError if the file cannot be made."""
    if given.master == (given.identity is not None):
        _say("audisp: key new: name an identity, or --master")
        return USAGE
    identity = None if given.master else check_identity(os.fsencode(given.identity))
    name = given.identity or "master"
    if given.out is None and ("/" in name or name.startswith(".")):
        _say(f"audisp: {name} makes no file name: name the file with --out")
        return USAGE
    path = Path(os.path.abspath(given.out or f"{name}.key"))
    write_key(path, Key(os.urandom(MIN_KEY)), identity)
    if identity is None:
        _say(f"{path}: a master key (mode 0400), for the collector's tls_psk_master; it never leaves that host")
        return OK
    _say(
        f"{path}: a key (mode 0400), for tls_psk_file on {given.identity}; on the collector, tls_allowed_clients wants:"
    )
    line = identity + b" enabled key=" + os.fsencode(path)
    if len(line) > ACL_LINE or any(char.isspace() for char in str(path)):
        _say("a line with the path of the key on the collector; this one is too long for it, or has spaces")
        return WRONG
    print(line.decode("utf-8", "backslashreplace"))
    return OK


def _derive(given: argparse.Namespace) -> int:
    """Raises ParseError for an identity or epoch that is none, ConfigError for the files."""
    host = os.fsencode(given.identity)
    identity = with_epoch(host, given.epoch)
    if given.out is None and sys.stdout.isatty():
        _say("audisp: a key does not belong on a terminal: name a file with --out, or use a pipe")
        return USAGE
    text = read_key(given.master)
    if text.identity is not None:
        raise ConfigError(f"is the key of '{terminal_safe(text.identity)}' and no master key", path=given.master)
    made = derive(text.key, host, given.epoch)
    if given.out is None:
        sys.stdout.write(key_text(made, identity).decode("ascii"))
        sys.stdout.flush()
        return OK
    write_key(given.out, made, identity)
    _say(
        f"{given.out}: the key of {identity.decode('ascii')} (mode 0400), for tls_psk_file there; on the collector a "
        f"line of tls_allowed_clients must admit {given.identity}, and epoch {given.epoch} be live"
    )
    return OK


@attrs.define
class _Findings:
    wrong: bool = False

    def add(self, problem: AudispError) -> None:
        self.wrong = True
        for each in problem.errors if isinstance(problem, ConfigErrors) else (problem,):
            print(terminal_safe(str(each)))


def _check(given: argparse.Namespace) -> int:
    findings = _Findings()
    for path in given.files:
        try:
            if _is_list(path):
                _check_list(path, given, findings)
            else:
                _check_key(path, read_key(path))
        except ConfigError as problem:
            findings.add(problem)
    return WRONG if findings.wrong else OK


def _is_list(path: Path) -> bool:
    """Whether it looks like a list of clients: a key file's first line is one word. What is wrong, its reader says."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            head = file.read(LOOKED_AT).lstrip()
            empty_key = stat.S_IMODE(os.fstat(fd).st_mode) == KEY_MODE
    except OSError:
        return False
    if not head:
        return not empty_key
    return head.startswith(b"#") or len(head.partition(b"\n")[0].split()) > 1


def _check_list(path: Path, given: argparse.Namespace, findings: _Findings) -> None:
    """Raises ConfigError."""
    acl, errors, notices = read_acl(path)
    if errors:
        raise ConfigErrors(errors)
    entries = acl.entries
    if given.master or given.psk_file or any(entry.key or entry.suffix for entry in entries):
        files = KeyFiles(path, given.psk_file, None, given.master, tuple(given.epoch or (0,)))
        notices = list(KeyRing(files).notices)
    elif entries:
        notices.append(f"{path}: its lines name no keys, so none was looked at: give --psk-file or --master")
    for notice in notices:
        print(terminal_safe(f"{notice} (notice)"))
    enabled = sum(entry.enabled for entry in entries)
    suffixes = sum(entry.suffix for entry in entries)
    print(
        terminal_safe(f"{path}: ok: {enabled} enabled, {len(entries) - enabled} disabled")
        + (f", of these with match=suffix {suffixes}" if suffixes else "")
    )


def _check_key(path: Path, text: KeyText) -> None:
    whose = "a master key" if text.master else "a key"
    if text.identity is not None:
        whose += f" of '{text.identity.decode('ascii')}'"
    print(terminal_safe(f"{path}: ok: {whose}, {len(text.key)} bytes"))
    different = len(set(text.key.reveal()))
    if different < min(FEW_BYTES, len(text.key)):
        print(terminal_safe(f"{path}: has {different} different bytes, which is few for a random key (notice)"))
