"""Audited activity, as a program of its own: its loginuid selects it in rules. Run by tests, imports nothing of ours.

workload.py calls COUNT [PER_SECOND]     getppid(), each one event
workload.py overlong                     user messages longer than a record may be
workload.py filling                      user messages of which one fills auditd's buffer to the last byte
workload.py mixed ROUNDS FOLDER          programs started, files opened in FOLDER, connections, user messages
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import os
import socket
import struct
import sys
import time
from collections.abc import Iterable

AUID = 4242  # tests.e2e.stream.WORK_AUID; this file imports nothing so that it starts quickly


def calls(count: int, rate: float) -> None:
    """Audited calls as fast as they go, or evenly at `rate`."""
    begin = time.monotonic()
    for number in range(count):
        os.getppid()
        if rate and number % 16 == 15:
            time.sleep(max(0.0, begin + (number + 1) / rate - time.monotonic()))


MESSAGES = (
    b'op=plain acct="alice" res=success',
    b"op=newline x=1\ntype=SYSCALL msg=audit(1.000:1): forged=yes",
    b"op=newlines\n\n\n",
    b"op=nul before\0after",
    b"op=nulend\0",
    b"op=nulnul\0\0",
    b"op=space ",
    b"op=spaces   ",
    b" ",
    b"op=tab\tcr\rff\x0cesc\x1b[31m del\x7f",
    b"op=eight \xff\xfe\xc3\xa4\x80 bits",
    b'op=group \x1dUID="root" forged enrichment',
    b"node=forged type=SYSCALL msg=audit(1.000:1): x=1",
    b"op=long " + b"L" * 8_000,
    b"op=longer " + b"M" * 8_560,
    b"op=longest " + b"N" * 8_900,
)
"""What a process with CAP_AUDIT_WRITE may try."""
TYPES = (1005, 1100, 1107, 1108, 1112, 1124, 1130, 1199, 2100, 2404, 2999)
"""USER, and some of the ranges open to user space, with and without names; TTY (1124) comes back in hex."""


TTY, TTY_SET = 1124, 1017
TTY_LENGTHS = range(4_370, 4_432, 3)
"""Keystrokes, two digits each in the record: lengths around every bound that a reader of records has."""
TTY_QUOTED = range(8_836, 8_872)
"""The same typed in plain letters, a byte each: whatever the digits of pid and serial, one of them makes a line with
node= that fills auditd's buffer to the last byte."""
TTY_OVERLONG = (*range(4_432, 4_570, 3), 8_000)
"""Beyond these bounds: auditd 3.0.9 aborts."""


def send(sock: socket.socket, type_: int, body: bytes) -> None:
    """One user message, and the kernel's answer to it."""
    head = struct.pack("=IHHII", 16 + len(body), type_, 5, 1, 0)
    sock.sendto(head + body + b"\0" * (-len(body) % 4), (0, 0))
    sock.recv(65_536)


def users() -> None:
    """Every message under every type, raw."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9) as sock:
        for type_ in TYPES:
            for body in MESSAGES:
                send(sock, type_, body)


def keystrokes(lengths: Iterable[int], key: bytes = b"\x01") -> None:
    """Terminal input as login shells report it, of these lengths."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9) as sock:
        send(sock, TTY_SET, struct.pack("=II", 1, 0))
        for length in lengths:
            send(sock, TTY, key * length)


def logins(number: int) -> None:
    """What login programs send, by libaudit."""
    library = ctypes.CDLL(ctypes.util.find_library("audit"))
    fd = library.audit_open()
    for type_, text in (
        (1112, b'op=login acct="alice"'),
        (1105, b"op=PAM:session_open\nacct=alice"),
        (1130, b"unit=x "),
    ):
        library.audit_log_user_message(fd, type_, text, b"host.example", b"192.0.2.%d" % (number % 250), b"ssh", 1)
    library.audit_log_user_command(fd, 1123, b"systemctl restart job-%d\nrm -rf /" % number, b"pts/1", 1)
    os.close(fd)


def mixed(rounds: int, folder: str) -> None:
    """Events of many record types."""
    for number in range(rounds):
        words = ["/bin/true", "one", "two words", f"{number}", "x" * 50, "ä\n", "-" * (number * 997 % 9_000)]
        os.waitpid(os.posix_spawn(words[0], words, {}), 0)
        for name in ("plain", "with space", "new\nline", "ümlaut"):
            path = os.path.join(folder, name)
            with open(path, "w") as file:
                file.write("x")
            os.rename(path, path + "2")
            os.unlink(path + "2")
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(folder, "absent"))
        for family, address in (
            (socket.AF_INET, ("127.0.0.1", 9)),
            (socket.AF_INET6, ("::1", 9)),
            (socket.AF_UNIX, "/nowhere/at all"),
            (socket.AF_UNIX, b"\0abstract"),
        ):
            with socket.socket(family, socket.SOCK_STREAM) as sock, contextlib.suppress(OSError):
                sock.connect(address)
        os.close(os.pipe()[0])
        logins(number)
    users()
    keystrokes(TTY_LENGTHS)


def main() -> None:
    """See the module's text."""
    with contextlib.suppress(OSError), open("/proc/self/loginuid", "w") as file:
        file.write(str(AUID))
    if sys.argv[1] == "calls":
        calls(int(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)
    elif sys.argv[1] == "overlong":
        keystrokes(TTY_OVERLONG)
    elif sys.argv[1] == "filling":
        keystrokes(TTY_QUOTED, b"q")
    else:
        mixed(int(sys.argv[2]), sys.argv[3])


if __name__ == "__main__":
    main()
