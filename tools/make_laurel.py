"""Write audisp/shapes/laurel_fields.py: which fields laurel 0.5.1 takes for numbers, and of which kind.

laurel decides by a field's name how its value is read. Its package (Debian 12) has no list of the names, but answers
for each: a record with ``NAME=12`` comes back as 12 (decimal), "0x12" (hexadecimal), "0o12" (octal), or as the byte
0x12 (a string in hexadecimal digits). Names asked for: every word in libauparse (auditd's own dictionary of fields),
every word of one or two letters, and every piece of the text around a field name in laurel's program, where its names
stand without anything between them.

Usage: python tools/make_laurel.py [--check]      (Debian 12 with laurel and libauparse0; --check writes nothing)
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from string import ascii_lowercase, digits

TARGET = Path(__file__).resolve().parent.parent / "audisp" / "shapes" / "laurel_fields.py"
LAUREL = Path("/usr/sbin/laurel")
AUPARSE = Path("/usr/lib/x86_64-linux-gnu/libauparse.so.0")
LANDMARK = b"cap_fver"
"""A field name of which laurel's program holds the letters, near those of all others."""
AROUND = 0x8000
LONGEST = 24
AT_ONCE = 20_000
KINDS = {12: "decimal", "0x12": "hexadecimal", "0o12": "octal"}
SUFFIXES = ("uid", "gid")
"""laurel takes every name with such an end for a decimal: the list would have no end."""

CONFIG = """
directory = "{folder}"
[auditlog]
file = "-"
[enrich]
pid = false
container = false
script = false
execve-env = []
"""

HEAD = '''"""Fields that laurel 0.5.1 takes for numbers. Written by tools/make_laurel.py; do not edit."""

from __future__ import annotations

from typing import Final

'''


def candidates() -> list[bytes]:
    """Names to ask for."""
    program = LAUREL.read_bytes()
    at = program.index(LANDMARK)
    found = set(re.findall(rb"[a-z][a-z0-9_-]{0,24}", AUPARSE.read_bytes()))
    for run in re.findall(rb"[A-Za-z][A-Za-z0-9_-]+", program[max(0, at - AROUND) : at + AROUND]):
        for start, end in ((s, e) for s in range(len(run)) for e in range(s + 1, min(s + LONGEST, len(run)) + 1)):
            found.add(run[start:end])
    found |= {a.encode() for a in ascii_lowercase}
    found |= {(a + b).encode() for a, b in product(ascii_lowercase, ascii_lowercase + digits)}
    return sorted(name for name in found if name[:1].isalpha())


def ask(names: list[bytes], folder: str) -> Iterable[tuple[str, str]]:
    """Name and kind of each of these names that is a number."""
    config = Path(folder) / "config.toml"
    config.write_text(CONFIG.format(folder=folder))
    lines = [b"type=PATH msg=audit(1700000000.123:%d): %b=12\n" % (at + 1, name) for at, name in enumerate(names)]
    done = subprocess.run([LAUREL, "--config", config], input=b"".join(lines), capture_output=True, check=True)
    for line in done.stdout.splitlines():
        event = json.loads(line)
        name = names[int(event["ID"].rpartition(":")[2]) - 1].decode()
        kind = KINDS.get(event["PATH"][0][name])
        if kind is not None:
            yield name, kind


def render(kinds: dict[str, str]) -> str:
    """The module's text, as ruff formats it."""
    text = HEAD
    for kind in KINDS.values():
        names = sorted(name for name, its in kinds.items() if its == kind and not name.endswith(SUFFIXES))
        body, line = [], "   "
        for name in names:
            word = f' "{name}",'
            if len(line) + len(word) > 120:
                body.append(line)
                line = "   "
            line += word
        joined = "\n".join([*body, line])
        text += f"# fmt: off\n{kind.upper()}: Final = frozenset({{\n{joined}\n}})\n# fmt: on\n"
        if kind == "hexadecimal":
            text += '"""Written with ``0x``, at most 64 bits."""\n'
        if kind == "octal":
            text += '"""Written with ``0o``."""\n'
        if kind == "decimal":
            ends = " or ".join(f"``{suffix}``" for suffix in SUFFIXES)
            text += f'"""Decimal, and so is every other name that ends with {ends}."""\n'
            text += f"DECIMAL_ENDS: Final = {SUFFIXES!r}\n\n".replace("'", '"')
    return text


def main() -> int:
    """Ask, and write or compare."""
    names = candidates()
    kinds: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for at in range(0, len(names), AT_ONCE):
            kinds |= dict(ask(names[at : at + AT_ONCE], folder))
    text = render(kinds)
    if "--check" in sys.argv[1:]:
        same = TARGET.read_text() == text
        print("up to date" if same else f"{TARGET} differs")
        return 0 if same else 1
    TARGET.write_text(text)
    print(f"{TARGET}: {len(names):,} names asked for, {len(kinds):,} numbers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
