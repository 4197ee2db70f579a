"""Rules from files into this process: read with suspicion, translated by a process that may fail, checked again.

pySigma is never imported here. The child gets the files' content, and gives back bytes that are read as a stranger's.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import attrs
import msgpack  # type: ignore[import-untyped]  # the package ships no types

from audisp.detect.form import MAX_FORM, FormError, Refused, RuleSet, decode
from audisp.errors import AudispError, ConfigError
from audisp.hids.folder import collect

SECONDS: Final = 300.0
"""Until the translation is given up, on the wall; its own limit is in seconds of CPU."""
ERROR_BYTES: Final = 2_000
"""Of what the child says when it fails."""
FORBIDDEN: Final = ("PYSIGMA_ALLOW_EXTERNAL_SOURCES", "PYSIGMA_ALLOW_VARS_EXECUTION")
"""Variables with which pySigma fetches what a file names, or runs code that it names."""
EXTRA: Final = {"sigma": "pysigma", "re2": "google-re2", "ahocorasick_rs": "ahocorasick_rs"}
"""Modules of the optional extra, and the packages they come from."""
CHILD: Final = "audisp.hids.translate"


class NoExtra(AudispError):
    """What rules need is not installed. str() says what to install."""


def require_extra() -> None:
    """Raises NoExtra if a package of the extra ``hids`` is missing."""
    missing = [package for module, package in EXTRA.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise NoExtra(f"rules need {', '.join(missing)}: pip install 'audisp[hids]'")


def load(paths: list[Path]) -> RuleSet:
    """All rules of these folders and files. Raises ConfigError for what cannot be used at all, NoExtra."""
    require_extra()
    for name in FORBIDDEN:
        if name in os.environ:
            raise ConfigError(f"the environment has {name}, with which rules could reach outside; unset it")
    collected = collect(paths)
    rules = translate(collected.files)
    return attrs.evolve(rules, refused=(*collected.refused, *rules.refused))


def translate(files: list[tuple[str, bytes]]) -> RuleSet:
    """What the child makes of the files' content. Raises ConfigError if it fails or writes what is no set of rules.

    If one file brings it down (time, memory), all are lost; it says which it was at.
    """
    if not files:
        return RuleSet()
    given = msgpack.packb([[os.fsencode(name).decode("utf-8", "replace"), data] for name, data in files])
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-m", CHILD],
            input=given,
            capture_output=True,
            timeout=SECONDS,
            env={"LC_ALL": "C.UTF-8"},
            cwd="/",
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"translating the rules took more than {SECONDS:.0f} s") from error
    except OSError as error:
        raise ConfigError(f"translating the rules could not be started: {error.strerror}") from error
    if done.returncode:
        raise ConfigError(f"translating the rules {_how(done.returncode)}: {_said(done.stderr)}")
    if len(done.stdout) > MAX_FORM:
        raise ConfigError(f"the translated rules are larger than {MAX_FORM:,} bytes")
    try:
        return decode(done.stdout)
    except FormError as error:
        raise ConfigError(f"the translation of the rules {error}") from error


def _how(code: int) -> str:
    if code == -9 or code == -24:
        return "took too much time or memory and was ended"
    return f"was ended by signal {-code}" if code < 0 else f"failed (exit status {code})"


def _said(data: bytes) -> str:
    lines = data[-ERROR_BYTES:].decode("utf-8", "replace").strip().splitlines()
    return ascii(lines[-1])[1:-1] if lines else "it said nothing"


__all__ = ["CHILD", "EXTRA", "FORBIDDEN", "NoExtra", "Refused", "load", "require_extra", "translate"]
