"""Files in places where others have a hand, and names that are no text."""

from __future__ import annotations

import os
from pathlib import Path

from audisp.dispatch import statefile


def test_the_state_file_takes_any_text(tmp_path: Path) -> None:
    path = tmp_path / statefile.NAME
    statefile.write(path, ["source file:/\udcff\u202e = received 1"], 0)
    assert path.read_bytes() == b"source file:/\\udcff\\u202e = received 1\n"
    assert os.listdir(tmp_path) == [statefile.NAME]
