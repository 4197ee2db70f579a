"""docs/formats/protocol.md: its examples, byte by byte, its lists, and the implementation that was written from it."""

from __future__ import annotations

import re
from typing import Any, Final

import pytest

from audisp.buffer.segment import ANCHOR, Frame
from audisp.wire.native import (
    DATA_MARK,
    FRAMES,
    MAX_WEIGHT,
    WINDOW,
    Accepted,
    Acknowledged,
    Bye,
    DataFrame,
    Hello,
    Position,
    Receiver,
    Refused,
    Sender,
    Trouble,
    Troubled,
    Welcome,
    gap_frame,
)
from audisp.wire.native_frames import FrameType, Reason
from audisp.wire.native_map import MAX_CONTROL, read_map
from audisp.wire.native_messages import MESSAGES, Ack, Message, Ping
from audisp.wire.native_session import HANDSHAKE
from tests.needs import ROOT
from tests.wire.pages import blocks
from tests.wire.second import SecondCollector, SecondSender
from tests.wire.streams import SPOOL, chain, lines, sender, taken

PAGE: Final = (ROOT / "docs" / "formats" / "protocol.md").read_text()
HEX, DOCUMENTS = blocks("protocol.md")
ONE: Final = DataFrame.read(HEX["data"])
LOST: Final = b"\xa5" * 32

MESSAGES_OF_THE_PAGE: Final[dict[str, Message]] = {
    "hello": Hello(SPOOL, 1, 7, 60, "audisp 1.0"),
    "welcome": Welcome(SPOOL, None, software="audisp 1.0"),
    "welcome-back": Welcome(SPOOL, ONE.after, software="audisp 1.0"),
    "ack": Ack(ONE.after),
    "trouble": Troubled(Trouble.DISK_FULL, "no space left in /var/log/audisp", 30),
    "clear": Troubled(None),
    "ping": Ping(7),
    "refuse": Refused("hole", "records 3 to 4 were left out, and no gap was stated"),
    "bye": Bye(),
}


def plain(document: Any) -> Any:
    """A document of the page with its binary values as bytes."""
    if isinstance(document, dict):
        if document.keys() == {"hex"}:
            return bytes.fromhex(document["hex"])
        return {key: plain(value) for key, value in document.items()}
    return document


def test_every_example_is_looked_at() -> None:
    assert HEX.keys() == MESSAGES_OF_THE_PAGE.keys() | {"data", "gap", "stored"}
    assert DOCUMENTS.keys() == HEX.keys() - {"stored"}
    assert {type(each).TYPE for each in MESSAGES_OF_THE_PAGE.values()} | {FrameType.DATA} == set(FrameType)


@pytest.mark.parametrize("name", MESSAGES_OF_THE_PAGE)
def test_control_frames(name: str) -> None:
    message = MESSAGES_OF_THE_PAGE[name]
    assert message.encode() == HEX[name]
    fields = read_map(HEX[name][28:])
    assert fields == plain(DOCUMENTS[name])
    assert MESSAGES[message.TYPE].decode(fields) == message


def test_data_frames() -> None:
    (records,) = re.findall(r"^```text records\n(.*?)^```$", PAGE, re.M | re.S)
    assert ONE.unpack().decode() == records
    # Another zstd makes other bytes of the same records; the header is the same with any.
    made = DataFrame.make(Frame(1, 2, "netlink", {"received": 2}, ANCHOR, 1_700_000_000_100_000_000, ONE.unpack()))
    assert made.header == ONE.header
    assert ONE.under(bytes(range(16, 24))) == HEX["stored"]
    gap = gap_frame(ONE.after, 5, "dropped", LOST, 1_700_000_001_000_000_000)
    assert gap.under(DATA_MARK) == HEX["gap"]
    for name, frame in (("data", ONE), ("gap", gap)):
        head = frame.head
        assert plain(DOCUMENTS[name]) == {
            "first": head.first,
            "count": head.count,
            "origin": head.origin,
            "books": head.books,
            "previous": head.previous,
            "stamp": head.stamp,
        }


def test_the_examples_are_a_session() -> None:
    here, there = sender(1, 7, software="audisp 1.0"), Receiver(0.0, software="audisp 1.0")
    assert here.take() == HEX["hello"]
    taken(there, HEX["hello"])
    there.welcome(None, 0.0)
    assert there.take() == HEX["welcome"]
    taken(here, HEX["welcome"])
    here.resume(None, 0.0)
    here.send(ONE)
    assert here.take() == HEX["data"]
    (accepted,) = taken(there, HEX["data"])
    assert isinstance(accepted, Accepted)
    there.stored(accepted.frame.after)
    assert there.take() == HEX["ack"]
    assert taken(here, HEX["ack"]) == [Acknowledged(3, 1)]
    here.gap(5, "dropped", LOST, 1_700_000_001_000_000_000)
    assert here.take() == HEX["gap"]
    assert [type(event) for event in taken(there, HEX["gap"])] == [Accepted]
    here.bye()
    assert here.take() == HEX["bye"]


def words(heading: str) -> set[str]:
    """The words in the first column of the last table under a heading."""
    section = PAGE.partition(f"{heading}\n")[2].partition("\n#")[0]
    rows = section.rpartition("\n|---|")[2].splitlines()
    return {
        word for row in rows for word in re.findall(r"`([\w-]+)`", row.split("|")[1] if row.startswith("|") else "")
    }


def test_the_lists_are_whole() -> None:
    assert words("### REFUSE") == {str(reason) for reason in Reason}
    assert words("### TROUBLE") == {str(each) for each in Trouble if each is not Trouble.ERROR} | {"clear"}
    for kind in FrameType:
        assert f"| {kind.value} | {kind.name} |" in PAGE
    for kind in FrameType:
        assert f"\n### {kind.name}\n" in PAGE


def test_the_numbers_are_ours() -> None:
    numbers = {int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*\d|\d", PAGE)}
    assert {MAX_WEIGHT, MAX_CONTROL, FRAMES, int(HANDSHAKE), WINDOW >> 20, Welcome(SPOOL, None).frame} <= numbers


class Shell:
    """One of our two ends, with a shell around it as short as can be."""

    def __init__(self, session: Sender | Receiver, position: Position | None = None) -> None:
        self.session = session
        self.stored: list[bytes] = []
        self._position = position
        self.take = session.take

    def feed(self, data: bytes) -> None:
        session = self.session
        session.feed(data, 0.0)
        while (event := session.next()) is not None:
            if isinstance(session, Sender):
                if isinstance(event, Welcome):
                    session.resume(None, 0.0)
            elif isinstance(event, Hello):
                session.welcome(self._position, 0.0)
            elif isinstance(event, Accepted):
                self.stored.append(event.data)
                session.stored(event.frame.after)


def carry(one: Any, other: Any, step: int) -> None:
    """Bytes between one of ours and one of theirs, until nobody says anything more."""
    while True:
        up, down = one.take(), other.take()
        if not up and not down:
            return
        for data, to in ((up, other), (down, one)):
            for at in range(0, len(data), step):
                to.feed(data[at : at + step])


@pytest.mark.parametrize("step", [1, 13, 1 << 20])
def test_a_second_sender_to_our_receiver(step: int) -> None:
    parts = [lines(1, 4), lines(5, 100), lines(105, 1)]
    first, other = Shell(Receiver(0.0)), SecondSender(parts, SPOOL)
    carry(other, first, step)
    assert first.stored == parts
    assert other.acknowledged == other.next == 106
    # Again, from where the collector stands.
    again = Shell(Receiver(0.0), Position(5, other.frames[0][2]))
    carry(SecondSender(parts, SPOOL), again, step)
    assert again.stored == parts[1:]


@pytest.mark.parametrize("step", [1, 13, 1 << 20])
def test_our_sender_to_a_second_collector(step: int) -> None:
    collector = SecondCollector()
    frames = chain(4, 100, 1)
    for gaps in (False, True):
        here = sender(1, 106)
        carry(Shell(here), collector, step)
        for frame in frames:
            if frame.first == here.next_record:
                here.send(frame)
        if gaps:
            here.gap(200, "dropped", LOST, 0)
        here.bye()
        carry(Shell(here), collector, step)
        assert here.frames == 0
        assert collector.said_bye
        collector.connect()
    assert collector.stored == lines(1, 105)
    assert collector.gaps == [(106, 94, "dropped")]
    assert collector.place == (200, LOST)
