"""One end's TLS settings: TLS 1.3 with an external PSK and (EC)DHE, and nothing else.

Both ends fail closed. A client asks for a certificate that it could never accept (VERIFY_PEER, and no CA), so that a
server without the key cannot fall back on one; a server has no certificate. No tickets (audit-userspace's client can
stall on them), no session cache, no early data, no compression, no key exchange without forward secrecy. The checks
after the handshake are in `audisp.tls.stream`.

To a server, an identity that is malformed, unknown or disabled has a key too: one that is made of a secret of this
process. The binder is then wrong, exactly as with a wrong key, and a prober cannot find out who is known here.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import attrs

from audisp.errors import ConfigError
from audisp.parse.psk import MAX_IDENTITY, Key, check_identity, expand
from audisp.tls import openssl
from audisp.tls.failures import LocalTLSError
from audisp.tls.openssl import OpenSSL, Owned
from audisp.tls.settings import CLASSIC_GROUPS, HYBRID_GROUPS, PQC_GROUPS, SUITES, CryptoSettings, Profile

READ_BUFFER: Final = 65_536
"""Bytes that libssl takes from the socket at once, while a stream has something to read; four records. It gives the
buffer back when it is empty, so that thousands of idle connections cost no buffers."""

SHA256_BYTES: Final = 32


class Found(Protocol):
    """What a server's lookup says of an identity. key: None if it may not come in; reason: why, a word for logs."""

    @property
    def host(self) -> bytes:
        """Whose identity it is."""

    @property
    def key(self) -> Key | None:
        """Its key."""

    @property
    def reason(self) -> str:
        """Why it has none."""


Lookup = Callable[[bytes], Found]
"""From an identity as offered, whatever bytes it is of (256 at most), to what is known of it. Called in the middle of
a handshake, from whatever thread does it: no files, no waiting."""


@attrs.define(eq=False)
class Attempt:
    """One connection, as the callbacks of its handshake saw it.

    identity: the last one offered, host: whose it is, reason: why it was not let in. defect: what a callback raised.
    """

    identity: bytes | None = None
    host: bytes | None = None
    reason: str = ""
    defect: BaseException | None = None


class Context:
    """What the two ends have in common. Use ClientContext or ServerContext.

    notices: what a person should be told once, such as that this libssl has no post-quantum group.
    """

    is_server: bool

    def __init__(self, settings: CryptoSettings, library: OpenSSL | None) -> None:
        self.settings = settings
        self.library = lib = library or openssl.load()
        self.notices: list[str] = []
        # Weak: a connection that is dropped half-way leaves nothing behind.
        self.attempts: weakref.WeakValueDictionary[int, Attempt] = weakref.WeakValueDictionary()
        lib.clear_error()
        pointer = lib.ctx_new(lib.server_method() if self.is_server else lib.client_method())
        if not pointer:
            raise LocalTLSError("no-libssl", f"{lib.version} makes no context: {_words(lib)}")
        self._pointer: int = pointer
        self._callbacks: list[object] = []
        # The list is kept, not the context: the callbacks know no context, so there is no circle to collect.
        self.owned = Owned(pointer, lib.ctx_free, self._callbacks)
        ctrl = lib.ctx_ctrl
        if not ctrl(pointer, openssl.CTRL_SET_MIN_PROTO_VERSION, openssl.TLS1_3, None):
            raise LocalTLSError("no-libssl", f"{lib.version} has no TLS 1.3")
        ctrl(pointer, openssl.CTRL_SET_SESS_CACHE_MODE, 0, None)
        ctrl(pointer, openssl.CTRL_MODE, openssl.MODE_ACCEPT_MOVING_WRITE_BUFFER | openssl.MODE_RELEASE_BUFFERS, None)
        ctrl(pointer, openssl.CTRL_SET_READ_AHEAD, 1, None)
        lib.ctx_set_read_buffer(pointer, READ_BUFFER)
        lib.ctx_set_options(
            pointer, openssl.OP_NO_TICKET | openssl.OP_NO_COMPRESSION | openssl.OP_CIPHER_SERVER_PREFERENCE
        )
        # openssl.cnf may have allowed them.
        lib.ctx_clear_options(
            pointer, openssl.OP_ALLOW_NO_DHE_KEX | openssl.OP_PREFER_NO_DHE_KEX | openssl.OP_IGNORE_UNEXPECTED_EOF
        )
        lib.ctx_set_max_early_data(pointer, 0)
        self._set_groups()
        self._cipher = self._set_suites()

    def _set_groups(self) -> None:
        """Raises ConfigError if libssl does not know a group that must be there."""
        profile, own = self.settings.profile, self.settings.key_exchange
        if own is not None:
            if not self._groups(own):
                raise ConfigError(f"{self.library.version} does not take {own!r}", key="tls_key_exchange")
        elif profile is Profile.PQC and not self._groups(PQC_GROUPS):
            raise ConfigError(
                f"pqc needs a libssl with ML-KEM, which is 3.5 or newer; this is {self.library.version}",
                key="tls_crypto_profile",
            )
        elif profile is Profile.COMPATIBLE and not self._groups(HYBRID_GROUPS):
            if not self._groups(CLASSIC_GROUPS):
                raise LocalTLSError("no-libssl", f"{self.library.version} has no X25519: {_words(self.library)}")
            self.notices.append(
                f"{self.library.version} has no ML-KEM (3.5 has): keys are exchanged with X25519 alone, "
                "which a quantum computer of the future could undo"
            )

    def _groups(self, names: str) -> bool:
        self.library.clear_error()
        # An int argument of the type void * is an address; the list goes in as one.
        text = ctypes.create_string_buffer(names.encode("ascii", "replace"))
        done: bool = self.library.ctx_ctrl(self._pointer, openssl.CTRL_SET_GROUPS_LIST, 0, ctypes.addressof(text)) == 1
        self.library.clear_error()
        return done

    def _set_suites(self) -> int:
        """The suites, those with SHA-256 first; returns the first, whose hash the key is bound to."""
        lib, pointer = self.library, self._pointer
        wanted = self.settings.cipher_suites
        if wanted is None and self.settings.profile is not Profile.SYSTEM:
            wanted = SUITES
        if wanted is not None and not lib.ctx_set_ciphersuites(pointer, wanted.encode("ascii", "replace")):
            lib.clear_error()
            raise ConfigError(f"{lib.version} does not take {wanted!r}", key="tls_cipher_suites")
        suites = self._suites()
        if not suites:
            where = "the system's OpenSSL configuration" if wanted is None else repr(wanted)
            raise ConfigError(f"{where} leaves no suite of TLS 1.3", key="tls_cipher_suites")
        ordered = sorted(suites, key=lambda suite: lib.digest_size(lib.cipher_digest(suite)) != SHA256_BYTES)
        if ordered != suites:
            names = b":".join(lib.cipher_name(suite) for suite in ordered)
            if not lib.ctx_set_ciphersuites(pointer, names):
                raise LocalTLSError("no-libssl", f"{lib.version} does not take its own suites: {_words(lib)}")
            if self.settings.cipher_suites is not None:
                self.notices.append(
                    "tls_cipher_suites: suites with SHA-256 are offered before the others, whatever the order of the "
                    "list; a peer that takes the order as it stands may drop the key"
                )
        return ordered[0]

    def _suites(self) -> list[int]:
        """SSL_CIPHERs of TLS 1.3 (those with numbers 0x13XX) in this context."""
        lib = self.library
        stack = lib.ctx_get_ciphers(self._pointer)
        found: list[int] = [lib.stack_value(stack, at) for at in range(lib.stack_size(stack))]
        return [suite for suite in found if lib.cipher_id(suite) >> 8 == 0x13]

    def new_ssl(self, fd: int, attempt: Attempt) -> Owned:
        """An SSL object on a non-blocking descriptor, which stays the caller's. Raises LocalTLSError."""
        lib = self.library
        lib.clear_error()
        pointer = lib.new(self._pointer)
        if not pointer:
            raise LocalTLSError("no-memory", f"libssl makes no connection: {_words(lib)}")
        owned = Owned(pointer, lib.free, self.owned)
        if lib.set_fd(pointer, fd) != 1:
            raise LocalTLSError("no-memory", f"libssl does not take the descriptor: {_words(lib)}")
        if self.is_server:
            lib.set_accept_state(pointer)
        else:
            lib.set_connect_state(pointer)
        self.attempts[pointer] = attempt
        return owned


class ClientContext(Context):
    """One identity, as offered, and its key. alpn: protocols to offer, most wanted first."""

    is_server = False

    def __init__(
        self,
        identity: bytes,
        key: Key,
        *,
        settings: CryptoSettings | None = None,
        alpn: Sequence[bytes] = (),
        library: OpenSSL | None = None,
    ) -> None:
        self.identity = check_identity(identity)
        super().__init__(settings or CryptoSettings(), library)
        lib, pointer = self.library, self._pointer
        lib.ctx_set_verify(pointer, openssl.VERIFY_PEER, None)
        if alpn:
            offered = _alpn(alpn)
            if lib.ctx_set_alpn_protos(pointer, offered, len(offered)):  # 0 is success, here alone
                raise LocalTLSError("no-memory", f"libssl does not take the ALPN list: {_words(lib)}")
        callback = _use_session(lib, self._cipher, self.identity, key, self.attempts)
        self._callbacks.append(callback)
        lib.ctx_set_use_session(pointer, callback)


class ServerContext(Context):
    """Whoever `lookup` has a key for. alpn: protocols to choose from, most wanted first; without a match, none."""

    is_server = True

    def __init__(
        self,
        lookup: Lookup,
        *,
        settings: CryptoSettings | None = None,
        alpn: Sequence[bytes] = (),
        library: OpenSSL | None = None,
    ) -> None:
        super().__init__(settings or CryptoSettings(), library)
        lib, pointer = self.library, self._pointer
        lib.ctx_set_verify(pointer, openssl.VERIFY_NONE, None)
        if not lib.ctx_set_num_tickets(pointer, 0):
            raise LocalTLSError("no-libssl", f"{lib.version} insists on tickets: {_words(lib)}")
        find = _find_session(lib, self._cipher, lookup, self.attempts)
        self._callbacks.append(find)
        lib.ctx_set_find_session(pointer, find)
        look = _look_at_hello(lib, self.attempts)
        self._callbacks.append(look)
        lib.ctx_set_client_hello(pointer, look, None)
        if alpn:
            _alpn(alpn)
            select = _select_alpn(tuple(alpn), self.attempts)
            self._callbacks.append(select)
            lib.ctx_set_alpn_select(pointer, select, None)


def _alpn(protocols: Sequence[bytes]) -> bytes:
    """On the wire: each behind a byte of length. Raises ValueError."""
    if any(not 1 <= len(each) <= 255 for each in protocols):
        raise ValueError(f"a protocol of ALPN has 1 to 255 bytes: {list(protocols)}")
    return b"".join(bytes([len(each)]) + each for each in protocols)


def _words(lib: OpenSSL) -> str:
    return "; ".join(text for _, _, text in lib.errors()) or "no reason given"


def _session(lib: OpenSSL, cipher: int, key: bytes) -> int:
    """An SSL_SESSION of the key, whose owner is whoever gets it. Raises MemoryError."""
    session: int | None = lib.session_new()
    if session is not None:
        if (
            lib.session_set_key(session, key, len(key))
            and lib.session_set_cipher(session, cipher)
            and lib.session_set_version(session, openssl.TLS1_3)
        ):
            return session
        lib.session_free(session)
    raise MemoryError("libssl makes no session")


# What a callback raises must not reach C, where it would be printed and forgotten: it is kept for whoever called
# SSL_do_handshake, and the handshake is ended (0: internal_error). This includes KeyboardInterrupt.


def _use_session(
    lib: OpenSSL, cipher: int, identity: bytes, key: Key, attempts: weakref.WeakValueDictionary[int, Attempt]
) -> Any:
    """The client's callback. libssl copies the identity before it returns from the call that calls this."""
    name = ctypes.create_string_buffer(identity, len(identity))

    def use(ssl: int, _digest: int | None, identity_out: Any, length_out: Any, session_out: Any) -> int:
        try:
            session_out[0] = _session(lib, cipher, key.reveal())
            identity_out[0] = ctypes.addressof(name)
            length_out[0] = len(identity)
        except BaseException as defect:  # noqa: BLE001 - see above
            _keep(attempts, ssl, defect)
            return 0
        return 1

    return openssl.UseSession(use)


def _find_session(
    lib: OpenSSL, cipher: int, lookup: Lookup, attempts: weakref.WeakValueDictionary[int, Attempt]
) -> Any:
    """The server's callback."""
    nobody = Key(os.urandom(SHA256_BYTES))

    def find(ssl: int, identity_at: int, length: int, session_out: Any) -> int:
        try:
            # One byte more than an identity may have, so that a longer one is seen to be too long, and no more.
            identity = ctypes.string_at(identity_at, min(length, MAX_IDENTITY + 1))
            found = lookup(identity)
            # Made in any case, so that both cases take about as long: a derived key is as much work.
            decoy = expand(nobody, identity)
            session_out[0] = _session(lib, cipher, found.key.reveal() if found.key is not None else decoy)
            attempt = attempts[ssl]
            attempt.identity, attempt.host, attempt.reason = identity, found.host, found.reason
        except BaseException as defect:  # noqa: BLE001 - see above
            _keep(attempts, ssl, defect)
            return 0
        return 1

    return openssl.FindSession(find)


def _look_at_hello(lib: OpenSSL, attempts: weakref.WeakValueDictionary[int, Attempt]) -> Any:
    """The server's look at a ClientHello: whoever offers no key gets the alert of a wrong one; libssl would answer that
    it has no certificate. One that does not know TLS 1.3 goes on, to be told so."""

    def look(ssl: int, alert: Any, _argument: object) -> int:
        try:
            at, length = ctypes.c_void_p(), ctypes.c_size_t()

            def has(extension: int) -> bool:
                return bool(lib.hello_extension(ssl, extension, ctypes.byref(at), ctypes.byref(length)))

            if has(openssl.EXT_SUPPORTED_VERSIONS) and not has(openssl.EXT_PRE_SHARED_KEY):
                alert[0] = lib.wrong_key_alert
                return 0
        except BaseException as defect:  # noqa: BLE001 - see above
            _keep(attempts, ssl, defect)
            return 0
        return 1

    return openssl.ClientHello(look)


def _select_alpn(wanted: tuple[bytes, ...], attempts: weakref.WeakValueDictionary[int, Attempt]) -> Any:
    """The server's choice of protocol; none, if it has none in common with the client: that is no error here."""

    def select(ssl: int, out: Any, length_out: Any, offered_at: int, length: int, _argument: object) -> int:
        try:
            offered = ctypes.string_at(offered_at, length)
            places: dict[bytes, int] = {}
            at = 0
            while at < length:
                end = at + 1 + offered[at]
                places.setdefault(offered[at + 1 : end], at + 1)
                at = end
            for protocol in wanted:
                if protocol in places:
                    out[0] = offered_at + places[protocol]
                    length_out[0] = len(protocol)
                    return openssl.TLSEXT_ERR_OK
        except BaseException as defect:  # noqa: BLE001 - see above
            _keep(attempts, ssl, defect)
        return openssl.TLSEXT_ERR_NOACK

    return openssl.SelectALPN(select)


def _keep(attempts: weakref.WeakValueDictionary[int, Attempt], ssl: int, defect: BaseException) -> None:
    attempt = attempts.get(ssl)
    if attempt is not None:
        attempt.defect = defect
