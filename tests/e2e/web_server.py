"""A web server with a hole, run by a copy of Python that is named like one. Imports nothing of ours.

web_server.py ADDRESS PORT     whatever is asked for, a shell is started, as a bad CGI program does
"""

from __future__ import annotations

import http.server
import subprocess
import sys

COMMAND = "sleep 600; :"
"""What the attacker's shell does: it stays."""


class Server(http.server.HTTPServer):
    """Keeps the last shell, whether it lives or not."""

    shell: subprocess.Popen[bytes]


class Hole(http.server.BaseHTTPRequestHandler):
    """Answers with the shell's pid: who reacts may be faster than the shell could say it."""

    server: Server

    def do_GET(self) -> None:
        """Start a shell."""
        # Not waited for: it is the attacker's, and ends with the group.
        self.server.shell = subprocess.Popen(["/bin/sh", "-c", COMMAND], stdin=subprocess.DEVNULL)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"pid=%d\n" % self.server.shell.pid)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    server = Server((sys.argv[1], int(sys.argv[2])), Hole)
    print("ready", flush=True)
    server.serve_forever()
