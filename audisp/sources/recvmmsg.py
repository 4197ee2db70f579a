"""Read many netlink datagrams with one system call: recvmmsg(2) through ctypes.

Each slot takes one datagram, header and payload; types and lengths come out of strided views, one call for all slots.
(Headers in a dense array of their own need a second iovec, which costs the kernel more than the stride costs us.)
Lengths are those of the datagrams, never nlmsg_len: for unicast audit records the kernel leaves the header out of it,
for multicast ones it does not (upstream.md section 8).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Final

SLOTS: Final = 128
"""Datagrams per call. Measured (dispatch-prototype.md section 4): 8 to 512 tried, 128 was the cheapest per record."""
SLOT_BYTES: Final = 9_216
"""Payload of one slot: the kernel's records have at most MAX_AUDIT_MESSAGE_LENGTH, 8,970 bytes."""
HEADER_BYTES: Final = 16
STRIDE: Final = HEADER_BYTES + SLOT_BYTES
"""From one slot to the next."""
NAME_BYTES: Final = 12
"""sizeof(struct sockaddr_nl)."""
MSG_DONTWAIT: Final = 0x40
MSG_WAITFORONE: Final = 0x10000
MSG_TRUNC: Final = 0x20
_MMSGHDR = struct.Struct("@PIPNPNiI")
"""struct mmsghdr on 64-bit Linux: name, namelen, iov, iovlen, control, controllen, flags, len; 64 bytes when padded."""
_MMSG_BYTES: Final = 64
_FLAGS_AT: Final = 48
_LEN_AT: Final = 56

if struct.calcsize("@P") != 8:
    raise ImportError("audisp reads netlink on 64-bit Linux only: struct mmsghdr is laid out otherwise on 32 bits")

_libc = ctypes.CDLL(None, use_errno=True)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
_recvmmsg.restype = ctypes.c_int


class Batch:
    """Buffers for one reader. `receive` fills them anew: whatever is to be kept must be copied before.

    payloads: one view per slot. types, lengths: of the last `receive`; lengths are the payload's.
    """

    def __init__(self, slots: int = SLOTS) -> None:
        self.slots = slots
        self._names = bytearray(NAME_BYTES * slots)
        self._data = bytearray(STRIDE * slots)
        self._iov = bytearray(16 * slots)
        self._messages = bytearray(_MMSG_BYTES * slots)
        name_at, data_at, iov_at, self._at = (
            ctypes.addressof(ctypes.c_char.from_buffer(buffer))
            for buffer in (self._names, self._data, self._iov, self._messages)
        )
        for slot in range(slots):
            struct.pack_into(
                "=QQ",
                self._iov,
                16 * slot,
                data_at + STRIDE * slot,
                STRIDE,
            )
            struct.pack_into(
                "@PIPNPNi",
                self._messages,
                _MMSG_BYTES * slot,
                name_at + NAME_BYTES * slot,
                NAME_BYTES,
                iov_at + 16 * slot,
                1,
                0,
                0,
                0,
            )
        view = memoryview(self._data)
        self.payloads = [view[STRIDE * slot + HEADER_BYTES : STRIDE * (slot + 1)] for slot in range(slots)]
        words = memoryview(self._messages).cast("I")
        self._lengths = words[_LEN_AT // 4 :: _MMSG_BYTES // 4]
        self._flags = words[_FLAGS_AT // 4 :: _MMSG_BYTES // 4]
        self._types = memoryview(self._data).cast("H")[2 :: STRIDE // 2]
        self._sequences = memoryview(self._data).cast("I")[2 :: STRIDE // 4]
        self.types: list[int] = []
        self.lengths: list[int] = []

    def receive(self, fd: int, *, wait: bool) -> int:
        """Datagrams received. With wait, blocks for the first (SO_RCVTIMEO applies); 0 when none came.

        Raises OSError: ENOBUFS when the socket had overflowed, among others.
        """
        count = _recvmmsg(fd, self._at, self.slots, MSG_WAITFORONE if wait else MSG_DONTWAIT, None)
        if count < 0:
            code = ctypes.get_errno()
            if code in (errno.EAGAIN, errno.EINTR):
                return 0
            raise OSError(code, os.strerror(code))
        self.types = self._types[:count].tolist()
        self.lengths = [length - HEADER_BYTES for length in self._lengths[:count].tolist()]
        return int(count)

    def senders(self, count: int) -> bytes:
        """The first `count` sender addresses, 12 bytes each (struct sockaddr_nl)."""
        return bytes(self._names[: NAME_BYTES * count])

    def truncated(self, slot: int) -> bool:
        """The datagram of this slot was longer than the slot."""
        return bool(self._flags[slot] & MSG_TRUNC)
