"""Examples in the pages of formats: blocks whose first line names them, ```hex NAME and ```json NAME."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from tests.needs import ROOT

_BLOCK: Final = re.compile(r"^```(hex|json) ([\w-]+)\n(.*?)^```$", re.M | re.S)


def blocks(page: str) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The bytes and the documents of one page below docs/formats, by name."""
    found = _BLOCK.findall((ROOT / "docs" / "formats" / page).read_text())
    raw = {name: bytes.fromhex(body) for kind, name, body in found if kind == "hex"}
    documents = {name: json.loads(body) for kind, name, body in found if kind == "json"}
    assert len(raw) + len(documents) == len(found), "a name stands twice"
    return raw, documents
