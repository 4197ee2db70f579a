"""What is kept of a frame's records beside them is true of every one of them, whatever they say."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.buffer.segment import MAX_NUMBER
from audisp.collector.store_look import MAX_NODE, MAX_NODES, nodes, seconds
from tests.collector.stores import record


def lines(*stamps: int, text: str = "") -> bytes:
    return b"".join(record(n, second)[:-1] + text.encode() + b"\n" for n, second in enumerate(stamps))


@pytest.mark.parametrize(
    ("data", "span"),
    [
        (lines(1700000000), (1700000000, 1700000000)),
        (lines(1700000000, 1700000000, 1700000000), (1700000000, 1700000000)),
        (lines(1700000001, 1700000007), (1700000000, 1700000009)),
        (lines(1700000001, 1700000005, 1700000003), (1700000000, 1700000009)),
        (lines(1699999999, 1700000000), (1000000000, 1999999999)),
        # What stands between may be later, or earlier, than both.
        (lines(1700000001, 1800000000, 1700000007), (1700000001, 1800000000)),
        (lines(1700000001, 1600000000, 1700000007), (1600000000, 1700000007)),
        # Of another length.
        (lines(999999999, 1000000001), (999999999, 1000000001)),
        (lines(7, 12), (7, 12)),
        # A record that spells out a stamp makes it slower, and no other.
        (lines(1700000001, 1700000001, text=" msg=audit(1700000001.000:1)"), (1700000001, 1700000001)),
        (lines(1700000001, 1800000000, 1700000001, text=" msg=audit(1700000001.000:1)"), (1700000001, 1800000000)),
        (lines(int("9" * 20)), (MAX_NUMBER, MAX_NUMBER)),
        (lines(1, int("9" * 20)), (1, MAX_NUMBER)),
        (b"node=x " + lines(1700000001) + lines(1700000001), (1700000001, 1700000001)),
        # Without a stamp it could be any time.
        (b"text\n", (0, MAX_NUMBER)),
        (lines(1700000001) + b"text\n" + lines(1700000001), (0, MAX_NUMBER)),
        (lines(1700000001) + b"text\n", (0, MAX_NUMBER)),
        (b"\n\n", (0, MAX_NUMBER)),
        (b"type=X msg=audit(.1:1):\n", (0, MAX_NUMBER)),
    ],
)
def test_seconds(data: bytes, span: tuple[int, int]) -> None:
    assert seconds(data, data.count(b"\n")) == span


STAMPS = re.compile(rb"^(?:node=[^ \n]+ )?type=[^ \n]+ msg=audit\((\d{1,20})\.\d{1,3}:\d{1,20}\)", re.M)


@given(
    st.lists(
        st.one_of(
            st.integers(1_699_999_990, 1_700_000_010).map(lambda second: record(1, second)),
            st.sampled_from([b"x\n", b"node=a type=b\n", b"node=a type=b msg=audit(1700000003.000:1): text\n"]),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_no_stamp_is_outside(made: list[bytes]) -> None:
    data = b"".join(made)
    found = [int(stamp) for stamp in STAMPS.findall(data)]
    first, last = seconds(data, len(made))
    assert all(first <= stamp <= last for stamp in found)
    if len(found) < len(made):
        assert (first, last) == (0, MAX_NUMBER)


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (record(1), ()),
        (record(1, node="web1"), ("web1",)),
        (record(1, node="web1") + record(2, node="web1"), ("web1",)),
        (record(1, node="web1") + record(2), ("web1",)),
        (record(1) + record(2, node="web1"), ("web1",)),
        (record(1, node="web1") + record(2, node="web11"), ("web1", "web11")),
        (record(1, node="web2") + record(2, node="web1") + record(3, node="web2"), ("web2", "web1")),
        (record(1)[:-1] + b" node=web9\n", ()),
        (record(1, node="web1")[:-1] + b" node=web9\n", ("web1",)),
        (b"node=a\n", ()),
        (b"node= type=x\n", ()),
        (b"node=\xff\x1b[1m type=x msg=audit(1.000:1):\n", ("\\xff\x1b[1m",)),
        (record(1, node="x" * 300), ("x" * MAX_NODE,)),
        (
            b"".join(record(n, node=f"n{n}") for n in range(50)),
            tuple(f"n{n}" for n in range(MAX_NODES)),
        ),
    ],
)
def test_nodes(data: bytes, names: tuple[str, ...]) -> None:
    assert nodes(data, data.count(b"\n")) == names
