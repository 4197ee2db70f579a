"""docs/keys.md and docs/formats/keys.md say what the code does: every reason, and the vectors."""

from __future__ import annotations

import ast
import re

import pytest

from audisp.parse.psk import Key, derive
from audisp.tls.keyring import Verdict
from tests.needs import ROOT

GUIDE = (ROOT / "docs" / "keys.md").read_text()
FORMATS = (ROOT / "docs" / "formats" / "keys.md").read_text()


def _reasons() -> set[str]:
    """First arguments of every TLSError that is made, and the verdicts of a key ring."""
    found = {verdict.value for verdict in Verdict if verdict is not Verdict.ENABLED}
    for path in sorted((ROOT / "audisp" / "tls").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("TLSError"):
                found |= {part.value for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant)}
    return found


def test_the_reasons_are_found() -> None:
    assert _reasons() >= {"wrong-key", "refused", "torn", "tls-error", "handshake-error", "unknown-identity"}


@pytest.mark.parametrize("reason", sorted(_reasons()))
def test_every_reason_is_documented(reason: str) -> None:
    assert f"`{reason}`" in GUIDE


def test_the_vectors_are_right() -> None:
    (master,) = set(re.findall(r"hexkey:([0-9a-f]{64})", FORMATS))
    rows = re.findall(r"^\| `([^`]+)` \| (\d+) \| `([0-9a-f]{64})` \|$", FORMATS, re.M)
    assert len(rows) == 3
    for host, epoch, wanted in rows:
        assert derive(Key(bytes.fromhex(master)), host.encode(), int(epoch)).reveal().hex() == wanted
    info = re.search(r"hexinfo:([0-9a-f]+)", FORMATS)
    assert info is not None
    assert bytes.fromhex(info[1]) == b"audisp psk 1\0" + bytes(4) + rows[0][0].encode()
