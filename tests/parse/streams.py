"""Streams that the tests of both readers feed, and what holds for every reader."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from hypothesis import strategies as st

from audisp.parse.stream import Reader, Rejected

TYPES = (b"SYSCALL", b"PATH", b"EOE", b"USER_CMD", b"UNKNOWN[1420]", b"AVC")


def line(serial: int, type_: bytes = b"SYSCALL", text: bytes = b"a=1", node: bytes = b"") -> bytes:
    """One record in string form."""
    return (b"node=%b " % node if node else b"") + b"type=%b msg=audit(1700000000.123:%d): %b\n" % (type_, serial, text)


def feed(reader: Reader, pieces: Iterable[bytes], *, whole: bool = True) -> tuple[bytes, int, list[Rejected]]:
    """All that comes out of a stream, and the books checked after every piece."""
    good, records, bad, fed = [], 0, [], 0
    for piece in pieces:
        reader.feed(piece)
        fed += len(piece)
        assert booked(reader) == fed
        data, count = reader.take()
        assert data.count(b"\n") == count
        good.append(data)
        records += count
        bad += reader.bad
        reader.bad.clear()
    reader.close(whole=whole)
    assert booked(reader) == fed
    assert reader.pending == 0
    data, count = reader.take()
    good.append(data)
    bad += reader.bad
    assert len(bad) == reader.rejected
    assert reader.take() == (b"", 0)
    return b"".join(good), records + count, bad


def booked(reader: Reader) -> int:
    """Every byte fed is in exactly one of these."""
    return reader.accepted_bytes + reader.rejected_bytes + reader.skipped + reader.pending


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """`data` in pieces, cut at these places."""
    ends = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(ends)]


def bytewise(data: bytes) -> list[bytes]:
    """One byte at a time."""
    return [data[at : at + 1] for at in range(len(data))]


records = st.builds(
    line,
    st.integers(0, 2**32 - 1),
    st.sampled_from(TYPES),
    st.binary(max_size=60).map(lambda text: text.translate(None, b"\n\0")),
    st.sampled_from((b"", b"", b"host", b"a:b%c")),
)
"""Valid records."""

places = st.lists(st.integers(0, 1 << 20), max_size=12)
"""Where to cut a stream."""
