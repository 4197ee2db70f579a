"""Logs as they lie in a folder: plain, or packed by gzip, xz or zstd, told apart by content and unpacked on the way.

No trio in here: a thread of a source reads through it, and a command of the command line. Memory is bounded whatever
the file holds: a decompression bomb costs time. All that comes before a damage is delivered, then `Damaged` is raised.
Formats: RFC 1952 (gzip), the .xz file format 1.2.1, RFC 8878 (zstd).
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Literal, Self

import zstandard

Form = Literal["plain", "gzip", "xz", "zstd"]

CHUNK: Final = 256 * 1024
"""Most bytes given out by one `read` that names no number: as much as a source takes at once (inlet.RECEIVE)."""

PACKED: Final = 64 * 1024
"""Compressed bytes read at once; what they unpack to is taken in steps."""

STEP: Final = 16 * 1024
"""Bytes unpacked by one call of zlib or liblzma, which give nothing of what that call had unpacked when they come upon
damage: at most this much before it is lost with it. With 256 KiB they are a tenth faster, with 4 KiB a tenth slower."""

MEMORY: Final = 128 << 20
"""Bytes that one decoder may take. zstd itself refuses larger windows unless told so, and `xz -9` takes 65 MiB."""

BLOCK: Final = 128 << 10
"""Most bytes of one block of zstd, packed or not (RFC 8878, 3.1.1.2.4)."""

_GZIP: Final = b"\x1f\x8b"
_XZ: Final = b"\xfd7zXZ\0"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE: Final = tuple(bytes([low]) + b"\x2a\x4d\x18" for low in range(0x50, 0x60))
_MAGIC: Final[tuple[tuple[bytes, Form], ...]] = (
    (_GZIP, "gzip"),
    (_XZ, "xz"),
    (_ZSTD, "zstd"),
    *((magic, "zstd") for magic in _SKIPPABLE),  # pzstd begins with one
)
MAGIC_BYTES: Final = len(_XZ)
"""First bytes that tell the form."""

ELSEWHERE: Final = {b"BZh": "bzcat", b"\x1f\x9d": "zcat", b"\x04\x22\x4d\x18": "lz4cat"}
"""First bytes of packed files that are not unpacked here, and what does it: as they are they would be garbage."""

KINDS: Final = {
    stat.S_IFDIR: "it is a folder",
    stat.S_IFIFO: "it is a pipe; use stdin (audispd --source stdin < PATH)",
    stat.S_IFSOCK: "it is a socket; use unix:PATH",
    stat.S_IFCHR: "it is a device",
    stat.S_IFBLK: "it is a device",
}
"""What a path can be other than a file, and what to say of it."""

Pull = Callable[[], bytes]
"""Gives the next packed bytes, b"" at their end."""


class Damaged(OSError):
    """The packed data end before they should, or are not what their format says. strerror says what, and where."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EBADMSG, reason)


class _Fault(Exception):
    """What is wrong, while it is not yet known how much was unpacked before."""


def form_of(first: bytes) -> Form:
    """The form of a file with these first bytes (MAGIC_BYTES of them, or all it has).

    Raises OSError, with what to use instead, for one that can be recognised and not be unpacked here.
    """
    for magic, form in _MAGIC:
        if first.startswith(magic):
            return form
    for magic, program in ELSEWHERE.items():
        if first.startswith(magic):
            raise OSError(errno.EINVAL, f"it is compressed; use {program} PATH | audispd --source stdin")
    return "plain"


def open_regular(path: str, *, links: bool = True) -> tuple[int, os.stat_result]:
    """A descriptor of a regular file, and its facts. Raises OSError with a reason for a person.

    links: whether the path may end in a symbolic link. O_NONBLOCK is for a FIFO, whose opening would wait for a writer;
    it means nothing to a file.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        file = os.open(path, flags if links else flags | os.O_NOFOLLOW)
    except OSError as error:
        raise OSError(error.errno, _reason(error, links)) from error
    try:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.EINVAL, KINDS.get(stat.S_IFMT(facts.st_mode), "it is not a regular file"))
    except BaseException:
        os.close(file)
        raise
    return file, facts


def _reason(error: OSError, links: bool) -> str:
    if error.errno == errno.EACCES:
        return f"permission denied for uid {os.geteuid()}; auditd's logs are root's"
    if error.errno == errno.ENXIO:
        return KINDS[stat.S_IFSOCK]
    if error.errno == errno.ELOOP and not links:
        return "it is a symbolic link; name the file that it leads to (realpath PATH)"
    return error.strerror or str(error)


class LogReader:
    """The bytes of one log from where its descriptor stands to the end, unpacked. For one thread at a time."""

    def __init__(self, file: int, *, most: int = sys.maxsize) -> None:
        """file: also a pipe. most: bytes of it to read, as they lie there. Nothing is closed but by `close`.

        Blocks for the first bytes, which tell the form. Raises OSError (see `form_of`).
        """
        self.file = file
        self.packed_bytes = 0
        """Bytes of the file read so far, as they lie there."""
        self.bytes = 0
        """Bytes given out."""
        self.damage: str | None = None
        """What `Damaged` said, once it was raised or is about to be."""
        self._most = most
        self._left = b""
        self._failure: OSError | None = None
        first = b""
        while len(first) < MAGIC_BYTES and any(magic.startswith(first) for magic, _ in _MAGIC):
            more = self._pull()
            if not more:
                break
            first += more
        self.form: Form = form_of(first)
        self._pieces = unpack(self.form, first, self._pull)

    def read(self, most: int = CHUNK) -> bytes:
        """Up to `most` bytes, b"" at the end. Blocks. Raises Damaged, or OSError, once all before it was given out."""
        if self._failure is not None:
            raise self._failure
        pieces: list[bytes] = []
        have = 0
        try:
            while have < most:
                piece = self._left or next(self._pieces, b"")
                if not piece:
                    break
                self._left = piece[most - have :]
                pieces.append(piece[: most - have])
                have += len(pieces[-1])
                if self.form == "plain":
                    break  # of a pipe: what is there does not wait for what is not
        except _Fault as fault:
            self.damage = f"its {self.form} data {fault} behind {self.bytes + have:,} unpacked bytes"
            self._failure = Damaged(self.damage)
        except OSError as error:
            self._failure = error
        self.bytes += have
        if not have and self._failure is not None:
            raise self._failure
        return b"".join(pieces)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.file)

    def __iter__(self) -> Iterator[bytes]:
        """Chunks up to the end. Raises as `read`."""
        while chunk := self.read():
            yield chunk

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Closed."""
        self.close()

    def _pull(self) -> bytes:
        data = os.read(self.file, min(PACKED, self._most - self.packed_bytes))
        self.packed_bytes += len(data)
        return data


def open_log(path: str) -> LogReader:
    """Open a log, packed or not, for reading. The caller closes it. Raises OSError with a reason for a person.

    Symbolic links are followed: whoever gives the path may read what it leads to. The file is read up to the length
    that it has now.
    """
    file, facts = open_regular(path)
    try:
        return LogReader(file, most=facts.st_size)
    except BaseException:
        os.close(file)
        raise


def unpack(form: Form, first: bytes, pull: Pull) -> Iterator[bytes]:
    """The unpacked bytes in pieces, none empty: the first packed ones are given, more are pulled.

    Several members, streams or frames in a row are one log, and zeros behind one are padding. Ends at the end, or
    raises `_Fault`; what `pull` raises passes through.
    """
    match form:
        case "gzip":
            return _gunzip(first, pull)
        case "xz":
            return _unxz(first, pull)
        case "zstd":
            return _unzstd(first, pull)
    return _plain(first, pull)


def _plain(data: bytes, pull: Pull) -> Iterator[bytes]:
    while data:
        yield data
        data = pull()


def _gunzip(data: bytes, pull: Pull) -> Iterator[bytes]:
    while data:
        decoder = zlib.decompressobj(wbits=31)
        while not decoder.eof:
            data = data or pull()
            last = not data
            try:
                piece = decoder.decompress(data, STEP)
            except zlib.error as error:
                raise _Fault(f"are damaged ({_short(error)})") from error
            data = decoder.unconsumed_tail
            if piece:
                yield piece
            elif last and not decoder.eof:
                raise _Fault("break off")
        data = _behind(decoder.unused_data, pull, _GZIP)


def _unxz(data: bytes, pull: Pull) -> Iterator[bytes]:
    try:
        import lzma  # a Python that was built without it must not fail before it meets such a file
    except ImportError as error:
        reason = "this Python was built without lzma; use xzcat PATH | audispd --source stdin"
        raise OSError(errno.ENOSYS, reason) from error

    while data:
        decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY)
        while not decoder.eof:
            if decoder.needs_input and not data:
                data = pull()
                if not data:
                    raise _Fault("break off")
            try:
                piece = decoder.decompress(data, STEP)
            except lzma.LZMAError as error:
                raise _Fault(f"are damaged, or take more than {MEMORY >> 20} MiB ({_short(error)})") from error
            data = b""  # the decoder keeps what it has not used
            if piece:
                yield piece
        data = _behind(decoder.unused_data, pull, _XZ)


def _unzstd(data: bytes, pull: Pull) -> Iterator[bytes]:
    # Fed block by block: the decoder has no bound for what it gives out at once, and a block has. Four bytes can be one
    # of 128 KiB, and 64 KiB of those 2 GiB. It also keeps nothing back of the blocks before a damaged one.
    buffer = data

    def take(size: int) -> bytes:
        nonlocal buffer
        while len(buffer) < size:
            more = pull()
            if not more:
                raise _Fault("break off")
            buffer += more
        taken, buffer = buffer[:size], buffer[size:]
        return taken

    while buffer:
        magic = take(4)
        if magic in _SKIPPABLE:
            left = int.from_bytes(take(4), "little")
            while left:
                left -= len(take(min(left, PACKED)))
        else:
            decoder = zstandard.ZstdDecompressor(max_window_size=MEMORY).decompressobj()
            try:
                descriptor = take(1)
                decoder.decompress(magic + descriptor + take(_header_rest(descriptor[0])))
                last = False
                while not last:
                    header = take(3)
                    value = int.from_bytes(header, "little")
                    last, kind, size = bool(value & 1), value >> 1 & 3, value >> 3
                    if size > BLOCK:
                        raise _Fault("are damaged (a block longer than blocks are)")
                    piece = decoder.decompress(header + take(1 if kind == 1 else size))
                    if piece:
                        yield piece
                if descriptor[0] & 4:
                    decoder.decompress(take(4))  # the checksum
            except zstandard.ZstdError as error:
                raise _Fault(f"are damaged, or take more than {MEMORY >> 20} MiB ({_short(error)})") from error
        buffer = _behind(buffer, pull, (_ZSTD, *_SKIPPABLE))


def _header_rest(descriptor: int) -> int:
    """Bytes of a frame's header behind its descriptor: window, dictionary's id, content size (RFC 8878, 3.1.1.1)."""
    single = descriptor >> 5 & 1
    size = (single, 2, 4, 8)[descriptor >> 6]
    return (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3] + size


def _behind(data: bytes, pull: Pull, magic: bytes | tuple[bytes, ...]) -> bytes:
    """What follows one member: the start of another, or b"" for the end. Zeros are padding."""
    while not (data := data.lstrip(b"\0")):
        data = pull()
        if not data:
            return b""
    while len(data) < MAGIC_BYTES and (more := pull()):
        data += more
    if not data.startswith(magic):
        raise _Fault("are followed by something else")
    return data


def _short(error: Exception) -> str:
    """The decoder's words without what only its author needs."""
    return str(error).rpartition(": ")[2]
