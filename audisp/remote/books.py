"""The books of a stream whose frames are all gone, in a small file of the spool's folder.

Replaced as a whole: written beside, synced, renamed. A file that is not whole is as none; then a loss is told once more
by nobody, and a log that is read again after a crash may send twice what was sent before it.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]  # the package ships no types

from audisp.buffer.segment import MAX_FRAME_HEAD
from audisp.dispatch.folder import open_file, write_whole

SHIFT: Final = "shift"
"""Key of what `Intake` adds to the number of the next record to know how many of those read are accounted for."""

NAME: Final = "books"
_BESIDE: Final = "books.new"
_CRC_BYTES: Final = 4


def keep_books(folder: int, where: Path, books: Mapping[str, Any]) -> None:
    """Replace the file in that folder, durably. where: its path, for messages. OSError, StoreError."""
    data = msgpack.packb(dict(books))
    file = open_file(folder, _BESIDE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, where)
    try:
        write_whole(file, zlib.crc32(data).to_bytes(_CRC_BYTES, "little") + data, 0)
        os.fsync(file)
    finally:
        os.close(file)
    os.rename(_BESIDE, NAME, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


def kept_books(folder: int, where: Path) -> dict[str, Any]:
    """What is kept there; {} if nothing is, or it is not whole. OSError, StoreError."""
    try:
        file = open_file(folder, NAME, os.O_RDONLY, where)
    except FileNotFoundError:
        return {}
    try:
        data = os.pread(file, MAX_FRAME_HEAD, 0)
    finally:
        os.close(file)
    check, data = data[:_CRC_BYTES], data[_CRC_BYTES:]
    if not data or int.from_bytes(check, "little") != zlib.crc32(data):
        return {}
    try:
        books = msgpack.unpackb(data, strict_map_key=True)
    except ValueError:
        return {}
    return books if isinstance(books, dict) else {}


def unread(books: Mapping[str, Any], records: int) -> Mapping[str, Any]:
    """The books with which so many records are stored that did not come from standard input."""
    shift = books.get(SHIFT)
    return {**books, SHIFT: shift - records} if isinstance(shift, int) else books
