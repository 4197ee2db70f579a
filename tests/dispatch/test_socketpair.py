"""What a child was sent and what of it it has read, byte by byte."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.buffer.queue import Gap, Marker
from audisp.dispatch.socketpair import Channel
from audisp.parse.form import binary_form
from audisp.record import Block, join
from tests.dispatch.intakes import block


def wire(blocks: list[Block], binary: bool) -> bytes:
    data = b"".join(one.data for one in blocks)
    return binary_form(data) if binary else data


def cuts(blocks: list[Block], binary: bool) -> list[int]:
    """Where in the stream of bytes each record ends."""
    ends, end = [], 0
    for one in join(blocks).lines():
        end += len(binary_form(one) if binary else one)
        ends.append(end)
    return ends


@pytest.fixture(params=[False, True], ids=["string", "binary"])
def binary(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def channel(binary: bool) -> Iterator[Channel]:
    made = Channel(binary=binary)
    yield made
    made.close()


def test_sent_is_not_delivered_and_read_is(channel: Channel, binary: bool) -> None:
    blocks = [block(1, 3), block(4, 2)]
    assert all(channel.push(one) for one in blocks)
    assert channel.settle() == []
    size = len(wire(blocks[:1], binary))
    assert channel.theirs.recv(size) == wire(blocks[:1], binary)
    assert [read.records for read in channel.settle()] == [3]
    assert channel.pending
    channel.theirs.recv(10_000)
    assert [read.records for read in channel.settle()] == [2]
    assert list(channel.blocks()) == []
    assert channel.leftover() == ([], [])


def test_a_full_socket_takes_a_part_and_the_rest_later(channel: Channel, binary: bool) -> None:
    blocks = [block(1, 1000, size=900)]  # no socket buffer holds that at once
    first = 1001
    assert channel.push(blocks[0])
    assert channel.unsent
    assert not channel.flush()
    other = block(first)
    assert not channel.push(other)
    got = b""
    while not channel.flush():
        got += channel.theirs.recv(10_000)
    assert channel.push(other)
    while len(got) < len(wire([*blocks, other], binary)):
        got += channel.theirs.recv(1 << 20)
    assert got == wire([*blocks, other], binary)
    assert sum(read.records for read in channel.settle()) == first


@pytest.mark.parametrize("trim", [False, True])
def test_at_every_byte_what_is_left_begins_at_a_record(binary: bool, trim: bool) -> None:
    blocks = [block(1, 3), block(4, 1, size=90), block(5, 2)]
    ends = cuts(blocks, binary)
    whole = wire(blocks, binary)
    for offset in range(len(whole) + 1):
        channel = Channel(binary=binary)
        for one in blocks:
            assert channel.push(one)
        early = offset // 3
        read = 0
        if early:
            assert len(channel.theirs.recv(early)) == early
        if trim:
            read = sum(one.records for one in channel.settle(trim=True))
            assert read == sum(end <= early for end in ends)
        if offset > early:
            assert len(channel.theirs.recv(offset - early)) == offset - early
        done, again = channel.leftover()
        read += sum(one.records for one in done)
        assert read == sum(end <= offset for end in ends)
        assert [serial for one in again for serial in one.serials()] == list(range(read + 1, 7))
        assert all(one.records == len(one.serials()) for one in again)
        channel.close()


@given(st.integers(0, 2**32), st.booleans())
def test_a_reader_of_random_pieces_and_a_death_at_random(seed: int, binary: bool) -> None:
    rng = random.Random(seed)
    channel = Channel(binary=binary)
    blocks: list[Block] = []
    got = b""
    first, acknowledged = 1, 0
    for _ in range(rng.randrange(1, 12)):
        count = rng.randrange(1, 20)
        blocks.append(block(first, count, size=rng.choice([52, 200, 900])))
        first += count
        assert channel.push(blocks[-1])
        if rng.random() < 0.7:
            unread = channel.unread()
            if unread:
                got += channel.theirs.recv(rng.randrange(1, unread + 1))
        if rng.random() < 0.5:
            acknowledged += sum(read.records for read in channel.settle(trim=rng.random() < 0.5))
    done, again = channel.leftover()
    acknowledged += sum(read.records for read in done)
    ends = cuts(blocks, binary)
    assert acknowledged == sum(end <= len(got) for end in ends)
    assert [serial for one in again for serial in one.serials()] == list(range(acknowledged + 1, first))
    channel.close()


def test_markers_and_what_was_on_disk_are_told_apart() -> None:
    channel = Channel(binary=False)
    marker = Marker(Block(b"type=DAEMON_ERR msg=audit(1.000:1): op=lost\n", 1, "internal", 0.0), Gap("overflow"))
    spooled = block(4, 2)
    spooled.spooled = True
    for one in (block(1, 3), marker, spooled):
        assert channel.push(one)
    channel.theirs.recv(1 << 20)
    assert [(read.records, read.own, read.spooled) for read in channel.settle()] == [
        (3, 0, False),
        (0, 1, False),
        (2, 0, True),
    ]
    channel.close()


def test_a_slow_reader_pins_no_more_than_it_has_not_read() -> None:
    channel = Channel(binary=False)
    big = block(1, 150, size=900)
    assert channel.push(big)
    channel.theirs.recv(100 * 900)
    assert sum(read.records for read in channel.settle(trim=True)) == 100
    (left,) = channel.blocks()
    assert len(left) == 50 * 900
    channel.close()


def test_the_kernel_is_asked_seldom(channel: Channel) -> None:
    first = 1
    while not channel.due:
        assert channel.push(block(first, 100, size=700))
        first += 100
        channel.theirs.recv(1 << 20)
    assert first > 500
    assert sum(read.records for read in channel.settle()) == first - 1
    assert not channel.due


def test_after_the_end_nothing_is_sent_and_what_is_there_is_read(channel: Channel, binary: bool) -> None:
    one = block(1, 3)
    assert channel.push(one)
    channel.end()
    channel.end()
    assert not channel.push(block(4))
    assert channel.theirs.recv(10_000) == wire([one], binary)
    assert channel.theirs.recv(10) == b""


def test_a_binary_frame_that_is_cut_to_the_protocols_length_is_still_one_record() -> None:
    channel = Channel(binary=True)
    long = Block(b"type=SYSCALL msg=audit(1.000:1): " + b"x" * 12_000 + b"\n", 1, "test", 0.0)
    assert channel.push(long)
    assert channel.push(block(2))
    head = channel.theirs.recv(16)
    size = struct.unpack("=IIII", head)[3]
    assert size < 9000
    channel.theirs.recv(size)
    assert [read.records for read in channel.settle(trim=True)] == [1]
    done, again = channel.leftover()
    assert (done, [one.serials() for one in again]) == ([], [[2]])
    channel.close()


@pytest.mark.parametrize("size", [52, 899, 8_000])
@pytest.mark.parametrize("taken", [0, 40_000])
def test_a_record_that_was_begun_is_sent_to_its_end_and_no_other(
    channel: Channel, binary: bool, size: int, taken: int
) -> None:
    big = block(1, 400_000 // size, size=size)
    assert channel.push(big)
    assert channel.unsent
    got = channel.theirs.recv(taken) if taken else b""
    rest = channel.finish()
    assert rest is not None
    while data := channel.theirs.recv(1 << 20):  # EOF comes by itself
        got += data
        channel.flush()
    sent = sum(read.records for read in channel.settle())
    assert sent + rest.records == big.records
    assert rest.serials() == list(range(sent + 1, big.records + 1))
    assert got == wire([big], binary)[: cuts([big], binary)[sent - 1]]
    assert not channel.pending
    assert channel.finish() is None
