"""Names and texts that are chosen to mislead: of nodes, plugins, peers, and what a person is shown."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest

from audisp.config.auditd import AuditdConf
from audisp.config.grammar import ConfigErrors
from audisp.dispatch import control, plan
from audisp.dispatch.folder import save_aside
from audisp.errors import SourceError
from audisp.parse.form import terminal_safe
from tests.dispatch.voices import PATIENCE
from tests.needs import needs


@pytest.mark.parametrize("name", ["a\nnode=b", "a\rb", "é", "x" * 256, ""])
def test_a_node_name_that_would_break_records_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    with pytest.raises(ConfigErrors, match="printable ASCII"):
        plan.node_name(AuditdConf(name_format="hostname"))


def test_a_node_name_is_taken_as_it_is() -> None:
    assert plan.node_name(AuditdConf(name_format="user", name="a b")) == b"a_b"


@pytest.mark.parametrize("name", ["a~b", "a" * 250])
def test_what_a_plugin_of_any_name_refused_is_kept(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "aside"
    assert save_aside(folder, name, b"1", 100) == folder / name
    assert save_aside(folder, name, b"2", 100) == folder / f"{name}.1"


def test_nothing_that_formats_and_shows_nothing_reaches_a_terminal() -> None:
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp") and not _visible_format(code):
            assert terminal_safe(chr(code)).isascii(), hex(code)
    for blank in "\u115f\u1160\u3164\uffa0\u2800\ufe0f\u034f\U000e0100":
        assert terminal_safe(f"a{blank}b") not in ("ab", f"a{blank}b")


def _visible_format(code: int) -> bool:
    # Arabic, Kaithi and Syriac signs that stand before numbers, and Egyptian joiners of hieroglyphs: they are drawn.
    return (
        code in (0x6DD, 0x70F, 0x8E2, 0x110BD, 0x110CD)
        or 0x600 <= code <= 0x605
        or 0x890 <= code <= 0x891
        or 0x13430 <= code <= 0x1343F
    )


SERVES = """
import os, socket, sys
os.setuid(65534)
sock = socket.socket(socket.AF_UNIX)
sock.bind(sys.argv[1])
sock.listen()
print("ready", flush=True)
client, _ = sock.accept()
client.sendall(b'{"version": "\\x1b[2J"}\\n')
client.recv(1)
"""


@needs("root")
def test_status_does_not_ask_a_stranger(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    for above in (tmp_path, *tmp_path.parents[:3]):
        if above != Path("/tmp"):
            above.chmod(above.stat().st_mode | 0o011)
    server = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", SERVES, folder / control.NAME], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        with pytest.raises(SourceError, match="served by another user"):
            control.ask(folder, "status")
        give_up = time.monotonic() + PATIENCE
        while server.poll() is None:
            assert time.monotonic() < give_up
            time.sleep(0.01)
    finally:
        server.kill()
        server.communicate()
