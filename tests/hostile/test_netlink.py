"""The audit stream, given back while somebody else looks at it."""

from __future__ import annotations

import os
import struct
from typing import Any

import attrs

from audisp.sources import kernel
from audisp.sources.netlink import NetlinkSource


@attrs.define
class Wire:
    """A socket that remembers what pids it asked the kernel to register."""

    pids: list[int] = attrs.field(factory=list)

    def sendto(self, request: bytes, _to: object) -> None:
        mask, _, _, pid = struct.unpack_from("=4I", request, kernel.HEADER.size)
        assert mask == kernel.MASK_PID
        self.pids.append(pid)

    def fileno(self) -> int:
        return 99

    def getsockopt(self, *_: object) -> bytes:
        return bytes(36)


@attrs.define
class Asked:
    """Answers a poll with what the kernel said a moment ago."""

    during: Any

    def status(self) -> kernel.AuditStatus:
        self.during()
        return kernel.AuditStatus(1, 1, 0, 0, 64, 0, 0, 0, 0, 0)


def test_a_poll_that_crosses_the_end_does_not_register_us_again() -> None:
    source = NetlinkSource(say=lambda *_, **__: None)
    wire: Any = Wire()
    source._socket = wire
    control: Any = Asked(source.release)
    source._control = control
    source.poll()
    assert wire.pids == [0]
    source._take_back()
    assert wire.pids == [0]


def test_a_stream_that_was_lost_is_taken_back_before_the_end() -> None:
    source = NetlinkSource(say=lambda *_, **__: None)
    wire: Any = Wire()
    source._socket = wire
    control: Any = Asked(lambda: None)
    source._control = control
    source.poll()
    assert wire.pids == [os.getpid()]
