"""The system's libssl, loaded through ctypes: every function that we call, with its types.

Declared from the headers of OpenSSL 3.0 (`openssl/ssl.h`, `openssl/err.h`); numbers below are theirs and part of the
ABI of `libssl.so.3`. The system's own library, so that the distribution's updates and crypto policy apply. Pointers are
plain integers here; `Owned` frees each exactly once.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int, c_long, c_size_t, c_uint, c_uint64, c_ulong, c_void_p
from typing import Any, Final

from audisp.tls.failures import LocalTLSError

LIBSSL: Final = "libssl.so.3"
"""The name that every OpenSSL 3 has."""

TLS1_3: Final = 0x0304
ERROR_SSL: Final = 1
ERROR_WANT_READ: Final = 2
ERROR_WANT_WRITE: Final = 3
ERROR_SYSCALL: Final = 5
ERROR_ZERO_RETURN: Final = 6
"""What SSL_get_error answers."""

CTRL_MODE: Final = 33
CTRL_SET_READ_AHEAD: Final = 41
CTRL_SET_SESS_CACHE_MODE: Final = 44
CTRL_SET_GROUPS_LIST: Final = 92
CTRL_SET_MIN_PROTO_VERSION: Final = 123
CTRL_GET_NEGOTIATED_GROUP: Final = 134
"""Macros of ssl.h that are SSL_ctrl or SSL_CTX_ctrl."""

MODE_ACCEPT_MOVING_WRITE_BUFFER: Final = 0x02
MODE_RELEASE_BUFFERS: Final = 0x10
OP_ALLOW_NO_DHE_KEX: Final = 1 << 10
OP_NO_TICKET: Final = 1 << 14
OP_NO_COMPRESSION: Final = 1 << 17
OP_CIPHER_SERVER_PREFERENCE: Final = 1 << 22
OP_PREFER_NO_DHE_KEX: Final = 1 << 35
"""Since OpenSSL 3.3; unknown bits are kept and mean nothing before."""
OP_IGNORE_UNEXPECTED_EOF: Final = 1 << 7
VERIFY_NONE: Final = 0
VERIFY_PEER: Final = 1
EXT_PRE_SHARED_KEY: Final = 41
EXT_SUPPORTED_VERSIONS: Final = 43
"""Extensions of a ClientHello (RFC 8446 section 4.2)."""
ALERT_ILLEGAL_PARAMETER: Final = 47
ALERT_DECRYPT_ERROR: Final = 51
DECRYPT_ERROR_SINCE: Final = (3, 4)
"""OpenSSL answers a binder that does not verify, that is, a wrong key, with the first, and since 3.4 with the second
(its pull request 25176, August 2024)."""
TLSEXT_ERR_OK: Final = 0
TLSEXT_ERR_NOACK: Final = 3

LIB_SSL: Final = 20
"""ERR_LIB_SSL: which library of OpenSSL an error is of."""
ALERT_OFFSET: Final = 1_000
"""SSL_AD_REASON_OFFSET: the reason of an error is this plus the number of the alert that the peer sent."""
ALERTS: Final = 256
"""An alert is one byte; reasons beyond are of OpenSSL's other kinds."""
R_CERTIFICATE_VERIFY_FAILED: Final = 134
R_HTTP_REQUEST: Final = 156
R_BINDER_DOES_NOT_VERIFY: Final = 253
R_UNSUPPORTED_PROTOCOL: Final = 258
R_WRONG_VERSION_NUMBER: Final = 267
R_UNEXPECTED_EOF_WHILE_READING: Final = 294

MAX_ERRORS: Final = 16
"""OpenSSL's queue has so many places (ERR_NUM_ERRORS): reading it comes to an end."""

FindSession: Final = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t, POINTER(c_void_p))
"""SSL_psk_find_session_cb_func: (SSL, identity, its length, out: SSL_SESSION) -> 1, or 0 to end the handshake."""
UseSession: Final = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, POINTER(c_void_p), POINTER(c_size_t), POINTER(c_void_p))
"""SSL_psk_use_session_cb_func: (SSL, EVP_MD or NULL, out: identity, out: its length, out: SSL_SESSION) -> 1 or 0."""
SelectALPN: Final = ctypes.CFUNCTYPE(
    c_int, c_void_p, POINTER(c_void_p), POINTER(ctypes.c_ubyte), c_void_p, c_uint, c_void_p
)
"""SSL_CTX_alpn_select_cb_func: (SSL, out: protocol, out: its length, offered, its length, NULL) -> TLSEXT_ERR_*."""

ClientHello: Final = ctypes.CFUNCTYPE(c_int, c_void_p, POINTER(c_int), c_void_p)
"""SSL_client_hello_cb_fn: (SSL, out: alert, NULL) -> 1, or 0 to end the handshake with that alert."""

Function = Callable[..., Any]


class OpenSSL:
    """One loaded libssl. Raises LocalTLSError if there is none, or it is older than 3.0."""

    def __init__(self, name: str = LIBSSL) -> None:
        try:
            library = ctypes.CDLL(name, use_errno=True)
            # The same, holding the interpreter: for calls that are done before another thread could have been woken.
            quick = ctypes.PyDLL(name, use_errno=True)
        except OSError as problem:
            raise LocalTLSError(
                "no-libssl", f"{name} cannot be loaded, and TLS needs OpenSSL 3.0 or newer (Debian: libssl3): {problem}"
            ) from problem

        def declare(library: ctypes.CDLL, symbol: str, result: Any, *arguments: Any) -> Function:
            try:
                function = library[symbol]
            except AttributeError as problem:
                raise LocalTLSError(
                    "no-libssl", f"{name} has no {symbol}: it is older than OpenSSL 3.0, or not OpenSSL"
                ) from problem
            function.restype, function.argtypes = result, arguments
            return function

        slow, fast = functools.partial(declare, library), functools.partial(declare, quick)

        version = fast("OPENSSL_version_major", c_uint)
        text = fast("OpenSSL_version", c_char_p, c_int)
        self.version: str = text(0).decode("ascii", "replace")
        if version() < 3:
            raise LocalTLSError("no-libssl", f"{name} is {self.version}, and TLS needs OpenSSL 3.0 or newer")

        minor = fast("OPENSSL_version_minor", c_uint)
        newer = (version(), minor()) >= DECRYPT_ERROR_SINCE
        self.wrong_key_alert = ALERT_DECRYPT_ERROR if newer else ALERT_ILLEGAL_PARAMETER
        """What this libssl answers to a wrong key."""

        self.clear_error = fast("ERR_clear_error", None)
        self._get_error = fast("ERR_get_error", c_ulong)
        self._reason = fast("ERR_reason_error_string", c_char_p, c_ulong)
        self.alert_text = fast("SSL_alert_desc_string_long", c_char_p, c_int)

        self.client_method = fast("TLS_client_method", c_void_p)
        self.server_method = fast("TLS_server_method", c_void_p)
        self.ctx_new = slow("SSL_CTX_new", c_void_p, c_void_p)
        self.ctx_free = fast("SSL_CTX_free", None, c_void_p)
        self.ctx_ctrl = fast("SSL_CTX_ctrl", c_long, c_void_p, c_int, c_long, c_void_p)
        self.ctx_set_options = fast("SSL_CTX_set_options", c_uint64, c_void_p, c_uint64)
        self.ctx_clear_options = fast("SSL_CTX_clear_options", c_uint64, c_void_p, c_uint64)
        self.ctx_set_ciphersuites = fast("SSL_CTX_set_ciphersuites", c_int, c_void_p, c_char_p)
        self.ctx_get_ciphers = fast("SSL_CTX_get_ciphers", c_void_p, c_void_p)
        self.ctx_set_num_tickets = fast("SSL_CTX_set_num_tickets", c_int, c_void_p, c_size_t)
        self.ctx_set_max_early_data = fast("SSL_CTX_set_max_early_data", c_int, c_void_p, ctypes.c_uint32)
        self.ctx_set_read_buffer = fast("SSL_CTX_set_default_read_buffer_len", None, c_void_p, c_size_t)
        self.ctx_set_verify = fast("SSL_CTX_set_verify", None, c_void_p, c_int, c_void_p)
        self.ctx_set_find_session = fast("SSL_CTX_set_psk_find_session_callback", None, c_void_p, FindSession)
        self.ctx_set_use_session = fast("SSL_CTX_set_psk_use_session_callback", None, c_void_p, UseSession)
        self.ctx_set_alpn_protos = fast("SSL_CTX_set_alpn_protos", c_int, c_void_p, c_char_p, c_uint)
        self.ctx_set_alpn_select = fast("SSL_CTX_set_alpn_select_cb", None, c_void_p, SelectALPN, c_void_p)

        self.ctx_set_client_hello = fast("SSL_CTX_set_client_hello_cb", None, c_void_p, ClientHello, c_void_p)
        self.hello_extension = fast(
            "SSL_client_hello_get0_ext", c_int, c_void_p, c_uint, POINTER(c_void_p), POINTER(c_size_t)
        )

        self.stack_size = fast("OPENSSL_sk_num", c_int, c_void_p)
        self.stack_value = fast("OPENSSL_sk_value", c_void_p, c_void_p, c_int)
        self.cipher_id = fast("SSL_CIPHER_get_protocol_id", ctypes.c_uint16, c_void_p)
        self.cipher_name = fast("SSL_CIPHER_get_name", c_char_p, c_void_p)
        self.cipher_digest = fast("SSL_CIPHER_get_handshake_digest", c_void_p, c_void_p)
        self.digest_size = fast("EVP_MD_get_size", c_int, c_void_p)

        self.session_new = fast("SSL_SESSION_new", c_void_p)
        self.session_free = fast("SSL_SESSION_free", None, c_void_p)
        self.session_set_key = fast("SSL_SESSION_set1_master_key", c_int, c_void_p, c_char_p, c_size_t)
        self.session_set_cipher = fast("SSL_SESSION_set_cipher", c_int, c_void_p, c_void_p)
        self.session_set_version = fast("SSL_SESSION_set_protocol_version", c_int, c_void_p, c_int)

        self.new = fast("SSL_new", c_void_p, c_void_p)
        self.free = fast("SSL_free", None, c_void_p)
        self.set_fd = fast("SSL_set_fd", c_int, c_void_p, c_int)
        self.set_accept_state = fast("SSL_set_accept_state", None, c_void_p)
        self.set_connect_state = fast("SSL_set_connect_state", None, c_void_p)
        self.do_handshake = slow("SSL_do_handshake", c_int, c_void_p)
        # One record of TLS at a time, 16 KiB: some microseconds, where having the interpreter back can take many more.
        self.read = fast("SSL_read_ex", c_int, c_void_p, c_void_p, c_size_t, POINTER(c_size_t))
        self.write_little = fast("SSL_write_ex", c_int, c_void_p, c_void_p, c_size_t, POINTER(c_size_t))
        self.write = slow("SSL_write_ex", c_int, c_void_p, c_void_p, c_size_t, POINTER(c_size_t))
        self.shutdown = slow("SSL_shutdown", c_int, c_void_p)
        self.get_error = fast("SSL_get_error", c_int, c_void_p, c_int)
        self.ctrl = fast("SSL_ctrl", c_long, c_void_p, c_int, c_long, c_void_p)
        self.get_version = fast("SSL_get_version", c_char_p, c_void_p)
        self.current_cipher = fast("SSL_get_current_cipher", c_void_p, c_void_p)
        self.session_reused = fast("SSL_session_reused", c_int, c_void_p)
        self.group_to_name = fast("SSL_group_to_name", c_char_p, c_void_p, c_int)
        self.get_alpn = fast("SSL_get0_alpn_selected", None, c_void_p, POINTER(c_void_p), POINTER(c_uint))

    def errors(self) -> list[tuple[int, int, str]]:
        """This thread's error queue, oldest first, and leave it empty: library, reason, and the reason in words.

        Only the fixed text of the reason: what a call attached to its error may hold data of the connection.
        """
        found: list[tuple[int, int, str]] = []
        for _ in range(MAX_ERRORS):
            code = self._get_error()
            if not code:
                break
            words = self._reason(code)
            text = words.decode("ascii", "replace") if words else f"error {code:#x}"
            found.append((code >> 23 & 0xFF, code & 0x7FFFFF, text))
        return found


def load(name: str = LIBSSL) -> OpenSSL:
    """libssl, loaded once for each name. Raises as OpenSSL does; that is tried again each time."""
    return _loaded(name)


_loaded: Final = functools.cache(OpenSSL)


class Owned:
    """A pointer of OpenSSL's, freed exactly once: by `free`, or with the last reference to it.

    keeps: what must live as long, because C holds a pointer to it (callbacks, a context).
    """

    __slots__ = ("_free", "_keeps", "_pointer")

    def __init__(self, pointer: int | None, free: Function, *keeps: object) -> None:
        self._pointer, self._free, self._keeps = pointer, free, keeps

    @property
    def pointer(self) -> int | None:
        """None once it was freed."""
        return self._pointer

    def free(self) -> None:
        """At the second call nothing happens."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            self._free(pointer)
        self._keeps = ()

    __del__ = free
