"""What the tests of `log` share."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

from audisp_plugins.log_config import LogConfig
from audisp_plugins.log_file import LogFile
from audisp_plugins.log_writer import LogWriter
from tests.plugins.booking import BookingHost, record

MEBIBYTE = 1 << 20
KIB_RECORD = 1024


def kib(serial: int) -> bytes:
    """A record of exactly 1 KiB, LF included."""
    head = record(serial, b"")[:-1]
    return head + b"x" * (KIB_RECORD - len(head) - 1) + b"\n"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def serials(path: Path) -> list[int]:
    return [int(found) for found in re.findall(rb"^type=SYSCALL msg=audit\([0-9.]+:(\d+)\)", path.read_bytes(), re.M)]


def config(folder: Path, **keys: Any) -> LogConfig:
    return LogConfig(log_file=folder / "audit.log", **keys)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def writer_of(settings: LogConfig, host: BookingHost, clock: Clock | None = None) -> LogWriter:
    file = LogFile(settings.log_file, settings.log_group, lambda text: host.say("notice", text))
    file.open_folder()
    return LogWriter(settings, host, file, clock or Clock())
