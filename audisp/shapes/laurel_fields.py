"""Fields that laurel 0.5.1 takes for numbers. Written by tools/make_laurel.py; do not edit."""

from __future__ import annotations

from typing import Final

# fmt: off
DECIMAL: Final = frozenset({
    "argc", "audit_backlog_limit", "audit_backlog_wait_time", "audit_enabled", "audit_failure", "cap_fe", "capability",
    "changed", "compat", "dport", "enforcing", "entries", "errno", "exit", "family", "fd", "fe", "ino", "inode", "ipid",
    "item", "items", "len", "list", "lport", "major", "minor", "nargs", "new-enabled", "new-log_passwd", "new_lock",
    "nlnk-pid", "old-enabled", "old-log_passwd", "old-ses", "old_enforcing", "old_lock", "old_prom", "old_val", "opid",
    "oses", "permissive", "pid", "ppid", "prom", "proto", "res", "rport", "seqno", "ses", "sig", "sigev_signo", "spid",
    "sport", "syscall", "val", "vm-pid",
})
# fmt: on
"""Decimal, and so is every other name that ends with ``uid`` or ``gid``."""
DECIMAL_ENDS: Final = ("uid", "gid")

# fmt: off
HEXADECIMAL: Final = frozenset({
    "arch", "cap_fi", "cap_fp", "cap_fver", "cap_pa", "cap_pe", "cap_pi", "cap_pp", "code", "fi", "flags", "fp", "fver",
    "ioctlcmd", "old_pa", "old_pe", "old_pi", "old_pp", "pa", "pe", "per", "pi", "pp", "qbytes",
})
# fmt: on
"""Written with ``0x``, at most 64 bits."""
# fmt: off
OCTAL: Final = frozenset({
    "mode",
})
# fmt: on
"""Written with ``0o``."""
