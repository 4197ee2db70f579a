"""The wire protocols under hypothesis. What is longer and by coverage runs with the other targets (tests/fuzz)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audisp.wire.native import Accepted, Hello, Receiver
from tests.wire import fuzz_targets
from tests.wire.fuzz_targets import TARGETS, seeds
from tests.wire.streams import SPOOL, chain, taken, wire

# One op of a script: what it does, how many bytes of fuzz it takes, and these.
STEPS = st.tuples(st.integers(0, 255), st.binary(max_size=23)).map(lambda op: bytes([op[0], len(op[1])]) + op[1])
SCRIPTS = st.tuples(st.integers(64, 127), st.lists(STEPS, max_size=20)).map(
    lambda made: bytes([made[0], 0, 0]) + b"".join(made[1])
)


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_peers(name: str) -> None:
    @settings(max_examples=400, deadline=None)
    @given(st.one_of(SCRIPTS, st.binary(max_size=300)))
    def run(data: bytes) -> None:
        TARGETS[name](data)

    for data in seeds():
        TARGETS[name](data)
    run()


@pytest.mark.parametrize("name", TARGETS)
def test_an_honest_peer_with_one_byte_wrong(name: str) -> None:
    for data in list(seeds())[:4]:
        for at in range(1, len(data)):
            TARGETS[name](data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])


def test_the_scripts_get_deep() -> None:
    """What a script makes is not all refused at the first byte."""
    one, two = chain(2, 1)
    known = [Hello(SPOOL, 1, 100).encode(), wire(one), wire(two)]
    session = Receiver(0.0)
    data = fuzz_targets._script(bytes([0, 0, 1, 0, 2, 0]), known)
    (hello,) = taken(session, data)
    assert isinstance(hello, Hello)
    session.welcome(None, 0.0)
    assert [type(event) for event in taken(session)] == [Accepted, Accepted]


def test_a_target_that_finds_something_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_targets, "MAX_OUT", 10)
    with pytest.raises(AssertionError):
        TARGETS["wire-native-receiver"](next(seeds()))
