"""Numbers of machines. Written by tools/make_tables.py; do not edit.

Source: headers of Linux 7.2 (ziglang-0.17.1, PyPI); names: libaudit1 and libauparse0 3.0.9 (Debian).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

MACHINES: Final[Mapping[int, str]] = MappingProxyType(
    {
        2: "sparc",
        4: "m68k",
        8: "mips",
        15: "parisc",
        20: "ppc",
        22: "s390",
        40: "armeb",
        42: "sh",
        46: "h8300",
        88: "m32r",
        92: "openrisc",
        93: "arcompactbe",
        94: "xtensa",
        140: "c6xbe",
        164: "hexagon",
        167: "nds32be",
        189: "microblaze",
        195: "arcv2be",
        21569: "frv",
        1073741827: "i386",
        1073741832: "mipsel",
        1073741864: "arm",
        1073741866: "shel",
        1073741900: "cris",
        1073741917: "arcompact",
        1073741934: "unicore",
        1073741937: "nios2",
        1073741964: "c6x",
        1073741991: "nds32",
        1073742012: "tilepro",
        1073742015: "tilegx32",
        1073742019: "arcv2",
        1073742067: "riscv32",
        1073742076: "csky",
        1073742082: "loongarch32",
        2147483656: "mips64",
        2147483663: "parisc64",
        2147483669: "ppc64",
        2147483670: "s390x",
        2147483690: "sh64",
        2147483691: "sparc64",
        2684354568: "mips64n32",
        3221225480: "mipsel64",
        3221225493: "ppc64le",
        3221225514: "shel64",
        3221225522: "ia64",
        3221225534: "x86_64",
        3221225655: "aarch64",
        3221225663: "tilegx",
        3221225715: "riscv64",
        3221225730: "loongarch64",
        3221262374: "alpha",
        3758096392: "mipsel64n32",
    }
)
"""AUDIT_ARCH_* (linux/audit.h), and what libaudit calls the machine."""
