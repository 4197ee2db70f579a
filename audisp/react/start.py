"""How the dispatcher starts the reactor, and what the matcher gets: one end of a socketpair.

For whoever wires it: the dispatcher makes the pair, starts the command with `theirs` as descriptor 0 (and closes it),
and hands `ours` to the matcher, which sends `encode_request` and receives `decode_result`, a packet each. No one
else may keep a copy of either end: that the matcher is gone is known by the end of its packets.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

MODULE: Final = "audisp.react.main"


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends: the matcher's, the reactor's. Packets up to MAX_MESSAGE fit (net.core.wmem_default is 208 KiB)."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def command(
    config: Path,
    state: Path,
    *,
    collector: bool = False,
    ours: Iterable[int] = (),
    netns: Path | None = None,
) -> list[str]:
    """The program and its arguments. ours: uids of ours beside the reactor's own, the matcher's above all. netns: a
    network namespace to enter at start."""
    words = [sys.executable, "-I", "-m", MODULE, "--config", str(config), "--state", str(state)]
    if collector:
        words.append("--collector")
    for uid in ours:
        words += ["--ours", str(uid)]
    if netns is not None:
        words += ["--netns", str(netns)]
    return words
