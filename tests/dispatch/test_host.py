"""What plugins are found, and what the host does for one that is open."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from audisp.dispatch.host import EMIT_BYTES, EMIT_PER_SECOND, PluginHost, installed, load_type, settings_for
from audisp.errors import AudispError, ConfigError, PluginError
from tests.dispatch.voices import Said
from tests.needs import needs

PLUGIN = """
from contextlib import asynccontextmanager
import attrs
from audisp.plugin import PluginType, hookimpl

@attrs.frozen
class Config:
    colour: str = "red"

@asynccontextmanager
async def opened(config, host):
    yield lambda block: None

@hookimpl
def audisp_plugins():
    return [PluginType(name, Config, opened) for name in {names!r}]
"""


def write(folder: Path, text: str, name: str = "mine.py") -> str:
    path = folder / name
    path.write_text(text)
    path.chmod(0o644)
    return str(path)


def test_the_bundled_plugins_are_installed_and_load() -> None:
    assert {"af_unix", "log", "stdout", "syslog"} <= set(installed())
    for name in ("af_unix", "log", "stdout", "syslog"):
        assert load_type(name).name == name
    assert settings_for("stdout") is load_type("stdout").config


def test_a_name_nearly_right_is_named() -> None:
    with pytest.raises(AudispError, match="did you mean syslog"):
        load_type("sysloog")


@needs("root")
@pytest.mark.parametrize("names", [["mine"], ["other"]])
def test_a_file_of_ones_own(safe: Path, names: list[str]) -> None:
    path = write(safe, PLUGIN.format(names=names))
    found = load_type(path)
    assert found.name == names[0]
    assert found.config().colour == "red"
    write(safe, PLUGIN.format(names=names).replace("red", "green and blue"))
    assert load_type(path).config().colour == "green and blue"


@needs("root")
def test_a_change_within_the_same_second_counts_and_no_bytecode_is_left(safe: Path) -> None:
    path = write(safe, PLUGIN.format(names=["mine"]))
    os.utime(path, (1, 1))
    assert load_type(path).config().colour == "red"
    write(safe, PLUGIN.format(names=["mine"]).replace("red", "tan"))
    os.utime(path, (1, 1))
    assert load_type(path).config().colour == "tan"
    assert os.listdir(safe) == ["mine.py"]


@needs("root")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def broken(:\n", "SyntaxError"),
        ("raise ValueError('at import')\n", "ValueError: at import"),
        ("import sys; sys.exit(3)\n", "SystemExit: 3"),
        ("x = 1\n", "declares nothing: a hookimpl named audisp_plugins or audisp_events"),
        (PLUGIN.format(names=["a", "b"]), "declares a, b"),
        (PLUGIN.format(names=["a"]).replace("return [", "return 3 + ["), "TypeError"),
    ],
)
def test_a_file_that_is_no_plugin_costs_itself(safe: Path, text: str, said: str) -> None:
    path = write(safe, text)
    with pytest.raises(PluginError, match=said):
        load_type(path)


@needs("root")
def test_a_file_that_others_could_exchange_is_not_loaded(safe: Path, tmp_path: Path) -> None:
    path = write(safe, PLUGIN.format(names=["mine"]))
    Path(path).chmod(0o666)
    with pytest.raises(ConfigError, match="can be written by"):
        load_type(path)
    with pytest.raises(ConfigError):
        load_type(write(tmp_path, PLUGIN.format(names=["mine"])))
    assert "audisp_plugin_nothing" not in sys.modules


def make(said: Said, emitted: list[tuple[int, str]], clock: list[float] | None = None) -> PluginHost:
    return PluginHost(
        "mine",
        False,
        "/run",
        said,
        lambda type_, text: emitted.append((type_, text)),
        lambda *_: None,
        time.monotonic if clock is None else lambda: clock[0],
    )


def test_emitting_is_for_user_space_types_of_a_bounded_length() -> None:
    emitted: list[tuple[int, str]] = []
    host = make(Said(), emitted)
    host.emit(1700, "op=x")
    assert emitted == [(1700, "emitter=mine op=x")]
    for type_ in (1099, 1200, 1299, 3000, -1):
        with pytest.raises(ValueError, match="may not be emitted"):
            host.emit(type_, "x")
    host.emit(1700, "x" * EMIT_BYTES)
    with pytest.raises(ValueError, match="more than an audit record takes"):
        host.emit(1700, "é" * EMIT_BYTES)
    assert len(emitted) == 2


def test_emitting_is_limited_per_second_and_what_is_not_let_through_is_counted() -> None:
    emitted: list[tuple[int, str]] = []
    clock = [100.0]
    host = make(Said(), emitted, clock)
    for _ in range(EMIT_PER_SECOND + 50):
        host.emit(1700, "x")
    assert len(emitted) == EMIT_PER_SECOND
    assert host.counters == {"emitted": EMIT_PER_SECOND, "emit_dropped": 50}
    clock[0] += 1.0
    host.emit(1700, "x")
    assert len(emitted) == EMIT_PER_SECOND + 1


def test_any_thread_may_call() -> None:
    said, emitted = Said(), list[tuple[int, str]]()
    host = make(said, emitted)
    errors: list[Exception] = []

    def work() -> None:
        try:
            for _ in range(20):
                host.count("things", 2)
                host.emit(1700, "x")
                host.say("info", "hello")
                host.act("syslog", "x")
        except Exception as error:  # noqa: BLE001 - whatever it is, the test is to show it
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert host.counters["things"] == 160
    assert host.counters["action_syslog"] == 80
    assert said.heard("plugin mine: hello")
