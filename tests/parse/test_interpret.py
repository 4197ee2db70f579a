"""What fields say, in words: tables of values, and any text at all."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.parse.fieldtypes import FIELD_TYPES, FieldType, field_type
from audisp.parse.interpret import Names, escape, group_name, interpret, user_name
from audisp.parse.interpret_text import Escape


@attrs.frozen
class Few:
    """Names of one user and one group."""

    def user(self, uid: int) -> str | None:
        return {1000: "alice", 0: "not asked"}.get(uid)

    def group(self, gid: int) -> str | None:
        return {100: "users", 0: "not asked"}.get(gid)


NAMES: Names = Few()
X86_64 = "c000003e"


@pytest.mark.parametrize(
    ("record", "name", "value", "shown"),
    [
        ("SYSCALL", "uid", "1000", "alice"),
        ("SYSCALL", "uid", "0", "root"),
        ("SYSCALL", "auid", "4294967295", "unset"),
        ("SYSCALL", "auid", "-1", "unset"),
        ("SYSCALL", "uid", "4294967294", "unknown(4294967294)"),
        ("SYSCALL", "uid", "1001", "unknown(1001)"),
        ("SYSCALL", "uid", "4294967296", "4294967296"),
        ("SYSCALL", "uid", "-2", "-2"),
        ("SYSCALL", "uid", "vagrant", "vagrant"),
        ("SYSCALL", "uid", "", ""),
        ("SYSCALL", "gid", "100", "users"),
        ("SYSCALL", "gid", "0", "root"),
        ("USER_MGMT", "id", "1000", "alice"),
        ("ADD_GROUP", "id", "100", "users"),
        ("SYSCALL", "ses", "4294967295", "unset"),
        ("SYSCALL", "ses", "-1", "unset"),
        ("SYSCALL", "ses", "7", "7"),
        ("SYSCALL", "exit", "0", "0"),
        ("SYSCALL", "exit", "-13", "EACCES(Permission denied)"),
        ("SYSCALL", "exit", "-512", "ERESTARTSYS(Unknown error 512)"),
        ("SYSCALL", "exit", "-4095", "-4095"),
        ("SYSCALL", "exit", "18446744073709551603", "18446744073709551603"),
        ("SYSCALL", "exit", "140737488355328", "140737488355328"),
        ("SYSCALL", "success", "no", "no"),
        ("USER_LOGIN", "res", "success", "success"),
        ("CONFIG_CHANGE", "res", "1", "yes"),
        ("CONFIG_CHANGE", "res", "0", "no"),
        ("SYSCALL", "comm", '"cat"', "cat"),
        ("SYSCALL", "comm", "6869207468657265", "hi there"),
        ("SYSCALL", "comm", "DEADBEEF", "\u07ad\udcbe\udcef"),
        ("SYSCALL", "comm", "C3A9", "é"),
        ("SYSCALL", "comm", '"\xc3\xa9"', "é"),
        ("SYSCALL", "comm", "(null)", "(null)"),
        ("SYSCALL", "comm", "616", "616"),
        ("SYSCALL", "key", "(null)", "(null)"),
        ("SYSCALL", "key", "6B657931016B657932", "key1,key2"),
        ("EXECVE", "a1", "22", '"'),
        ("EXECVE", "a2", '"DEADBEEF"', "DEADBEEF"),
        ("EXECVE", "a10", "6120", "a "),
        ("EXECVE", "a1[0]", "4141", "AA"),
        ("EXECVE", "a1_len", "12", "12"),
        ("EXECVE", "argc", "61", "61"),
        ("PROCTITLE", "proctitle", "6C73002D6C61002F746D702F612062", "ls -la /tmp/a b"),
        ("TTY", "data", "6C732022610D1B5B411B", '"ls \\"a",<ret>,<up>,<esc>'),
        ("TTY", "data", '"as it is"', '"as it is"'),
        ("USER_CMD", "cmd", "6563686F2068692774", "echo hi't"),
        ("USER_LOGIN", "acct", '"root"', "root"),
        ("USER_LOGIN", "acct", "28756E6B6E6F776E207573657229", "(unknown user)"),
        ("USER_LOGIN", "acct", "?", "?"),
        ("PATH", "mode", "0100644", "file,644"),
        ("PATH", "mode", "041777", "dir,sticky,777"),
        ("PATH", "mode", "0104755", "file,suid,755"),
        ("PATH", "mode", "0170000", "017,000"),
        ("PATH", "mode", "9", "9"),
        ("PATH", "flags", "21", "follow,noalt"),
        ("PATH", "flags", "0", "none"),
        ("MQ_OPEN", "mode", "0640", "0640"),
        ("MQ_OPEN", "oflag", "0x42", "O_RDWR|O_CREAT"),
        ("MMAP", "flags", "0x22", "MAP_PRIVATE|MAP_ANONYMOUS"),
        ("BPRM_FCAPS", "fp", "0000000000000400", "net_bind_service"),
        ("BPRM_FCAPS", "old_pe", "0", "none"),
        ("CRYPTO_KEY_USER", "fp", "SHA256:61", "SHA256:61"),
        ("AVC", "capability", "21", "sys_admin"),
        ("AVC", "capability", "77", "unknown-capability(77)"),
        ("AVC", "ioctlcmd", "0x5401", "TCGETS"),
        ("AVC", "saddr", "127.0.0.1", "127.0.0.1"),
        ("SECCOMP", "code", "0x7ffc0000", "log"),
        ("SECCOMP", "code", "0x50001", "errno"),
        ("SECCOMP", "sig", "31", "SIGSYS"),
        ("ANOM_ABEND", "sig", "30", "SIGPWR"),
        ("ANOM_ABEND", "sig", "99", "unknown-signal(99)"),
        ("ANOM_PROMISCUOUS", "prom", "256", "yes"),
        ("ANOM_PROMISCUOUS", "old_prom", "0", "no"),
        ("CONFIG_CHANGE", "list", "4", "exit"),
        ("CONFIG_CHANGE", "list", "7", "io_uring"),
        ("CONFIG_CHANGE", "perm", "6", "read,write"),
        ("CONFIG_CHANGE", "perm", "0", "read,write,exec,attr"),
        ("CONFIG_CHANGE", "perm", "16", "16"),
        ("NETFILTER_CFG", "family", "10", "ipv6"),
        ("NETFILTER_PKT", "proto", "6", "tcp"),
        ("NETFILTER_PKT", "proto", "254", "undefined protocol"),
        ("NETFILTER_PKT", "icmptype", "8", "echo"),
        ("NETFILTER_PKT", "hook", "1", "INPUT"),
        ("NETFILTER_PKT", "action", "0", "ACCEPT"),
        ("NETFILTER_PKT", "macproto", "0800", "IP"),
        ("NETFILTER_PKT", "macproto", "86DD", "IPV6"),
        ("NETFILTER_PKT", "saddr", "192.0.2.1", "192.0.2.1"),
        ("FANOTIFY", "resp", "2", "deny"),
        ("FANOTIFY", "fan_type", "1", "rule_info"),
        ("FANOTIFY", "fan_info", "1F", "31"),
        ("FANOTIFY", "subj_trust", "2", "unknown"),
        ("EVENT_LISTENER", "nl-mcgrp", "1", "audit-netlink-multicast"),
        ("OPENAT2", "resolve", "0x8", "RESOLVE_BENEATH"),
        ("OPENAT2", "resolve", "0x0", "0x0"),
        ("URINGOP", "uring_op", "18", "openat"),
        ("URINGOP", "uring_op", "999", "999"),
        ("SOCKADDR", "saddr", "020001BBC00002010000000000000000", "{ saddr_fam=inet laddr=192.0.2.1 lport=443 }"),
        ("USER_TTY", "msg", "6162", "ab"),
        ("KERN_MODULE", "name", '"xfs"', "xfs"),
        ("SYSCALL", "subj", "unconfined", "unconfined"),
        ("SYSCALL", "tty", "pts0", "pts0"),
        ("SYSCALL", "no_such_field", '"x"', '"x"'),
    ],
)
def test_fields(record: str, name: str, value: str, shown: str) -> None:
    assert interpret(record, name, value, {"arch": X86_64}, NAMES) == shown


@pytest.mark.parametrize(
    ("arch", "syscall", "shown"),
    [
        (X86_64, "59", "execve"),
        (X86_64, "1073742344", "execve"),  # x32: bit 30, 520
        (X86_64, "9999", "unknown-syscall(9999)"),
        (X86_64, "-1", "unknown-syscall(-1)"),
        (X86_64, "execve", "execve"),
        ("40000003", "11", "execve"),
        ("c00000b7", "221", "execve"),
        ("c00000f3", "221", "execve"),
        ("80000015", "11", "execve"),
        ("c0000015", "11", "execve"),
        ("80000016", "11", "execve"),
        ("40000028", "11", "execve"),
        ("c0000102", "221", "execve"),
        ("40000008", "4011", "unknown-syscall(4011)"),  # mips: no table
        ("", "59", "59"),
        ("zz", "59", "59"),
    ],
)
def test_syscalls(arch: str, syscall: str, shown: str) -> None:
    assert interpret("SYSCALL", "syscall", syscall, {"arch": arch}, NAMES) == shown


@pytest.mark.parametrize(
    ("call", "a0", "shown"),
    [
        ("102", "3", "socketcall(connect)"),
        ("102", "99", "socketcall"),
        ("102", "zz", "socketcall"),
        ("117", "15", "ipc(shmat)"),
    ],
)
def test_calls_within_calls(call: str, a0: str, shown: str) -> None:
    assert interpret("SYSCALL", "syscall", call, {"arch": "40000003", "a0": a0}, NAMES) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (X86_64, "x86_64"),
        ("C000003E", "x86_64"),
        ("40000028", "arm"),
        ("c0000102", "loongarch64"),
        ("80000016", "s390x"),
        ("7", "unknown-elf-type(7)"),
        ("x86_64", "x86_64"),
    ],
)
def test_machines(value: str, shown: str) -> None:
    assert interpret("SYSCALL", "arch", value, {}, NAMES) == shown


@pytest.mark.parametrize(
    ("arch", "call", "registers", "index", "shown"),
    [
        (X86_64, 257, "ffffff9c 7ffe 80241 1b6", 0, "AT_FDCWD"),
        (X86_64, 257, "ffffffffffffff9c 7ffe 80241 1b6", 0, "AT_FDCWD"),
        (X86_64, 257, "ffffff9c 7ffe 80241 1b6", 1, "0x7ffe"),
        (X86_64, 257, "ffffff9c 7ffe 80241 1b6", 2, "O_WRONLY|O_CREAT|O_TRUNC|O_CLOEXEC"),
        (X86_64, 257, "5 7ffe 0 0", 0, "0x5"),
        (X86_64, 2, "7ffe 42 1b6 0", 2, "0666"),
        (X86_64, 2, "7ffe 2 1b6 0", 2, "0x1b6"),
        (X86_64, 2, "7ffe 10000 0 0", 1, "O_RDONLY|O_DIRECTORY"),
        ("c00000b7", 56, "ffffff9c 7ffe 4000 0", 2, "O_RDONLY|O_DIRECTORY"),
        ("c0000015", 286, "ffffff9c 7ffe 4000 0", 2, "O_RDONLY|O_DIRECTORY"),
        (X86_64, 9, "0 1000 3 22", 2, "PROT_READ|PROT_WRITE"),
        (X86_64, 9, "0 1000 0 22", 2, "PROT_NONE"),
        (X86_64, 9, "0 1000 3 62", 3, "MAP_PRIVATE|MAP_ANONYMOUS|MAP_32BIT"),
        (X86_64, 9, "0 1000 3 54040022", 3, "MAP_PRIVATE|MAP_ANONYMOUS|MAP_HUGETLB|21<<MAP_HUGE_SHIFT"),
        ("c0000015", 90, "0 1000 3 62", 3, "MAP_PRIVATE|MAP_ANONYMOUS|MAP_NORESERVE"),
        (X86_64, 56, "1200011 0 0 0", 0, "CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD"),
        (X86_64, 56, "11 0 2000000 0", 2, "0x2000000"),
        (
            X86_64,
            56,
            "3d0f00 0 0 0",
            0,
            "CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_SYSVSEM|"
            "CLONE_SETTLS|CLONE_PARENT_SETTID|CLONE_CHILD_CLEARTID",
        ),
        (X86_64, 56, "0 0 0 0", 0, "0x0"),
        (X86_64, 56, "ff 0 0 0", 0, "0xff"),
        (X86_64, 165, "0 0 0 0", 3, "0x0"),
        (X86_64, 135, "ff 0 0 0", 0, "unknown-personality(0xff)"),
        (X86_64, 144, "0 4 0 0", 1, "unknown-scheduler-policy(0x4)"),
        ("80000016", 120, "0 1200011 0 0", 1, "CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD"),
        (X86_64, 272, "2000080 0 0 0", 0, "CLONE_NEWTIME|CLONE_NEWCGROUP"),
        (X86_64, 41, "2 80001 0 0", 0, "inet"),
        (X86_64, 41, "2 80001 0 0", 1, "SOCK_STREAM"),
        (X86_64, 41, "2 80001 6 0", 2, "tcp"),
        (X86_64, 41, "63 1 6 0", 0, "unknown-family(0x63)"),
        (X86_64, 54, "3 1 2 0", 1, "SOL_SOCKET"),
        (X86_64, 54, "3 1 2 0", 2, "SO_REUSEADDR"),
        (X86_64, 54, "3 6 1 0", 2, "TCP_NODELAY"),
        (X86_64, 54, "3 7777 1 0", 1, "unknown-sockopt-level(0x7777)"),
        (X86_64, 54, "3 7777 1 0", 2, "0x1"),
        (X86_64, 105, "3e8 0 0 0", 0, "alice"),
        (X86_64, 105, "ffffffff 0 0 0", 0, "unset"),
        (X86_64, 106, "64 0 0 0", 0, "users"),
        (X86_64, 157, "1 9 0 0", 0, "PR_SET_PDEATHSIG"),
        (X86_64, 157, "1 9 0 0", 1, "SIGKILL"),
        (X86_64, 157, "18 15 0 0", 1, "sys_admin"),
        (X86_64, 157, "f 7ffe 0 0", 1, "0x7ffe"),
        (X86_64, 72, "3 2 1 0", 2, "FD_CLOEXEC"),
        (X86_64, 72, "3 ffffffff 1 0", 1, "unknown-fcntl-command(-1)"),
        (X86_64, 165, "0 0 0 c0ed1001", 3, "MS_RDONLY|MS_BIND"),
        (X86_64, 29, "0 1000 380 0", 2, "IPC_CREAT|0600"),
        (X86_64, 29, "0 1000 780 0", 2, "IPC_CREAT|IPC_EXCL|0600"),
        (X86_64, 135, "40000 0 0 0", 0, "PER_LINUX|~ADDR_NO_RANDOMIZE"),
        (X86_64, 144, "0 40000001 0 0", 1, "SCHED_FIFO|SCHED_RESET_ON_FORK"),
        (X86_64, 62, "1 9 0 0", 1, "SIGKILL"),
        (X86_64, 101, "10 1 0 0", 0, "PTRACE_ATTACH"),
        (X86_64, 16, "3 5401 0 0", 1, "TCGETS"),
        (X86_64, 21, "7ffe 4 0 0", 1, "R_OK"),
        (X86_64, 21, "7ffe 0 0 0", 1, "F_OK"),
        (X86_64, 133, "7ffe 21b6 0 0", 1, "character,666"),
        (X86_64, 231, "1 0 0 0", 0, "EXIT_FAILURE"),
        (X86_64, 231, "7f 0 0 0", 0, "0x7f"),
        (X86_64, 8, "3 0 2 0", 2, "SEEK_END"),
        (X86_64, 321, "5 0 0 0", 0, "BPF_PROG_LOAD"),
        (X86_64, 59, "7ffe 0 0 0", 0, "0x7ffe"),
        ("40000003", 102, "3 7ffe 0 0", 0, "connect"),
        ("", 257, "ffffff9c 0 0 0", 0, "0xffffff9c"),
        (X86_64, 257, "zz 0 0 0", 0, "zz"),
        (X86_64, 257, "0x7ffe 0 0 0", 0, "0x7ffe"),
        (X86_64, 257, "12345678123456781 0 0 0", 0, "12345678123456781"),
    ],
)
def test_arguments(arch: str, call: int, registers: str, index: int, shown: str) -> None:
    values = registers.split()
    context = {"arch": arch, "syscall": str(call), **{f"a{each}": value for each, value in enumerate(values)}}
    assert interpret("SYSCALL", f"a{index}", values[index], context, NAMES) == shown


def test_an_argument_alone() -> None:
    assert interpret("SYSCALL", "a2", "42", {}, NAMES) == "0x42"
    assert interpret("SYSCALL", "a2", "1b6", {"arch": X86_64, "syscall": "2"}, NAMES) == "0x1b6"


def test_byte_order_is_the_machines() -> None:
    saddr = "00020050C00002010000000000000000"
    shown = "{ saddr_fam=inet laddr=192.0.2.1 lport=80 }"
    assert interpret("SOCKADDR", "saddr", saddr, {"arch": "80000016"}, NAMES) == shown
    assert interpret("SOCKADDR", "saddr", saddr, {"arch": X86_64}, NAMES) == "unknown-family(512)"
    assert interpret("SOCKADDR", "saddr", saddr, {}, NAMES) == shown


def test_names() -> None:
    assert [user_name(uid, NAMES) for uid in (0, 1000, 5, 0xFFFFFFFF)] == ["root", "alice", "unknown(5)", "unset"]
    assert [group_name(gid, NAMES) for gid in (0, 100, 5, 0xFFFFFFFF)] == ["root", "users", "unknown(5)", "unset"]


@pytest.mark.parametrize(
    ("mode", "shown"),
    [
        ("raw", "a b\n\x7f\x9b\udc9b\udcff'$*é"),
        ("tty", "a b\\012\\177\\302\\233\\233\udcff'$*é"),
        ("shell", "a\\ b\\012\\177\\302\\233\\233\udcff\\'\\$*é"),
        ("shell_quote", "a\\ b\\012\\177\\302\\233\\233\udcff\\'\\$\\*é"),
    ],
)
def test_escape(mode: Escape, shown: str) -> None:
    assert escape("a b\n\x7f\x9b\udc9b\udcff'$*é", mode) == shown


@pytest.mark.parametrize(
    ("record", "name", "value", "kind"),
    [
        ("SYSCALL", "auid", "0", FieldType.UID),
        ("SYSCALL", "a1", "0", FieldType.A1),
        ("EXECVE", "a1", "0", FieldType.ESCAPED),
        ("EXECVE", "a1_len", "0", FieldType.UNCLASSIFIED),
        ("EXECVE", "argc", "0", FieldType.UNCLASSIFIED),
        ("EXECVE", "uid", "0", FieldType.UID),
        ("USER_LOGIN", "acct", "root", FieldType.UNCLASSIFIED),
        ("USER_LOGIN", "acct", '"root"', FieldType.ESCAPED),
        ("TRUSTED_APP", "anything", '"root"', FieldType.ESCAPED),
        ("TRUSTED_APP", "uid", "100", FieldType.UNCLASSIFIED),
        ("PATH", "flags", "0", FieldType.FLAGS),
        ("MMAP", "flags", "0", FieldType.MMAP),
        ("GRP_MGMT", "id", "0", FieldType.GID),
        ("GRP_MGMT", "uid", "0", FieldType.UID),
        ("NO_SUCH", "nothing", "", FieldType.UNCLASSIFIED),
    ],
)
def test_field_types(record: str, name: str, value: str, kind: FieldType) -> None:
    assert field_type(record, name, value) is kind


RECORDS = st.sampled_from(["SYSCALL", "EXECVE", "PATH", "AVC", "TRUSTED_APP", "NETFILTER_PKT", "TTY", "MQ_OPEN", "?"])
FIELDS = st.sampled_from([*FIELD_TYPES, "acct", "msg", "a4", "argc", "other", ""])
HOSTILE = st.one_of(
    st.text(st.characters(max_codepoint=255)),
    st.binary(max_size=200).map(lambda data: data.hex().upper()),
    st.integers(-(2**70), 2**70).map(str),
    st.integers(0, 2**70).map(lambda number: f"{number:x}"),
    st.integers(0, 2**70).map(lambda number: f"0{number:o}"),
    st.sampled_from(["", "-", "0x", "+1", " 1", "1_0", "\xb2", '"', '""', "(null)", "-0", "00", X86_64, "9" * 5000]),
)


@given(
    RECORDS,
    FIELDS,
    HOSTILE,
    st.fixed_dictionaries({}, optional=dict.fromkeys(["arch", "syscall", "a0", "a1"], HOSTILE)),
)
def test_any_text(record: str, name: str, value: str, context: dict[str, str]) -> None:
    shown = interpret(record, name, value, context, NAMES)
    # At most four characters for each: a byte of what was typed, as \ooo in quotes of its own with a comma; names of
    # bits, of which there are at most 64.
    assert len(shown) <= 8 * len(value) + 1500
    assert shown.encode("utf-8", "surrogateescape") is not None


@given(st.integers(0, 2**64), st.sampled_from(["a0", "a1", "a2", "a3"]), st.integers(0, 500), HOSTILE)
def test_any_call(register: int, name: str, call: int, other: str) -> None:
    context = {"arch": X86_64, "syscall": str(call), "a0": other, "a1": other, name: f"{register:x}"}
    assert interpret("SYSCALL", name, f"{register:x}", context, NAMES)


@given(st.text(st.one_of(st.characters(max_codepoint=0x2FF, exclude_categories=[]), st.characters(categories=["Cs"]))))
def test_no_control_character_is_left(shown: str) -> None:
    modes: tuple[Escape, ...] = ("tty", "shell", "shell_quote")
    for mode in modes:
        assert not {*range(0x20), *range(0x7F, 0xA0)} & {ord(each) for each in escape(shown, mode)}
    assert escape(shown, "raw") == shown


ONE_OF_EACH = sorted({kind: name for name, kind in FIELD_TYPES.items()}.values())


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("value", ["A" * 1_000_000, "1b" * 500_000, '"' + "=" * 1_000_000, "9" * 1_000_000])
def test_a_megabyte(name: str, value: str) -> None:
    """What takes more than linear time does not end within the test's time."""
    assert len(interpret("SYSCALL", name, value, {"arch": value, "syscall": value, "a0": value}, NAMES)) < 5_000_000
