"""Names and numbers out of C headers: Linux's and glibc's, as the ziglang wheel (PyPI) carries them for every machine.

A compiler does the reading. It lists the macros and the words of a header, and is then given one line per name that it
answers with a number, or not at all: nothing is parsed here that C would understand in another way.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import zipfile
from pathlib import Path

PREFIX = "ziglang/lib/libc/include/"
LINUX = ("any-linux-any",)
GLIBC = ("generic-glibc",)
FOLDERS = {
    "x86_64": "x86-linux-any",
    "aarch64": "aarch64-linux-any",
    "arm": "arm-linux-any",
    "powerpc": "powerpc-linux-any",
    "s390x": "s390x-linux-any",
    "riscv": "riscv-linux-any",
    "loongarch": "loongarch-linux-any",
    "glibc-x86": "x86-linux-gnu",
}


class Headers:
    """The headers of one wheel, unpacked for as long as the object lives."""

    def __init__(self, wheel: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="headers-")
        root = Path(self._folder.name)
        with zipfile.ZipFile(wheel) as archive:
            wanted = (*LINUX, *GLIBC, *FOLDERS.values())
            members = [name for name in archive.namelist() if name.startswith(tuple(f"{PREFIX}{w}/" for w in wanted))]
            archive.extractall(root, members)
        self._root = root / PREFIX
        own = subprocess.run(["gcc", "-print-file-name=include"], capture_output=True, text=True, check=True)
        self._compiler = own.stdout.strip()  # stddef.h, which glibc's headers want
        text = (self._root / "any-linux-any/linux/version.h").read_text()
        self.version = ".".join(re.findall(r"LINUX_VERSION_(?:MAJOR|PATCHLEVEL)\s+(\d+)", text))

    def _compile(self, source: str, machine: str, *options: str, glibc: bool) -> str:
        folders = [FOLDERS["glibc-x86"], *GLIBC] if glibc else []
        folders += [FOLDERS[machine], *LINUX]
        paths = [*(str(self._root / folder) for folder in folders), *([self._compiler] if glibc else [])]
        include = [part for path in paths for part in ("-isystem", path)]
        done = subprocess.run(
            ["gcc", "-nostdinc", "-w", "-O1", "-x", "c", "-o", "-", *include, *options, "-"],
            input=source,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout if done.returncode == 0 or "-S" not in options else ""

    def read(self, headers: str, pattern: str, machine: str = "x86_64", *, glibc: bool = False) -> dict[str, int]:
        """Every name that matches `pattern` as a whole and that is a constant of at most 64 bits, in header order."""
        includes = "".join(f"#include <{header}>\n" for header in headers.split())
        defined = self._compile(includes, machine, "-E", "-dD", glibc=glibc)
        words = dict.fromkeys(re.findall(r"\b[A-Za-z_]\w*\b", defined))
        names = [name for name in words if re.fullmatch(pattern, name)]
        return self._values(includes, names, machine, glibc=glibc)

    def _values(self, includes: str, names: list[str], machine: str, *, glibc: bool) -> dict[str, int]:
        # One name that is no constant spoils the whole compilation: halves are tried until it is alone.
        if not names:
            return {}
        body = "".join(f'    asm volatile("\\n->{name} %0" : : "i"((long long)({name})));\n' for name in names)
        text = self._compile(f"{includes}void values(void) {{\n{body}}}\n", machine, "-S", glibc=glibc)
        if text:
            found = dict(re.findall(r"^->(\w+) \$(-?\d+)", text, re.M))
            return {name: int(found[name]) for name in names if name in found}
        if len(names) == 1:
            return {}
        half = len(names) // 2
        return {
            **self._values(includes, names[:half], machine, glibc=glibc),
            **self._values(includes, names[half:], machine, glibc=glibc),
        }
