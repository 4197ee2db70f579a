"""Write audisp/parse/types.py: the names and numbers of audit record types.

Sources of the facts, in order; a later one never changes what an earlier one said:
1. Debian's libaudit1 (3.0.9), asked through ctypes for every number from 1000 to 2999;
2. LATER: names that audit-userspace 4.2 has and 3.0.9 has not (upstream.md section 8, "Notable");
3. KERNEL_ONLY: types that Linux 6.18's include/uapi/linux/audit.h defines and auditd 4.2 has no name for. auditd prints
   them as UNKNOWN[n] and so do we; the names are understood when read.

Usage: python tools/make_types.py [--check]      (Debian 12 with libaudit1; --check compares and writes nothing)
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "audisp" / "parse" / "types.py"
LIBRARY = "libaudit.so.1"
LATER = {1338: "DM_CTRL", 1339: "DM_EVENT", 1423: "LANDLOCK_ACCESS", 1424: "LANDLOCK_DOMAIN"}
KERNEL_ONLY = {
    1420: "IPE_ACCESS",
    1421: "IPE_CONFIG_CHANGE",
    1422: "IPE_POLICY_LOAD",
    1425: "MAC_TASK_CONTEXTS",
    1426: "MAC_OBJ_CONTEXTS",
}

HEAD = '''"""Names and numbers of audit record types. Written by tools/make_types.py; do not edit."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_TYPE: Final = 0xFFFF
"""Largest type number taken from text: nlmsg_type is a u16 (linux/netlink.h), so no record can have a larger one."""

'''

TAIL = '''
_NUMERIC: Final = re.compile(rb"(?:UNKNOWN\\[([0-9]{1,5})\\]|([0-9]{1,5}))\\Z")


def type_name(number: int) -> bytes:
    """The name auditd 4.2 prints for a type; ``UNKNOWN[n]`` where it has none."""
    return NAME.get(number) or b"UNKNOWN[%d]" % number


def type_number(name: bytes) -> int:
    """The number of a name, of ``UNKNOWN[n]`` or of plain digits; 0 if it is none of these. Upper or lower case."""
    number = NUMBER.get(name)
    if number is not None:
        return number
    name = name.upper()
    found = _NUMERIC.match(name)
    if found is None:
        return NUMBER.get(name, 0)
    number = int(found[1] or found[2])
    return number if number <= MAX_TYPE else 0
'''


def known() -> dict[int, str]:
    """What the installed libaudit and LATER say."""
    library = ctypes.CDLL(LIBRARY)
    ask = library.audit_msg_type_to_name
    ask.argtypes, ask.restype = [ctypes.c_int], ctypes.c_char_p
    names = dict(LATER)
    for number in range(1000, 3000):
        answer = ask(number)
        if answer:
            names[number] = answer.decode("ascii")
    return dict(sorted(names.items()))


def render() -> str:
    """The whole module."""
    names = known()
    lines = [HEAD, "NAME: Final[Mapping[int, bytes]] = MappingProxyType(\n    {\n"]
    lines += [f'        {number}: b"{name}",\n' for number, name in names.items()]
    lines.append('    }\n)\n"""Every type that auditd 4.2 prints by name."""\n\n')
    lines.append("NUMBER: Final[Mapping[bytes, int]] = MappingProxyType(\n    {\n")
    lines.append("        **{name: number for number, name in NAME.items()},\n")
    lines += [f'        b"{name}": {number},\n' for number, name in KERNEL_ONLY.items() if number not in names]
    lines.append('    }\n)\n"""The inverse, and the types that only the kernel\'s own header names."""\n')
    lines.append(TAIL)
    return "".join(lines)


def main() -> int:
    text = render()
    if "--check" in sys.argv[1:]:
        return 0 if TARGET.read_text(encoding="utf-8") == text else 1
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
