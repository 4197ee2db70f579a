"""What shapes say of an event is what Debian's auparse says, where the tables come from."""

from __future__ import annotations

import subprocess
import sys

from tests.needs import ROOT, needs


@needs("ausearch")
def test_the_tables_are_what_auparse_says() -> None:
    argv = [sys.executable, str(ROOT / "tools" / "make_normal.py"), "--check"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
