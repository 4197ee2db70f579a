"""The other side of an attack, as a program of its own in the attacker's network namespace. Imports nothing of ours.

attacker.py listen ADDRESS PORT     wait for a shell that connects, have it say who it is, and keep it
"""

from __future__ import annotations

import socket
import sys

SECONDS = 10.0
"""In which a shell that is started connects, if it ever does."""


def listen(address: str, port: int) -> None:
    """`ready`, then on standard output `shell` and what it says of itself (`pid=N`), or `gone` if it was ended before
    it could; until standard input ends."""
    with socket.create_server((address, port)) as server:
        print("ready", flush=True)
        server.settimeout(SECONDS)
        try:
            shell, _ = server.accept()
        except TimeoutError:
            # Somebody was quick to react: it was ended before it could connect.
            print("shell gone", flush=True)
            sys.stdin.read()
            return
        with shell:
            # A shell that does nothing but echo what it is sent would say `pid=$$`.
            shell.sendall(b"echo pid=$$\n")
            heard = b""
            while True:
                try:
                    more = shell.recv(4_096)
                except ConnectionResetError:
                    more = b""
                heard += more
                found = [line for line in heard.splitlines() if line.startswith(b"pid=") and line[4:].isdigit()]
                if found or not more:
                    break
            print("shell", found[0].decode() if found else "gone", flush=True)
            sys.stdin.read()


if __name__ == "__main__":
    listen(sys.argv[2], int(sys.argv[3]))
