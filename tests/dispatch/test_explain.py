"""What `audisp explain` says of events that passed lately, and that remembering them costs bounded memory."""

from __future__ import annotations

import random
import threading

import pytest
import trio

from audisp.dispatch import history as history_module
from audisp.dispatch.explain import explain, words
from audisp.dispatch.history import History
from audisp.record import Block
from tests.dispatch.intakes import make_intake
from tests.dispatch.voices import until
from tests.dispatch.worlds import Feed, World, entry


async def test_one_event_from_its_source_to_every_plugin(world: World) -> None:
    world.configure(auditd="end_of_event_timeout = 1\n")
    held = threading.Event()
    world.recorder("blocks")
    world.recorder("events", wants="events")
    world.recorder("filtered", "filter_drop = key i= secret\n")
    world.recorder("held", before=lambda _: held.wait(30) and None)
    feed = Feed()
    async with world.started(feed) as engine:
        try:
            await feed.lines('SYSCALL 7 items=2 key="secret"', "PATH 7 item=0")
            await until(lambda: feed.books.routed == 2)

            async def ask(event_id: str) -> dict:  # type: ignore[type-arg]
                return await trio.to_thread.run_sync(explain, event_id, engine.router.history, engine.roster)

            await until(lambda: not entry(engine, "blocks").intake.books().waiting)
            answer = await ask("1700000000.123:7")
            assert answer["records"][0]["source"] == "feed"
            assert answer["records"][0]["records"] == 2
            assert answer["assembly"] == []
            states = {name: each["state"] for name, each in answer["plugins"].items()}
            assert states["blocks"] == "delivered"
            assert states["held"] == "waiting"
            assert states["events"] == states["filtered"] == "not offered: it waits for the end of its event"
            await until(lambda: entry(engine, "events").intake.delivered == 3)
            answer = await ask("1700000000.123:7")
            assert answer["assembly"][0]["types"] == ["SYSCALL", "PATH"]
            assert answer["assembly"][0]["flags"] == ["its end never came: it was quiet for end_of_event_timeout"]
            assert answer["assembly"][0]["problems"] == ["1 PATH records are missing"]
            plugins = answer["plugins"]
            assert plugins["events"]["delay_seconds"] > 0.9
            assert plugins["filtered"] == {"state": "filtered", "keep": [], "drop": ["key i= secret"]}
            text = "\n".join(words(answer))
            assert "from feed: 2 records" in text
            assert "filtered; filter_drop: key i= secret" in text
            assert (await ask("1700000000.123:8"))["known"] is False
            # A stamp that somebody wrote into a message is no event's.
            await feed.lines("USER 9 pid=1 uid=0 msg='x msg=audit(1700000000.123:8): type=EVIL'")
            await until(lambda: feed.books.routed == 3)
            assert (await ask("1700000000.123:8"))["known"] is False
            assert (await ask("1700000000.123:9"))["records"][0]["records"] == 1
            assert "no longer known" in words(await ask("1700000000.123:8"))[0]
            assert "is no event's id" in (await ask("7"))["error"]
        finally:
            held.set()


async def test_a_loss_is_explained(world: World) -> None:
    held = threading.Event()
    world.recorder("slow", "queue_bytes = 64K\n", before=lambda _: held.wait(30) and None)
    feed = Feed()
    async with world.started(feed) as engine:
        try:
            await feed.send(300, 10, 100)
            await until(lambda: feed.books.routed == 3000)
            answer = explain("1700000000.123:2900", engine.router.history, engine.roster)
            lost = answer["plugins"]["slow"]
            assert (lost["state"], lost["reason"]) == ("lost", "overflow")
            assert lost["first"] <= 2900 <= lost["last"]
        finally:
            held.set()


def _block(serial: int, size: int, chance: random.Random) -> Block:
    data = b"type=USER msg=audit(1700000000.123:%d): x=%b\n" % (serial, chance.randbytes(size // 2).hex().encode())
    return Block(data, 1, "s", 0.0)


@pytest.mark.parametrize("tidy", [True, False])
def test_memory_is_bounded_whatever_passes(tidy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "MAX_STREAM", 1 << 20)
    monkeypatch.setattr(history_module, "MAX_PLAIN", 1 << 18)
    monkeypatch.setattr(history_module, "MAX_PACKED", 1 << 17)
    chance = random.Random(5)
    history, intake = History(), make_intake()
    for serial in range(1, 2000):
        history.note(_block(serial, 4_000, chance), [intake], events=False, marks=None)
        if tidy and serial % 20 == 0:
            history.tidy()
    entries = history.entries()
    plain = sum(len(each.plain) for each in entries if each.plain is not None)
    packed = sum(len(each.packed) for each in entries if each.packed is not None)
    assert plain <= 1 << 18
    assert packed <= (1 << 17) + 100_000
    assert sum(each.size for each in entries) <= 1 << 20
    last = list(history.find(b"audit(1700000000.123:1999):", 1999))
    assert [runs is not None for _, runs in last] == [True]
    if not tidy:
        oldest = entries[0]
        assert oldest.text() is None
        assert oldest.serials is not None
        assert list(history.find(b"nowhere", oldest.serials[0])) == [(oldest, None)]


def test_what_is_old_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "MAX_SECONDS", 0.0)
    history = History()
    history.note(_block(1, 100, random.Random(1)), [], events=False, marks=None)
    history.tidy()
    assert history.entries() == []
