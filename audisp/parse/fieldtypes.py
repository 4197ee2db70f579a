"""What kind of value a field holds: the one table behind interpretation, ENRICHED format, filters and shapes.

Kinds, names and exceptions are auparse's (upstream.md section 9; checked against libauparse0 3.0.9 by
``tests/e2e/test_auparse_values.py``). What 3.0.9 has not yet, and 4.2 has: ``uring_op``, ``subj_trust``,
``obj_trust``, ``fan_type``, ``fan_info``, ``errno``.
"""

from __future__ import annotations

import re
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class FieldType(IntEnum):
    """Kinds of values. The numbers up to RESOLVE are libauparse's (auparse-defs.h, auparse_type_t)."""

    UNCLASSIFIED = 0
    UID = 1
    GID = 2
    SYSCALL = 3
    ARCH = 4
    EXIT = 5
    ESCAPED = 6
    PERM = 7
    MODE = 8
    SOCKADDR = 9
    FLAGS = 10
    PROMISC = 11
    CAPABILITY = 12
    SUCCESS = 13
    A0 = 14
    A1 = 15
    A2 = 16
    A3 = 17
    SIGNAL = 18
    LIST = 19
    TTY_DATA = 20
    SESSION = 21
    CAP_BITMAP = 22
    NFPROTO = 23
    ICMPTYPE = 24
    PROTOCOL = 25
    ADDR = 26
    PERSONALITY = 27
    SECCOMP = 28
    OFLAG = 29
    MMAP = 30
    MODE_SHORT = 31
    MAC_LABEL = 32
    PROCTITLE = 33
    HOOK = 34
    NETACTION = 35
    MACPROTO = 36
    IOCTL_REQ = 37
    ESCAPED_KEY = 38
    ESCAPED_FILE = 39
    FANOTIFY = 40
    NLMCGRP = 41
    RESOLVE = 42
    TRUST = 43
    FAN_TYPE = 44
    FAN_INFO = 45
    ERRNO = 46
    URING_OP = 47


_T = FieldType
# fmt: off
_NAMES: Final[Mapping[FieldType, str]] = MappingProxyType({
    _T.UID: "auid uid euid suid fsuid ouid oauid old-auid iuid id inode_uid sauid obj_uid",
    _T.GID: "gid egid sgid fsgid ogid igid inode_gid obj_gid new_gid",
    _T.SYSCALL: "syscall",
    _T.URING_OP: "uring_op",
    _T.ARCH: "arch",
    _T.EXIT: "exit",
    _T.ERRNO: "errno",
    _T.ESCAPED: "path comm exe file watch cwd cmd dir vm old-chardev new-chardev old-disk new-disk old-fs new-fs"
        " old-net new-net old-rng new-rng device cgroup ocomm grp new_group sw root_dir invalid_context"
        " apparmor operation denied_mask info profile requested_mask",
    _T.ESCAPED_FILE: "name",
    _T.ESCAPED_KEY: "key",
    _T.PERM: "perm perm_mask",
    _T.MODE: "mode",
    _T.SOCKADDR: "saddr",
    _T.MMAP: "flags",
    _T.PROMISC: "prom old_prom",
    _T.CAPABILITY: "capability",
    _T.SUCCESS: "res result",
    _T.A0: "a0",
    _T.A1: "a1",
    _T.A2: "a2",
    _T.A3: "a3",
    _T.SIGNAL: "sig sigev_signo",
    _T.LIST: "list",
    _T.TTY_DATA: "data",
    _T.SESSION: "ses",
    _T.CAP_BITMAP: "cap_pi cap_pe cap_pp cap_pa cap_fi cap_fp fp fi old_pp old_pi old_pe old_pa new_pp new_pi new_pe"
        " new_pa pp pi pe pa",
    _T.NFPROTO: "family",
    _T.ICMPTYPE: "icmptype",
    _T.PROTOCOL: "proto",
    _T.ADDR: "addr",
    _T.PERSONALITY: "per",
    _T.SECCOMP: "code",
    _T.OFLAG: "oflag",
    _T.MAC_LABEL: "subj obj scontext tcontext vm-ctx img-ctx",
    _T.PROCTITLE: "proctitle",
    _T.HOOK: "hook",
    _T.NETACTION: "action",
    _T.MACPROTO: "macproto",
    _T.IOCTL_REQ: "ioctlcmd",
    _T.FANOTIFY: "resp",
    _T.NLMCGRP: "nl-mcgrp",
    _T.RESOLVE: "resolve",
    _T.TRUST: "subj_trust obj_trust",
    _T.FAN_TYPE: "fan_type",
    _T.FAN_INFO: "fan_info",
})
_OVERRIDES: Final[Mapping[str, Mapping[str, FieldType]]] = MappingProxyType({
    "ADD_GROUP": MappingProxyType({"id": _T.GID}),
    "GRP_MGMT": MappingProxyType({"id": _T.GID}),
    "DEL_GROUP": MappingProxyType({"id": _T.GID}),
    "AVC": MappingProxyType({"saddr": _T.UNCLASSIFIED}),
    "NETFILTER_PKT": MappingProxyType({"saddr": _T.ADDR}),
    "USER_TTY": MappingProxyType({"msg": _T.ESCAPED}),
    "MQ_OPEN": MappingProxyType({"mode": _T.MODE_SHORT}),
    "PATH": MappingProxyType({"flags": _T.FLAGS}),
    "CRYPTO_KEY_USER": MappingProxyType({"fp": _T.UNCLASSIFIED}),
    "KERN_MODULE": MappingProxyType({"name": _T.ESCAPED}),
})
# fmt: on
"""What a field holds in one type of record, where that is not what it holds elsewhere."""

FIELD_TYPES: Final[Mapping[str, FieldType]] = MappingProxyType(
    {name: type_ for type_, names in _NAMES.items() for name in names.split()}
)
"""Field names and what they hold, whatever the record, but for `field_type`'s exceptions."""

_ENCODED: Final = re.compile(r'"|[0-9A-Fa-f]*+\Z')
_ENCODED_NO_NUMBER: Final = re.compile(r'"|(?![0-9]*+\Z)[0-9A-Fa-f]++\Z')
"""An encoded string by its looks; the second where a number may stand as well."""


def field_type(record_type: str, name: str, value: str) -> FieldType:
    """What a field holds. value: as it stands in the record; it decides for ``acct`` and in TRUSTED_APP records."""
    if record_type == "SYSCALL" and name != "acct":  # most fields are its, and none is an exception
        return FIELD_TYPES.get(name, FieldType.UNCLASSIFIED)
    if record_type == "EXECVE":
        if name[:1] == "a" and name != "argc" and "_len" not in name:
            return FieldType.ESCAPED
    elif record_type in _OVERRIDES:
        found = _OVERRIDES[record_type].get(name)
        if found is not None:
            return found
    elif record_type == "TRUSTED_APP" and name != "acct":
        return FieldType.ESCAPED if _ENCODED_NO_NUMBER.match(value) else FieldType.UNCLASSIFIED
    if name == "acct":
        return FieldType.ESCAPED if _ENCODED.match(value) else FieldType.UNCLASSIFIED
    return FIELD_TYPES.get(name, FieldType.UNCLASSIFIED)
