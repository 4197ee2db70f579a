from __future__ import annotations

import contextlib
import gzip
import lzma
import os
import random
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from audisp.sources import compressed
from audisp.sources.compressed import BLOCK, STEP, Damaged, LogReader, form_of, open_log
from tests.needs import ROOT
from tests.sources.collect import lines


def zstd(data: bytes, level: int = 3, checksum: bool = False) -> bytes:
    return zstandard.ZstdCompressor(level=level, write_checksum=checksum).compress(data)


def streamed(data: bytes) -> bytes:
    """A frame whose header does not say how long its content is, as `zstd < log` makes it."""
    packer = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    return packer.compress(data) + packer.flush()


PACK: Final[dict[str, Callable[[bytes], bytes]]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "xz-9": lambda data: lzma.compress(data, preset=9),
    "xz-none": lambda data: lzma.compress(data, check=lzma.CHECK_NONE),
    "zstd": zstd,
    "zstd-19": lambda data: zstd(data, 19),
    "zstd-checksum": lambda data: zstd(data, checksum=True),
    "zstd-streamed": streamed,
}
PACKED: Final = [name for name in PACK if name != "plain"]


def mixed(seed: int, size: int) -> bytes:
    """What packs well and what does not, so that all kinds of blocks occur."""
    chance = random.Random(seed)
    parts = []
    while size > 0:
        kind = chance.randrange(3)
        length = min(size, chance.choice((1, 1000, 70_000, 300_000)))
        one = chance.randbytes(length) if not kind else b"a" * length if kind == 1 else lines(length // 40 + 1)[:length]
        parts.append(one)
        size -= length
    return b"".join(parts)


def read_all(path: Path) -> tuple[bytes, str | None]:
    """Everything that can be read, and the damage behind it."""
    parts: list[bytes] = []
    with open_log(str(path)) as log:
        with contextlib.suppress(Damaged):
            for piece in log:
                parts.append(piece)
        if log.damage is None:
            assert log.packed_bytes == path.stat().st_size
        else:
            with pytest.raises(Damaged) as again:
                log.read()
            assert again.value.strerror == log.damage
        data = b"".join(parts)
        assert log.bytes == len(data)
        return data, log.damage


@pytest.mark.parametrize("name", PACK)
@pytest.mark.parametrize("size", [0, 1, 5, STEP, 3 * BLOCK + 1, 2_000_000])
def test_what_was_packed_comes_out(tmp_path: Path, name: str, size: int) -> None:
    data = mixed(size, size)
    (tmp_path / "log").write_bytes(PACK[name](data))
    assert read_all(tmp_path / "log") == (data, None)


@pytest.mark.parametrize("name", PACK)
@pytest.mark.parametrize("most", [1, 7, 4096, 10_000_000])
def test_a_read_gives_no_more_than_was_asked_for(tmp_path: Path, name: str, most: int) -> None:
    data = lines(500) if most < 100 else mixed(3, 300_000)
    (tmp_path / "log").write_bytes(PACK[name](data))
    with open_log(str(tmp_path / "log")) as log:
        pieces = list(iter(lambda: log.read(most), b""))
        assert log.form == name.partition("-")[0]
        assert log.read(most) == b""
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= most


@pytest.mark.parametrize("name", PACKED)
def test_several_in_a_row_are_one_log(tmp_path: Path, name: str) -> None:
    parts = [lines(900), b"", mixed(5, 200_000), lines(10)]
    packed = [PACK[name](part) for part in parts]
    skipped = b"\x53\x2a\x4d\x18" + (100_000).to_bytes(4, "little") + bytes(100_000)
    between = skipped if name.startswith("zstd") else b""
    for padding in (b"", bytes(4), bytes(200_000)):
        (tmp_path / "log").write_bytes(between + padding.join([piece + between for piece in packed]) + padding)
        assert read_all(tmp_path / "log") == (b"".join(parts), None)


@pytest.mark.parametrize("name", PACKED)
def test_a_cut_file_gives_all_that_it_holds_and_says_that_it_breaks_off(tmp_path: Path, name: str) -> None:
    data = mixed(8, 600_000)
    packed = PACK[name](data)
    form = name.partition("-")[0]
    chance = random.Random(name)
    before = -1
    for cut in sorted({6, 20, len(packed) - 1, *(chance.randrange(6, len(packed)) for _ in range(25))}):
        (tmp_path / "log").write_bytes(packed[:cut])
        found, damage = read_all(tmp_path / "log")
        assert data.startswith(found)
        assert len(found) >= before
        before = len(found)
        if damage is None:  # a checksum of zstd's may be there or not; all else is needed to the last byte
            assert found == data
        else:
            assert damage == f"its {form} data break off behind {len(found):,} unpacked bytes"
    assert before > len(data) - BLOCK - 1


@pytest.mark.parametrize("name", PACKED)
def test_damage_costs_what_lies_behind_it_and_a_little_before(tmp_path: Path, name: str) -> None:
    data = lines(20_000)
    packed = bytearray(PACK[name](data))
    first = PACK[name](data)
    at = len(first) + len(packed) // 2
    packed[at - len(first)] ^= 0x55
    packed[at - len(first) + 1] ^= 0x55
    (tmp_path / "log").write_bytes(first + packed)
    found, damage = read_all(tmp_path / "log")
    assert found.startswith(data)
    assert damage is not None or name in ("xz-none", "zstd", "zstd-19")  # forms without a checksum may not notice
    if damage is not None:
        assert f"behind {len(found):,} unpacked bytes" in damage
        assert "damaged" in damage


@pytest.mark.parametrize("name", PACKED)
def test_what_follows_and_is_something_else_is_said(tmp_path: Path, name: str) -> None:
    for garbage in (b"x", b"\0\0\0x" * 3, lines(1000), PACK["gzip" if name.startswith("xz") else "xz"](b"a")):
        (tmp_path / "log").write_bytes(PACK[name](lines(100)) + garbage)
        found, damage = read_all(tmp_path / "log")
        assert found == lines(100)
        assert damage is not None
        assert "are followed by something else" in damage


@given(
    st.sampled_from(PACKED),
    st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=6)), max_size=4),
    st.integers(0, 400),
)
@settings(max_examples=250, deadline=None)
def test_no_damage_is_an_exception_of_another_kind(
    tmp_path_factory: pytest.TempPathFactory, name: str, changes: list[tuple[int, bytes]], cut: int
) -> None:
    packed = bytearray(PACK[name](lines(20)))
    for at, new in changes:
        packed[at : at + len(new)] = new
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(packed[: len(packed) - cut] if cut < len(packed) - 6 else packed)
    with path.open("rb") as file:
        first = file.read(6)
    if first.startswith((b"BZh", b"\x1f\x9d", b"\x04\x22\x4d\x18")):
        return
    with open_log(str(path)) as log:
        try:
            for _ in log:
                pass
        except Damaged:
            damage = log.damage
            assert damage is not None
            assert log.form in damage
        else:
            assert log.damage is None


def test_a_bomb_costs_time_and_no_memory(tmp_path: Path) -> None:
    """In a process of its own, whose address space ends where a decoder that gives all at once would go on."""
    zeros = bytes(1 << 20)
    packer = zlib.compressobj(9, wbits=31)
    (tmp_path / "gzip").write_bytes(b"".join([packer.compress(zeros) for _ in range(300)]) + packer.flush())
    (tmp_path / "xz").write_bytes(lzma.compress(bytes(300 << 20), preset=0))
    # One frame of 2,400 blocks, each the same byte 128 KiB times: 4 bytes of file for 131,072.
    run = ((BLOCK << 3) | 1 << 1).to_bytes(3, "little") + b"\0"
    end = ((BLOCK << 3) | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
    (tmp_path / "zstd").write_bytes(b"\x28\xb5\x2f\xfd\0\x38" + run * 2399 + end)
    program = (
        "import resource, sys\n"
        "from audisp.sources.compressed import open_log\n"
        "open_log(sys.argv[1]).close()\n"  # what a first use loads is loaded
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20),) * 2)\n"
        "for path in sys.argv[1:]:\n"
        "    with open_log(path) as log:\n"
        "        print(path.rpartition('/')[2], sum(map(len, log)) >> 20)\n"
    )
    paths = [str(tmp_path / name) for name in ("gzip", "xz", "zstd")]
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == ""
    assert done.stdout.split("\n") == ["gzip 300", "xz 300", "zstd 300", ""]


def test_a_window_larger_than_a_decoder_may_take_is_refused(tmp_path: Path) -> None:
    # The window's exponent is 10 + 31: 2 TiB (RFC 8878, 3.1.1.1.2).
    (tmp_path / "zstd").write_bytes(b"\x28\xb5\x2f\xfd\0\xf8" + b"\x01\0\0")
    # A dictionary of 256 MiB is all that is wrong with this one.
    packer = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}])
    packed = bytearray(packer.compress(lines(1)) + packer.flush())
    at = packed.index(bytes((lzma.FILTER_LZMA2, 1)), 12) + 2
    packed[at] = 32  # 256 MiB, as the .xz format encodes it (5.3.1)
    size = (packed[12] + 1) * 4
    packed[12 + size - 4 : 12 + size] = zlib.crc32(packed[12 : 12 + size - 4]).to_bytes(4, "little")
    (tmp_path / "xz").write_bytes(packed)
    for name in ("xz", "zstd"):
        found, damage = read_all(tmp_path / name)
        assert found == b""
        assert damage is not None
        assert "take more than 128 MiB" in damage


def test_a_python_without_lzma_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "xz").write_bytes(lzma.compress(lines(1)))
    monkeypatch.setitem(sys.modules, "lzma", None)
    with open_log(str(tmp_path / "xz")) as log:
        for _ in range(2):
            with pytest.raises(OSError, match=r"built without lzma; use xzcat"):
                log.read()
        assert log.damage is None


@pytest.mark.parametrize(
    ("first", "said"),
    [(b"BZh91AY&SY", "bzcat"), (b"\x1f\x9d\x90tyK", "zcat"), (b"\x04\x22\x4d\x18\x64\x40", "lz4cat")],
)
def test_forms_that_are_unpacked_elsewhere_are_named(tmp_path: Path, first: bytes, said: str) -> None:
    (tmp_path / "log").write_bytes(first)
    with pytest.raises(OSError, match=f"it is compressed; use {said} PATH"):
        open_log(str(tmp_path / "log"))


@pytest.mark.parametrize("first", [b"", b"t", b"type=", b"\x1f", b"\xfd7zXZ", b"\x28\xb5\x2f", b"\x60\x2a\x4d\x18"])
def test_what_only_begins_as_a_packed_file_is_plain(tmp_path: Path, first: bytes) -> None:
    assert form_of(first) == "plain"
    (tmp_path / "log").write_bytes(first)
    assert read_all(tmp_path / "log") == (first, None)


def test_what_is_no_file_is_an_error_that_says_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("log")
    (tmp_path / "log").write_bytes(lines(2))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path, said in (
            (tmp_path, "it is a folder"),
            (tmp_path / "gone", "No such file"),
            (tmp_path / "fifo", "it is a pipe; use stdin"),
            (tmp_path / "socket", "it is a socket; use unix:PATH"),
            (tmp_path / "loop", "symbolic links"),
            (Path("/dev/null"), "it is a device"),
        ):
            with pytest.raises(OSError, match=said):
                open_log(str(path))
    assert read_all(tmp_path / "link") == (lines(2), None)
    with pytest.raises(OSError, match="it is a symbolic link; name the file"):
        compressed.open_regular(str(tmp_path / "link"), links=False)


@pytest.mark.parametrize("name", PACK)
def test_a_pipe_is_read_as_well(name: str) -> None:
    data = mixed(11, 400_000)
    ours, theirs = os.pipe()

    def write() -> None:
        with open(theirs, "wb", buffering=0) as file:
            packed = PACK[name](data)
            for at in range(3):  # so that even the first bytes come one by one
                file.write(packed[at : at + 1])
            file.write(packed[3:])

    writer = threading.Thread(target=write)
    writer.start()
    with LogReader(ours) as log:
        assert b"".join(log) == data
        assert log.form == name.partition("-")[0]
    writer.join()


def test_a_growing_file_is_read_up_to_the_length_it_had(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(lines(100))
    with open_log(str(path)) as log:
        with path.open("ab") as file:
            file.write(lines(100))
        assert b"".join(log) == lines(100)


def test_a_descriptor_that_cannot_be_read_is_an_error_each_time(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(gzip.compress(random.Random(1).randbytes(200_000)))
    log = open_log(str(path))
    assert len(log.read(1000)) == 1000
    folder = os.open(tmp_path, os.O_RDONLY)
    os.dup2(folder, log.file)
    os.close(folder)
    with pytest.raises(IsADirectoryError):
        list(log)
    with pytest.raises(IsADirectoryError):
        log.read()
    assert log.bytes > 60_000
    log.close()
