"""Write audisp/parse/tables_*.py: names of system calls, errors, flags and other numbers that audit records hold.

Sources of the facts, in order; a later one never changes what an earlier one said:
1. Debian's libaudit1 and libauparse0 (3.0.9), asked through ctypes: what ausearch -i prints (tools/peer.py);
2. the headers of Linux and glibc in the ziglang wheel (PyPI), read by a compiler (tools/headers.py): numbers that came
   after 3.0.9, and what other machines than x86 call something else;
3. the system-calls wheel (PyPI, MIT): system calls of later kernels, and of machines that libaudit1 was not built for;
4. the C library's strerror, netbase's /etc/protocols, and for errors that stay in the kernel its own header.

Usage: pip download --no-deps --dest DIR ziglang==0.17.1 system-calls==7.2
       cd DIR && apt-get download linux-headers-6.12.117+deb12-common
       python tools/make_tables.py DIR [--check]     (Debian 12: libauparse0, netbase, gcc; --check writes nothing)
"""

from __future__ import annotations

import ast
import functools
import io
import os
import re
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import peer
from headers import Headers

FOLDER = Path(__file__).resolve().parent.parent / "audisp" / "parse"
LONGEST = 120
SYSCALLS = {
    "x86_64": "x86_64",
    "x32": "x32",
    "i386": "i386",
    "aarch64": "arm64",
    "arm": "arm",
    "ppc64": "powerpc64",
    "ppc": "powerpc",
    "s390x": "s390x",
    "s390": "s390",
    "riscv64": "riscv64",
    "riscv32": "riscv32",
    "loongarch64": "loongarch64",
}
"""Our name of a machine, and that of the system-calls wheel. ppc64 is also ppc64le: the numbers are the same."""

CORRECTED_SIGNALS = {30: "SIGPWR"}
"""auparse 3.0.9 prints IGPWR."""

LATER_LISTS = {7: "io_uring"}
"""AUDIT_FILTER_URING_EXIT (linux/audit.h), by auditctl's name of it."""

# Numbers of the calls through which auparse is asked. x86_64, but for socketcall and ipc, which only i386 has.
OPEN, LSEEK, MMAP, ACCESS, SHMGET, SOCKET, SENDTO, SETSOCKOPT, FCNTL = 2, 8, 9, 21, 29, 41, 44, 54, 72
GETRLIMIT, PTRACE, PERSONALITY, SCHED_SETSCHEDULER, PRCTL, MOUNT, UMOUNT2 = 97, 101, 135, 144, 157, 165, 166
CLOCK_SETTIME, EPOLL_CTL, UNSHARE, BPF = 227, 233, 272, 321
SOCKETCALL, IPC = 102, 117


def _known(numbers: Iterable[int], index: int, syscall: int, arch: str = peer.X86_64) -> dict[int, str]:
    return peer.names(numbers, lambda number: peer.argument(number, index, syscall=syscall, arch=arch))


def _field(numbers: Iterable[int], name: str, type_: str) -> dict[int, str]:
    return peer.names(numbers, lambda number: peer.field(name, str(number), type_))


NOTHING = "linux/version.h"
PLAIN = {
    "socket_type": (_known(range(16), 1, SOCKET), NOTHING, "", ""),
    "whence": (_known(range(16), 2, LSEEK), NOTHING, "", ""),
    "rlimit": (_known(range(32), 0, GETRLIMIT), NOTHING, "", ""),
    "ptrace": (
        _known((*range(64), *range(0x4200, 0x4240)), 0, PTRACE),
        "linux/ptrace.h",
        "PTRACE_[A-Z0-9_]+",
        "EVENT|_O_|EVENTMSG|SYSCALL_INFO_|PEEKSIGINFO_|SECCOMP_",
    ),
    "clock": (_known(range(24), 0, CLOCK_SETTIME), "linux/time.h", "CLOCK_[A-Z0-9_]+", "AUX_LAST|MAX|CLOCKS"),
    "scheduler": (_known(range(16), 1, SCHED_SETSCHEDULER), "linux/sched.h", "SCHED_[A-Z0-9]+", "$^"),
    "epoll": (_known(range(16), 1, EPOLL_CTL), NOTHING, "", ""),
    "bpf": (
        _known(range(128), 0, BPF),
        "linux/bpf.h",
        "BPF_(?:MAP|PROG|BTF|OBJ|LINK|ITER|ENABLE|TASK|RAW|TOKEN)_[A-Z_]+",
        "TYPE|BPF_PROG_RUN$|_F_|FLAG|BPF_TASK_ITER|MAX",
    ),
    "nfproto": (_field(range(32), "family", "NETFILTER_CFG"), NOTHING, "", ""),
    "icmptype": (_field(range(256), "icmptype", "NETFILTER_PKT"), NOTHING, "", ""),
    "hook": (_field(range(16), "hook", "NETFILTER_PKT"), NOTHING, "", ""),
    "netaction": (_field(range(16), "action", "NETFILTER_PKT"), NOTHING, "", ""),
    "fanotify": (_field(range(16), "resp", "FANOTIFY"), NOTHING, "", ""),
    "socketcall": (_known(range(32), 0, SOCKETCALL, peer.I386), NOTHING, "", ""),
}
"""What auparse knows, and the header, names, and exceptions of what came later."""

_TCP = "TCP_FLAG|TCP_MSS_|_OFF|_NO_WP|MAXKEYLEN|_MAX|_CA_|_QUEUE|NLA|_F_|_ON$"
_IPV6 = "PMTUDISC|PRIORITY|TLV|FL_|PREFER_SRC|PADDING|FLOWINFO_|FLOWLABEL_|MSFILTER"
_PACKET = "HOST|BROADCAST|MULTICAST|OUTGOING|LOOPBACK|USER|KERNEL|FASTROUTE|FANOUT_|MR_"
OPTIONS = {
    "ip": (0, "linux/in.h", "IP_[A-Z0-9_]+", "PMTUDISC|IP_DEFAULT|IP_MAX|IP_MSFILTER_|DROP_MEMBERSHIPS"),
    "socket": (1, "asm/socket.h", "SO_[A-Z0-9_]+", "$^"),
    "tcp": (6, "linux/tcp.h", "TCP_[A-Z0-9_]+", _TCP),
    "udp": (17, "linux/udp.h", "UDP_[A-Z0-9_]+", "UDP_ENCAP_|_MAX"),
    "ipv6": (41, "linux/in6.h", "IPV6_[A-Z0-9_]+", _IPV6),
    "packet": (263, "linux/if_packet.h", "PACKET_[A-Z0-9_]+", _PACKET),
}
"""Socket options: level, header, names, exceptions."""

BY_MACHINE = {
    "open": ("asm/fcntl.h", "_*O_[A-Z]+|FASYNC", "^O_NDELAY|^O_SYNC|^O_TMPFILE|O_ACCMODE"),
    "mmap": ("asm/mman.h", "MAP_[A-Z0-9_]+", "MAP_TYPE|MAP_HUGE_|MAP_ANON$|MAP_FILE|MAP_SHARED_VALIDATE"),
    "prot": ("asm/mman.h", "PROT_[A-Z0-9_]+", "PROT_NONE"),
}
"""Flags whose bits differ from machine to machine: header, names, exceptions."""

IOCTL_HEADERS = (
    *("asm/ioctls.h", "linux/fs.h", "linux/loop.h", "linux/sockios.h", "linux/if_tun.h", "linux/random.h"),
    *("linux/kd.h", "linux/vt.h", "linux/cdrom.h", "linux/hdreg.h", "drm/drm.h", "linux/usbdevice_fs.h"),
)
"""Whose numbers auparse is asked for; the first six also give names of their own."""
IOCTL_NAMES = "(?:TC|TIOC|FIO|FS_IOC_|FICLONE|FIDEDUPE|FIFREEZE|FITHAW|FITRIM|FIBMAP|BLK|LOOP_|SIOC|TUN|RND)[A-Z0-9_]+"


def after(known: Mapping[int, str], found: Mapping[str, int], *, skip: str = "$^", lower: str = "") -> dict[int, str]:
    """`known`, and the names that a header has for other numbers. lower: a prefix to take off, the rest in lower case.

    skip: names that are no members of the enumeration: masks, its last member, values of the members' arguments.
    """
    out = dict(known)
    said = {name.lower() for name in known.values()}
    for name, number in found.items():
        shown = name.removeprefix(lower).lower() if lower else name
        if number not in out and number >= 0 and shown.lower() not in said and not re.search(skip, name):
            out[number] = shown
    return dict(sorted(out.items()))


def after_bits(known: Mapping[int, str], found: Mapping[str, int], *, skip: str = "$^") -> dict[int, str]:
    """The same for flags: single bits only."""
    single = {name: number for name, number in found.items() if number > 0 and number & (number - 1) == 0}
    return after(known, single, skip=skip)


def protocols() -> dict[int, str]:
    """netbase's list; auparse asks the C library for it."""
    out: dict[int, str] = {}
    for line in Path("/etc/protocols").read_text(encoding="ascii").splitlines():
        words = line.partition("#")[0].split()
        if len(words) >= 2:
            out.setdefault(int(words[1]), words[0])
    return dict(sorted(out.items()))


def enumerations(headers: Headers) -> dict[str, dict[int, str]]:
    """Tables in which a number has one name."""
    read = headers.read
    out = {
        name: after(known, read(header, pattern), skip=skip) for name, (known, header, pattern, skip) in PLAIN.items()
    }
    out |= {
        "signal": peer.names(range(65), lambda n: peer.field("sig", f"{n}", "ANOM_ABEND")) | CORRECTED_SIGNALS,
        "capability": after(
            peer.names(range(64), lambda n: peer.field("capability", f"{n}", "AVC")),
            read("linux/capability.h", "CAP_[A-Z_]+"),
            skip="LAST",
            lower="CAP_",
        ),
        "family": after(
            peer.names(range(64), lambda n: peer.argument(n, 0, syscall=SOCKET)),
            read("sys/socket.h", "AF_[A-Z0-9]+", glibc=True),
            skip="AF_MAX|AF_UNSPEC",
            lower="AF_",
        ),
        "protocol": after(
            protocols(), read("linux/in.h", "IPPROTO_[A-Z0-9]+"), skip="RAW|MAX|ETHERNET", lower="IPPROTO_"
        ),
        "socket_level": after(
            # Below, protocols; auparse gives only these two names of their own.
            peer.names((1, *range(255, 320)), lambda n: peer.argument(n, 1, syscall=SETSOCKOPT)),
            read("sys/socket.h", "SOL_[A-Z0-9_]+", glibc=True),
        ),
        "prctl": after(
            peer.names((*range(96), 0x59616D61, 0x53564D41), lambda n: peer.argument(n, 0, syscall=PRCTL)),
            # Below are also the values of the options' arguments.
            {name: n for name, n in read("linux/prctl.h", "PR_[A-Z0-9_]+").items() if n > 62},
            skip="_MASK$|PR_FP_|ONEXEC|INHERIT|PR_MTE",
        ),
        "fcntl": after(
            peer.names((*range(64), *range(1024, 1088)), lambda n: peer.argument(n, 1, syscall=FCNTL)),
            {name: n for name, n in read("linux/fcntl.h", "F_[A-Z0-9_]+").items() if n >= 1024},
        ),
        "personality": after(
            peer.names(range(256), lambda n: peer.argument(n, 0, syscall=PERSONALITY)),
            # The low byte says which; the header's names stand for flags above it as well.
            {name: n & 0xFF for name, n in read("linux/personality.h", "PER_[A-Z0-9]+").items()},
            skip="MASK",
        ),
        "seccomp": {
            n << 16: name
            for n, name in peer.names(range(0x8001), lambda n: peer.field("code", f"0x{n << 16:x}", "SECCOMP")).items()
        },
        "macproto": macprotos(headers),
        "list": peer.lists(range(16)) | LATER_LISTS,
        "ipc": ipc_calls(),
        "uring": after({}, read("linux/io_uring.h", "IORING_OP_[A-Z0-9_]+"), skip="LAST", lower="IORING_OP_"),
        "ioctl": ioctls(headers),
    }
    for name, (level, header, pattern, skip) in OPTIONS.items():
        known = peer.names(range(320), functools.partial(peer.argument, index=2, syscall=SETSOCKOPT, a1=level))
        # A header names values of options' arguments as well; only what is beyond the options known can be new.
        newest = max(number for number in known if number < 100)
        late = {each: number for each, number in read(header, pattern).items() if number > newest}
        out[f"option_{name}"] = after(known, late, skip=skip)
    return out


def macprotos(headers: Headers) -> dict[int, str]:
    """Ethernet's protocols: of the numbers below 0x600 only Linux speaks, and no packet carries them."""
    known = peer.names(range(0x10000), lambda n: peer.field("macproto", f"{n:04x}", "NETFILTER_PKT"))
    found = headers.read("linux/if_ether.h", "ETH_P_[A-Z0-9_]+")
    return after(known, {name.removeprefix("ETH_P_"): n for name, n in found.items() if n >= 0x600})


def ipc_calls() -> dict[int, str]:
    """ipc's sub-calls, which auparse shows only behind the call's own name: ``ipc(shmat)``."""
    out: dict[int, str] = {}
    for number in range(32):
        said = peer.interpreted(f"arch={peer.I386} syscall={IPC} success=yes exit=0 a0={number:x} a1=0 a2=0 a3=0")
        if found := re.fullmatch(r"ipc\((\w+)\)", said["syscall"]):
            out[number] = found[1]
    return out


def ioctls(headers: Headers) -> dict[int, str]:
    """Requests of terminals, block devices, file systems, network interfaces, and what else auparse has a name for."""
    asked = set(range(0x10000))
    for header in IOCTL_HEADERS:
        asked |= {number for number in headers.read(header, "[A-Z][A-Z0-9_]+").values() if 0 < number <= 0xFFFFFFFF}
    known = peer.names(sorted(asked), lambda n: peer.field("ioctlcmd", f"{n:x}", "AVC"))
    late: dict[str, int] = {}
    for header in IOCTL_HEADERS[:6]:
        found = headers.read(header, IOCTL_NAMES)
        late |= {name: number for name, number in found.items() if 0x300 < number <= 0xFFFFFFFF}
    return after(known, late, skip="PRIVATE|_MAX|TIOCPKT_|TIOCSER_|BLK_OPEN|TUN_")


def flags(headers: Headers) -> dict[str, dict[int, str]]:
    """Tables in which each bit has a name. ``NAME@MACHINE`` replaces NAME where that machine differs from x86."""
    read, bits = headers.read, peer.bits

    def ask(syscall: int, index: int) -> Callable[[int], str]:
        return lambda number: peer.argument(number, index, syscall=syscall)

    clone = {bit: name for bit, name in bits(32, ask(UNSHARE, 0)).items() if name.startswith("CLONE_")}
    # auparse still has the name that this bit lost in 2.6.38; CLONE_NEWCGROUP has it since Linux 4.6.
    clone.pop(0x02000000)
    out = {
        "message": after_bits(bits(32, ask(SENDTO, 3)), read("sys/socket.h", "MSG_[A-Z0-9_]+", glibc=True)),
        "clone": after_bits(clone, read("linux/sched.h", "CLONE_[A-Z0-9_]+"), skip="ARGS_SIZE"),
        "mount": after_bits(bits(32, ask(MOUNT, 3)), read("linux/mount.h", "MS_[A-Z0-9_]+"), skip="MS_RMT|MS_MGC"),
        "umount": bits(32, ask(UMOUNT2, 1)),
        "access": bits(3, ask(ACCESS, 1)),
        "shm": bits(32, ask(SHMGET, 2), without=("0000",)),
        "resolve": bits(32, lambda n: peer.field("resolve", f"{n:x}", "OPENAT2")),
        "path": bits(16, lambda n: peer.field("flags", f"{n:x}", "PATH")),
    }
    asked = {
        "open": bits(32, ask(OPEN, 1), without=("O_RDONLY",)),
        "mmap": bits(32, ask(MMAP, 3), without=("MAP_FILE",)),
        "prot": bits(32, ask(MMAP, 2), without=("PROT_NONE",)),
    }
    for name, (header, pattern, skip) in BY_MACHINE.items():
        x86 = _renamed(read(header, pattern))
        here = out[name] = after_bits(asked[name], x86, skip=skip)
        for machine in ("aarch64", "arm", "powerpc", "s390x", "riscv", "loongarch"):
            there = _elsewhere(here, x86, _renamed(read(header, pattern, machine)), skip)
            if there != here:
                out[f"{name}@{machine}"] = there
    return out


def _elsewhere(here: Mapping[int, str], x86: Mapping[str, int], found: Mapping[str, int], skip: str) -> dict[int, str]:
    """A table of flags as another machine has it: its own header's, and what only the peer names (in no header)."""
    out = after_bits({}, found, skip=skip)
    for bit, name in here.items():
        if name not in x86 and name not in out.values():
            out.setdefault(bit, name)
    return dict(sorted(out.items()))


def _renamed(found: Mapping[str, int]) -> dict[str, int]:
    return {"O_ASYNC" if name == "FASYNC" else name: number for name, number in found.items()}


def errors(package: Path) -> dict[int, tuple[str, str]]:
    """Name and text of each error; of those that no program sees, but records do (512 to 531), the kernel's names."""
    found = peer.errors(range(1, 512))
    listing = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(listing)) as archive:
        header = next(each for each in archive if each.name.endswith("-common/include/linux/errno.h"))
        stream = archive.extractfile(header)
        assert stream is not None
        text = stream.read().decode()
    found |= {int(number): name for name, number in re.findall(r"^#define\s+(E[A-Z_]+)\s+(5\d\d)\b", text, re.M)}
    return {number: (name, os.strerror(number)) for number, name in sorted(found.items())}


def tty_keys() -> dict[str, str]:
    """Byte sequences that a key of a terminal sends, in hexadecimal, and auparse's name of the key."""
    starts = ["", "1b", "1b5b", "1b4f"]
    tried = [start + f"{byte:02x}" for start in starts for byte in range(1, 128)]
    tried += [f"1b5b5b{byte:02x}" for byte in range(0x41, 0x5B)]
    tried += ["1b5b" + f"{n}{end}".encode().hex() for n in range(1, 60) for end in "~^$@"]
    tried += ["1b5b" + f"1;{n}{end}".encode().hex() for n in range(2, 9) for end in "ABCDFHPQRS"]
    out: dict[str, str] = {}
    for each in tried:
        if found := re.fullmatch(r"<([^<>,]+)>", peer.field("data", each, "TTY")):
            out[each] = found[1]
    return out


def syscalls(wheel: Path) -> dict[str, dict[int, str]]:
    """The system calls of each machine."""
    out: dict[str, dict[int, str]] = {}
    with zipfile.ZipFile(wheel) as archive:
        for machine, theirs in SYSCALLS.items():
            tree = ast.parse(archive.read(f"system_calls/tables/{theirs}.py"))
            table = next(ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign))
            known = peer.syscalls(machine)
            out[machine] = dict(sorted({**{number: name for name, number in sorted(table.items())}, **known}.items()))
    return out


def machines(headers: Headers) -> dict[int, str]:
    """AUDIT_ARCH_* numbers and names of machines: libaudit's, else the header's in lower case."""
    out: dict[int, str] = {}
    for name, number in headers.read("linux/audit.h", "AUDIT_ARCH_[A-Z0-9_]+").items():
        ours = name.removeprefix("AUDIT_ARCH_").lower()
        # libaudit calls little-endian ARM "armeb"; that is the header's name of the big-endian one.
        out[number] = ours if ours in ("arm", "armeb") else peer.machine(number) or ours
    return dict(sorted(out.items()))


def packed(table: Mapping[int, str]) -> str:
    """Names in order of their numbers, a number only before a name whose number does not follow: ``0:a b 7:c``."""
    words: list[str] = []
    expected = -1
    for number, name in sorted(table.items()):
        words.append(name if number == expected else f"{number}:{name}")
        expected = number + 1
    return " ".join(words)


def literal(text: str, indent: str) -> str:
    """Lines of a string literal that is too long for one."""
    if len(indent) + len(text) + 2 <= LONGEST:
        return f'{indent}"{text}"'
    lines = textwrap.wrap(text, LONGEST - 3 - len(indent), break_long_words=False, break_on_hyphens=False)
    parts = [f'{indent}"{line} "' for line in lines]
    parts[-1] = parts[-1][:-2] + '"'
    return "\n".join(parts)


def module(title: str, sources: str, body: str) -> str:
    """A whole file."""
    head = textwrap.fill(f"Source: {sources}.", 118)
    imports = "from typing import Final\n\n"
    if "MappingProxyType" in body:
        imports = "from types import MappingProxyType\nfrom typing import TYPE_CHECKING, Final\n\n"
        imports += "if TYPE_CHECKING:\n    from collections.abc import Mapping\n\n"
    return (
        f'"""{title} Written by tools/make_tables.py; do not edit.\n\n{head}\n"""\n\n'
        f"from __future__ import annotations\n\n{imports}{body}"
    )


def mapping(name: str, kind: str, items: Mapping[str, str], doc: str) -> str:
    """An immutable mapping of packed tables."""
    body = ""
    for key, text in items.items():
        line = f'        "{key}": "{text}",\n'
        body += line if len(line) <= LONGEST + 1 else f'        "{key}": (\n{literal(text, " " * 12)}\n        ),\n'
    return f'{name}: Final[Mapping[{kind}]] = MappingProxyType(\n    {{\n{body}    }}\n)\n"""{doc}"""\n'


def source(folder: Path, pattern: str) -> Path:
    """The one package of this name; ends the program if it is not there."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        sys.exit(f"make_tables: {folder} has {len(found)} of {pattern}, and must have one (see the top of this file)")
    return found[0]


def render(folder: Path) -> dict[str, str]:
    """Every module by its name."""
    zig = source(folder, "ziglang-*.whl")
    calls = source(folder, "system_calls-*.whl")
    kernel = source(folder, "linux-headers-*-common_*.deb")
    headers = Headers(zig)
    asked = "libaudit1 and libauparse0 3.0.9 (Debian)"
    linux = f"headers of Linux {headers.version} ({'-'.join(zig.name.split('-')[:2])}, PyPI)"
    packing = "Packed: names in order of their numbers, a number only where it does not follow."
    elf = "".join(f'        {number}: "{name}",\n' for number, name in machines(headers).items())
    errnos = "\n".join(f"{number} {name} {text}" for number, (name, text) in errors(kernel).items())
    keys = " ".join(f"{code} {name}" for code, name in tty_keys().items())
    tables = enumerations(headers)
    requests = {"ioctl": packed(tables.pop("ioctl"))}
    bit_names = {
        name: packed({number.bit_length() - 1: each for number, each in table.items()})
        for name, table in flags(headers).items()
    }
    return {
        "tables_machines.py": module(
            "Numbers of machines.",
            f"{linux}; names: {asked}",
            "MACHINES: Final[Mapping[int, str]] = MappingProxyType(\n    {\n" + elf + "    }\n)\n"
            '"""AUDIT_ARCH_* (linux/audit.h), and what libaudit calls the machine."""\n',
        ),
        "tables_syscalls.py": module(
            "Numbers of system calls.",
            f"{asked}, then {'-'.join(calls.name.split('-')[:2])} (PyPI)",
            mapping("SYSCALLS", "str, str", {m: packed(t) for m, t in syscalls(calls).items()}, packing),
        ),
        "tables_names.py": module(
            "Names of numbers that stand in fields and in arguments of system calls.",
            f"{asked}, then {linux}; protocols: netbase",
            mapping("NAMES", "str, str", {name: packed(table) for name, table in tables.items()}, packing),
        ),
        "tables_ioctl.py": module(
            "Names of ioctl requests.", f"{asked}, then {linux}", mapping("REQUESTS", "str, str", requests, packing)
        ),
        "tables_flags.py": module(
            "Names of single bits.",
            f"{asked}, then {linux}",
            mapping(
                "FLAGS", "str, str", bit_names, "Packed as in tables_names; the numbers are of bits, 0 the lowest."
            ),
        ),
        "tables_errors.py": module(
            "Errors of the kernel, and keys of terminals.",
            f"{asked}, {kernel.name.partition('_')[0]} (Debian); texts: strerror of glibc (Debian 12)",
            f'ERRORS: Final = """\\\n{errnos}\n"""\n"""Number, name, text; one error a line."""\n\n'
            "TTY_KEYS: Final = (\n" + literal(keys, "    ") + "\n)\n"
            '"""What a key sends, in hexadecimal, and its name."""\n',
        ),
    }


def main() -> int:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    folder, *options = sys.argv[1:]
    differs = False
    for name, text in render(Path(folder)).items():
        target = FOLDER / name
        if options == ["--check"]:
            if not target.exists() or target.read_text(encoding="utf-8") != text:
                print(f"{target} differs from what its sources say")
                differs = True
        else:
            target.write_text(text, encoding="utf-8")
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
