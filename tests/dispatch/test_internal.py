"""The dispatcher's own records: their form, and that nothing in them can forge another."""

from __future__ import annotations

import re

import attrs
import pytest

from audisp.buffer.queue import Gap
from audisp.dispatch.identity import Signaller, daemon_fields, signaller
from audisp.dispatch.internal import DAEMON_END, FIRST_SERIAL_BELOW, Internal
from tests.dispatch.worlds import Feed, World

FORM = re.compile(rb"type=DAEMON_END msg=audit\(\d{10}\.\d{3}:(\d+)\): op=x\n")


def test_a_record_has_auditds_form_and_a_serial_of_its_own_row() -> None:
    internal = Internal()
    numbers = []
    for _ in range(3):
        one = internal.record(DAEMON_END, "op=x")
        found = FORM.fullmatch(one.data)
        assert found
        numbers.append(int(found[1]))
        assert (one.records, one.own, one.source) == (1, 0, "internal")
    assert numbers[0] <= FIRST_SERIAL_BELOW
    assert numbers == list(range(numbers[0], numbers[0] + 3))


def test_the_node_stands_before_it() -> None:
    assert Internal(b"host").record(DAEMON_END, "op=x").data.startswith(b"node=host type=DAEMON_END msg=audit(")


@pytest.mark.parametrize("text", ["a\nb", "a\0b", "\n\n", "x\ntype=FORGED msg=audit(1.0:1): y"])
def test_a_record_is_one_line_whatever_is_in_it(text: str) -> None:
    data = Internal().record(DAEMON_END, text).data
    assert data.count(b"\n") == 1
    assert data.endswith(b"\n")
    assert b"\0" not in data


def test_bytes_that_are_no_text_are_carried() -> None:
    assert Internal().record(DAEMON_END, "x=\udcff").data.endswith(b": x=\xff\n")


def test_a_marker_says_count_range_and_reason() -> None:
    one = Internal().loss("mine", Gap("overflow", 5, 10, 14))
    assert one.own == 1
    assert one.data.endswith(b": op=lost plugin=mine count=5 first=10 last=14 reason=overflow res=failed\n")
    none = Internal().loss("mine", Gap("failed", 5))
    assert b" count=5 first=? last=? reason=failed " in none.data


def test_who_signalled_is_told_as_far_as_it_is_known(world: World) -> None:
    plan = world.plan()
    assert daemon_fields("terminate", plan) == "op=terminate auid=? uid=? ses=? pid=? res=success"
    who = Signaller(0, 42, 1000, 3, "unconfined")
    text = daemon_fields("terminate", plan, who, result="failed")
    assert text == "op=terminate auid=1000 uid=0 ses=3 pid=42 subj=unconfined res=failed"
    assert daemon_fields("x", plan, attrs.evolve(who, subject="")).endswith("pid=42 res=success")
    start = daemon_fields("start", plan)
    assert re.fullmatch(
        r"op=start ver=\S+ format=raw kernel=\S+ auid=\d+ pid=\d+ uid=\d+ ses=\d+( subj=\S+)? res=success", start, re.I
    )


async def test_only_the_owner_of_the_stream_is_told_who_signalled(world: World) -> None:
    assert signaller([Feed()]) is None
