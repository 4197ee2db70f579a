"""A web server with a hole, run by a copy of Python that is named like one. Imports nothing of ours.

web_server.py ADDRESS PORT     whatever is asked for, a shell is started, as a bad CGI program does
"""

from __future__ import annotations

import http.server
import subprocess
import sys

COMMAND = "echo pid=$$; sleep 600; :"
"""What the attacker's shell does: it says who it is, and stays."""


class Hole(http.server.BaseHTTPRequestHandler):
    """Answers with the first line that the shell says."""

    def do_GET(self) -> None:
        """Start a shell."""
        # Not waited for: it is the attacker's, and ends with the group.
        process = subprocess.Popen(["/bin/sh", "-c", COMMAND], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert process.stdout is not None
        self.send_response(200)
        self.end_headers()
        self.wfile.write(process.stdout.readline())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    server = http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), Hole)
    print("ready", flush=True)
    server.serve_forever()
