"""From libssl's errors to a word for logs and a sentence for people."""

from __future__ import annotations

import os
from typing import Final

from audisp.parse.form import terminal_safe
from audisp.tls import openssl
from audisp.tls.context import Attempt
from audisp.tls.failures import LocalTLSError, RemoteTLSError, TLSError
from audisp.tls.openssl import OpenSSL

REFUSALS: Final = frozenset((20, 40, 47, 49, 51, 80, 115))
"""Alerts by which servers refuse a client's identity or key: OpenSSL 3 and 4 (40, 47, 51), its callbacks (80), GnuTLS
(20, 40, 51), unknown_psk_identity of RFC 8446 (115), access_denied (49)."""
NOT_TLS: Final = frozenset((openssl.R_HTTP_REQUEST, openssl.R_WRONG_VERSION_NUMBER))
_ALERT_REASONS: Final = frozenset(range(openssl.ALERT_OFFSET, openssl.ALERT_OFFSET + openssl.ALERTS))
SHOWN: Final = 255
"""Columns of an identity in a message: all of a valid one."""


def explain(lib: OpenSSL, code: int, errno: int, attempt: Attempt, *, server: bool, shaking: bool) -> TLSError:
    """The error for a call that SSL_get_error answered with `code`. shaking: in the handshake."""
    errors = lib.errors()
    where = "in the handshake" if shaking else "in mid-stream"
    if code == openssl.ERROR_SYSCALL and not errors:
        what = os.strerror(errno) if errno else "the connection has ended"
        return RemoteTLSError("connection-lost", f"{what} {where}")
    if code not in (openssl.ERROR_SSL, openssl.ERROR_SYSCALL) or not errors:
        return LocalTLSError("handshake-error" if shaking else "tls-error", f"libssl stopped {where} with code {code}")
    words = "; ".join(text for _, _, text in errors)
    reasons = {reason for library, reason, _ in errors if library == openssl.LIB_SSL}
    alerts = sorted(reasons & _ALERT_REASONS)
    if openssl.R_UNEXPECTED_EOF_WHILE_READING in reasons:
        return RemoteTLSError("cut-off", f"the peer has closed the connection {where}, without TLS's own end")
    if alerts:
        return _alert(lib, alerts[0] - openssl.ALERT_OFFSET, where, server=server, shaking=shaking)
    if not shaking:
        return RemoteTLSError("tls-error", f"the peer has sent what TLS does not allow: {words}")
    if reasons & NOT_TLS:
        return RemoteTLSError("not-tls", f"what the peer sends is not TLS: {words}")
    if openssl.R_UNSUPPORTED_PROTOCOL in reasons:
        return RemoteTLSError("tls-version", "the peer has no TLS 1.3, and older TLS is not spoken here")
    if not server:
        if openssl.R_CERTIFICATE_VERIFY_FAILED in reasons:
            return RemoteTLSError("no-psk-identity", "the server has shown a certificate instead of proving the key")
        return RemoteTLSError("handshake-error", f"the server's handshake is not acceptable: {words}")
    if attempt.identity is None:
        return RemoteTLSError("no-psk-identity", f"the client has offered no identity that could be used: {words}")
    shown = f"'{terminal_safe(attempt.identity, SHOWN)}'"
    if openssl.R_BINDER_DOES_NOT_VERIFY not in reasons:
        return RemoteTLSError("handshake-error", f"the handshake with {shown} failed: {words}")
    if attempt.reason:
        return RemoteTLSError(attempt.reason, f"{shown} is refused: {attempt.reason}")
    return RemoteTLSError("wrong-key", f"{shown} is known, and the client's key for it is wrong")


def _alert(lib: OpenSSL, alert: int, where: str, *, server: bool, shaking: bool) -> TLSError:
    name = (lib.alert_text(alert) or b"unknown").decode("ascii", "replace")
    if shaking and not server and alert in REFUSALS:
        return RemoteTLSError(
            "refused",
            f"the server accepts neither this identity nor this key, or not both together (alert {alert}, {name})",
        )
    return RemoteTLSError("alert", f"the peer has sent alert {alert}, {name}, {where}")
