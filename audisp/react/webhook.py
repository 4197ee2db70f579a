"""One POST over HTTPS, as a program: ``python -I -m audisp.react.webhook``, run without privileges.

Standard input: a line of JSON with ``url`` and ``ca`` (a file of certificates, or null), then the body. The server's
certificate and name are verified; a redirect is an error, because where it leads was not configured; of the answer only
the status counts. Exit status 0 for 2xx, else 1 and one line on standard error.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
from typing import Final
from urllib.parse import urlsplit

MAX_INPUT: Final = 1 << 20
"""Bytes: the largest request is 128 KiB, and JSON may write each byte as six."""
SOCKET_SECONDS: Final = 60.0
"""For a single step; whoever started us has a deadline for the whole."""


def main() -> int:
    """Read, send, exit status."""
    head, _, body = sys.stdin.buffer.read(MAX_INPUT).partition(b"\n")
    given = json.loads(head)
    try:
        status = post(given["url"], given["ca"], body)
    except (OSError, http.client.HTTPException, ssl.SSLError) as error:
        print(f"webhook: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    if 200 <= status < 300:
        return 0
    redirect = ", which leads elsewhere" if 300 <= status < 400 else ""
    print(f"webhook: the server answered {status}{redirect}", file=sys.stderr)
    return 1


def post(url: str, ca: str | None, body: bytes) -> int:
    """The status of the answer. Raises OSError, HTTPException. ValueError if it is not https."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError("only https is spoken")
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=SOCKET_SECONDS, context=context)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", path, body, {"Content-Type": "application/json", "User-Agent": "audisp"})
        return connection.getresponse().status
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
