"""Which class and activity of OCSF a record type or a system call is: the rows that `audisp.shapes.ocsf` reads.

A row: names, class, activity. What has no row, and what lacks the object that its class cannot be without (a file
without a name, a connection without an address), is a Base Event, with all that is known of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import attrs

OCSF_VERSION: Final = "1.7.0"
"""The version of the schema that events follow and name. Its extract is audisp/shapes/schema_ocsf.json."""

OTHER: Final = 99
"""activity_id of what the class has no number for; activity_name then says it in auditbeat's words."""


@attrs.frozen
class Class:
    """A class of the schema. activities: captions by activity_id."""

    uid: int
    name: str
    category_uid: int
    category: str
    activities: Mapping[int, str]


def _class(uid: int, name: str, category_uid: int, category: str, activities: str) -> Class:
    words = [each.split(" ", 1) for each in activities.split(", ")] if activities else []
    captions = {int(number): caption for number, caption in words}
    return Class(uid, name, category_uid, category, MappingProxyType(captions | {0: "Unknown"}))


BASE: Final = _class(0, "Base Event", 0, "Uncategorized", "")
FILE: Final = _class(
    1001,
    "File System Activity",
    1,
    "System Activity",
    "1 Create, 2 Read, 3 Update, 4 Delete, 5 Rename, 6 Set Attributes, 7 Set Security, 8 Get Attributes, 12 Mount, "
    "13 Unmount, 14 Open",
)
PROCESS: Final = _class(
    1007, "Process Activity", 1, "System Activity", "1 Launch, 2 Terminate, 3 Open, 4 Inject, 5 Set User ID"
)
ACCOUNT: Final = _class(
    3001,
    "Account Change",
    3,
    "Identity & Access Management",
    "1 Create, 3 Password Change, 6 Delete, 7 Attach Policy, 8 Detach Policy, 9 Lock, 12 Unlock",
)
AUTHENTICATION: Final = _class(3002, "Authentication", 3, "Identity & Access Management", "1 Logon, 2 Logoff")
NETWORK: Final = _class(
    4001, "Network Activity", 4, "Network Activity", "1 Open, 4 Fail, 5 Refuse, 6 Traffic, 7 Listen"
)

_CLASSES: Final = {"file": FILE, "process": PROCESS, "account": ACCOUNT, "login": AUTHENTICATION, "network": NETWORK}

_CALLS: Final = """\
execve,execveat process 1
fork,vfork,clone,clone3 process 1
exit,exit_group process 2
kill,tkill,tgkill,pidfd_send_signal,rt_sigqueueinfo,rt_tgsigqueueinfo process 99
ptrace,process_vm_readv process 3
process_vm_writev process 4
setuid,setreuid,setresuid,setfsuid,seteuid process 5
setgid,setregid,setresgid,setfsgid,setegid,setgroups process 99
creat,mkdir,mkdirat,mknod,mknodat,symlink,symlinkat,link,linkat file 1
read,readv,pread64,preadv,preadv2,readlink,readlinkat file 2
write,writev,pwrite64,pwritev,pwritev2,truncate,ftruncate,truncate64,ftruncate64,fallocate file 3
unlink,unlinkat,rmdir file 4
rename,renameat,renameat2 file 5
utime,utimes,futimesat,futimens,utimensat,setxattr,lsetxattr,fsetxattr,setxattrat file 6
removexattr,lremovexattr,fremovexattr,removexattrat file 6
chmod,fchmod,fchmodat,fchmodat2,chown,fchown,lchown,fchownat,chown32,fchown32,lchown32 file 7
access,faccessat,faccessat2,stat,lstat,fstat,stat64,lstat64,fstat64,fstatat64,newfstatat,statx file 8
statfs,fstatfs,statfs64,fstatfs64,getxattr,lgetxattr,fgetxattr,listxattr,llistxattr,flistxattr file 8
mount,move_mount,fsmount file 12
umount,umount2 file 13
open,openat,openat2,open_by_handle_at file 14
connect,accept,accept4 network 1
sendto,sendmsg,sendmmsg,send,recvfrom,recvmsg,recvmmsg,recv network 6
listen network 7
bind network 99
"""

_RECORDS: Final = """\
USER_AUTH,USER_LOGIN,USER_START login 1
USER_LOGOUT,USER_END login 2
USER_ACCT,USER_ERR,LOGIN,CRED_ACQ,CRED_DISP,CRED_REFR,GRP_AUTH login 99
ADD_USER account 1
USER_CHAUTHTOK account 3
DEL_USER account 6
ROLE_ASSIGN account 7
ROLE_REMOVE account 8
ACCT_LOCK account 9
ACCT_UNLOCK account 12
USER_MGMT account 99
ANOM_ABEND process 2
USER_CMD process 1
"""


def _table(text: str) -> Mapping[str, tuple[Class, int]]:
    rows = [line.split() for line in text.splitlines()]
    return MappingProxyType(
        {name: (_CLASSES[class_], int(activity)) for names, class_, activity in rows for name in names.split(",")}
    )


CALLS: Final = _table(_CALLS)
RECORDS: Final = _table(_RECORDS)

FORKS: Final = frozenset({"fork", "vfork", "clone", "clone3"})
"""Calls that return the new process's number."""
SIGNALS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "kill": ("a0", "a1"),
        "tkill": ("a0", "a1"),
        "tgkill": ("a0", "a2"),
        "pidfd_send_signal": ("", "a1"),
        "rt_sigqueueinfo": ("a0", "a1"),
        "rt_tgsigqueueinfo": ("a0", "a2"),
    }
)
"""Which argument is the process, and which the signal (kill(2) and the others' pages)."""
DEADLY: Final = frozenset({9, 15})
"""SIGKILL and SIGTERM: signals that are sent to end a process."""
TARGETS: Final[Mapping[str, str]] = MappingProxyType(
    {"ptrace": "a1", "process_vm_readv": "a0", "process_vm_writev": "a0"}
)
"""Which argument is the process that is looked into."""
PTRACE_INTO: Final = frozenset({4, 5, 6, 13, 15, 16, 0x4205, 0x4206})
"""Requests of ptrace that change another process, or take it over: POKETEXT, POKEDATA, POKEUSER, SETREGS, SETFPREGS,
ATTACH, SETREGSET, SEIZE (linux/ptrace.h, asm/ptrace-abi.h)."""
INBOUND: Final = frozenset({"accept", "accept4", "recvfrom", "recvmsg", "recvmmsg", "recv"})
OUTBOUND: Final = frozenset({"connect", "sendto", "sendmsg", "sendmmsg", "send"})
"""Calls whose address is the other side's, and which way the connection goes."""
FILE_TYPES: Final[Mapping[str, int]] = MappingProxyType(
    {
        "file": 1,
        "directory": 2,
        "character-device": 3,
        "block-device": 4,
        "socket": 5,
        "named-pipe": 6,
        "symlink": 7,
    }
)
"""type_id of a file."""
FILE_CAPTIONS: Final[Mapping[int, str]] = MappingProxyType(
    {
        0: "Unknown",
        1: "Regular File",
        2: "Folder",
        3: "Character Device",
        4: "Block Device",
        5: "Local Socket",
        6: "Named Pipe",
        7: "Symbolic Link",
    }
)
SEVERITIES: Final[Mapping[int, str]] = MappingProxyType({1: "Informational", 2: "Low", 3: "Medium"})
STATUSES: Final[Mapping[str, tuple[int, str]]] = MappingProxyType(
    {"success": (1, "Success"), "fail": (2, "Failure"), "unknown": (0, "Unknown")}
)
