"""TLS on a trio socket: libssl works on the non-blocking descriptor itself, trio waits for it.

Invariants: nothing is sent or received before the handshake was done and checked. After an error, a cancelled
handshake or a cancelled send the stream is dead, and every call says why. libssl's object is freed once: when the
stream is closed, torn, or forgotten. One task may send while another receives; two may not do the same.
"""

from __future__ import annotations

import ctypes
import enum
import operator
from types import TracebackType
from typing import Any, Final

import attrs
import trio

from audisp.tls import openssl
from audisp.tls.context import Attempt, ClientContext, ServerContext
from audisp.tls.failures import LocalTLSError, RemoteTLSError, TLSError
from audisp.tls.openssl import Owned
from audisp.tls.settings import PQC_MARK, Profile
from audisp.tls.verdict import explain

RECEIVE_BYTES: Final = 65_536
"""Most bytes of one receive_some: four records of TLS. Each record costs a call, each return a turn of the loop."""
SEND_BYTES: Final = 262_144
"""Given to libssl at once; about 0.5 ms of work, after which other tasks have a turn."""
LITTLE_BYTES: Final = 16_384
"""One record of TLS: not worth letting go of the interpreter for. Acknowledgements and signs of life are this short."""

_Buffer = ctypes.c_char * RECEIVE_BYTES


class _State(enum.Enum):
    NEW = enum.auto()
    OPEN = enum.auto()
    TORN = enum.auto()
    CLOSED = enum.auto()


@attrs.frozen
class Session:
    """What two ends have agreed on. version, cipher, group: libssl's names. alpn: None if no protocol was chosen.

    identity: as offered; host: whose it is, without an epoch (on a client it is the identity).
    """

    identity: bytes
    host: bytes
    version: str
    cipher: str
    group: str
    alpn: bytes | None


class _Alone:
    """Lets one task in at a time; another gets trio.BusyResourceError, as trio's own streams say it."""

    def __init__(self, message: str) -> None:
        self._message, self._taken = message, False

    def __enter__(self) -> None:
        if self._taken:
            raise trio.BusyResourceError(self._message)
        self._taken = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._taken = False

    @property
    def taken(self) -> bool:
        return self._taken


class TLSStream(trio.abc.HalfCloseableStream):
    """One TLS connection; owns `transport`. Which end it is, its context says.

    Call `do_handshake` (or `handshake`) first. Everything that is wrong with the connection raises a TLSError, which is
    a trio.BrokenResourceError too.
    """

    def __init__(self, transport: trio.SocketStream, context: ClientContext | ServerContext) -> None:
        self.transport = transport
        self._socket = transport.socket
        self._context = context
        self._library = context.library
        self._attempt = Attempt()
        self._ssl: Owned = context.new_ssl(self._socket.fileno(), self._attempt)
        self._state = _State.NEW
        self._why: TLSError | None = None
        self._session: Session | None = None
        self._sent_end = self._received_end = False
        self._sending, self._receiving = _Alone("another task is sending"), _Alone("another task is receiving")
        self._waiting: dict[str, trio.Event] = {}
        self._count = ctypes.c_size_t()
        self._errno = 0

    @property
    def session(self) -> Session:
        """What was agreed on. Raises LocalTLSError before the handshake."""
        if self._session is None:
            raise LocalTLSError("out-of-order", "nothing is agreed on before the handshake")
        return self._session

    @property
    def offered(self) -> bytes | None:
        """On a server: the identity that the client offered, proved or not; for logs, where it must be escaped."""
        return self._attempt.identity

    async def handshake(self, seconds: float) -> None:
        """`do_handshake` in at most so many seconds, else RemoteTLSError, and the stream is torn."""
        with trio.move_on_after(seconds) as scope:
            await self.do_handshake()
        if scope.cancelled_caught:
            self._why = RemoteTLSError("handshake-timeout", f"the handshake was not done in {seconds:g} s")
            raise self._why

    async def do_handshake(self) -> None:
        """Agree on keys, and find out whether the peer has ours. Raises TLSError. Done again, it does nothing."""
        with self._sending, self._receiving:
            if self._state is _State.OPEN:
                await trio.lowlevel.checkpoint()
                return
            self._check(_State.NEW)
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                if await self._until_done(self._library.do_handshake) == openssl.ERROR_ZERO_RETURN:
                    raise RemoteTLSError("cut-off", "the peer has closed the connection in the handshake")
                self._session = self._checked()
                self._state = _State.OPEN
            except BaseException as problem:
                self._tear(problem, "the handshake was cancelled")
                raise
            await trio.lowlevel.cancel_shielded_checkpoint()

    def _checked(self) -> Session:
        """Raises RemoteTLSError unless the peer has proved that it has the key, by TLS 1.3 and with forward secrecy."""
        lib, ssl, attempt = self._library, self._pointer(), self._attempt
        server = self._context.is_server
        if not lib.session_reused(ssl) or (server and (attempt.identity is None or attempt.host is None)):
            raise RemoteTLSError("no-psk-identity", "the peer has not proved that it has the key")
        number = lib.ctrl(ssl, openssl.CTRL_GET_NEGOTIATED_GROUP, 0, None)
        version: str = (lib.get_version(ssl) or b"").decode("ascii", "replace")
        if number <= 0 or version != "TLSv1.3":
            raise RemoteTLSError("handshake-error", f"{version} without a key exchange has no forward secrecy")
        group: str = (lib.group_to_name(ssl, number) or b"unknown").decode("ascii", "replace")
        if self._context.settings.profile is Profile.PQC and PQC_MARK not in group:
            raise RemoteTLSError("handshake-pqc", f"keys were exchanged with {group}, and pqc wants {PQC_MARK} in it")
        at, length = ctypes.c_void_p(), ctypes.c_uint()
        lib.get_alpn(ssl, ctypes.byref(at), ctypes.byref(length))
        alpn = ctypes.string_at(at.value, length.value) if at.value and length.value else None
        if isinstance(self._context, ClientContext):
            identity = host = self._context.identity
        else:
            identity, host = attempt.identity or b"", attempt.host or b""
        cipher: str = lib.cipher_name(lib.current_cipher(ssl)).decode("ascii", "replace")
        return Session(identity, host, version, cipher, group, alpn)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Cancelled in the middle, this tears the stream: the peer may have got any part of the data."""
        with self._sending:
            self._check(_State.OPEN)
            if self._sent_end:
                raise trio.ClosedResourceError("can't send data after sending EOF")
            await trio.lowlevel.checkpoint_if_cancelled()
            whole = data if isinstance(data, bytes) else bytes(data)
            at = ctypes.cast(ctypes.c_char_p(whole), ctypes.c_void_p).value or 0
            try:
                for start in range(0, len(whole), SEND_BYTES):
                    if start:
                        await trio.lowlevel.checkpoint()
                    size = min(SEND_BYTES, len(whole) - start)
                    write = self._library.write_little if size <= LITTLE_BYTES else self._library.write
                    # A call that could not finish is repeated with the same bytes, until they are all written.
                    await self._until_done(write, at + start, size, self._count)
            except BaseException as problem:
                self._tear(problem, "a send was cancelled before its end")
                raise
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        """Until the socket has room; what libssl has buffered is none of the caller's."""
        with self._sending:
            self._check(_State.OPEN)
            await trio.lowlevel.checkpoint_if_cancelled()
            await self._wait("write")
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What is there, at most 64 KiB; b"" after the peer's end. Raises RemoteTLSError if it was cut off without."""
        with self._receiving:
            limit = RECEIVE_BYTES if max_bytes is None else min(operator.index(max_bytes), RECEIVE_BYTES)
            if limit < 1:
                raise ValueError("max_bytes must be >= 1")
            self._check(_State.OPEN)
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._received_end:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return b""
            while True:
                self._check(_State.OPEN)
                data, code = self._read(limit)
                if data or code == openssl.ERROR_ZERO_RETURN:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                    return data
                await self._wait("read" if code == openssl.ERROR_WANT_READ else "write")

    def _read(self, limit: int) -> tuple[bytes, int]:
        """What libssl has, record by record, and the code of what stopped it. Raises TLSError if that was an error."""
        # A buffer for each call: one per connection would be most of an idle connection's memory.
        buffer = _Buffer()
        start, filled, code = ctypes.addressof(buffer), 0, 0
        while filled < limit and not code:
            code = self._call(self._library.read, start + filled, limit - filled, self._count)
            if not code:
                filled += self._count.value
        if code == openssl.ERROR_ZERO_RETURN:
            self._received_end = True
        elif code and code not in (openssl.ERROR_WANT_READ, openssl.ERROR_WANT_WRITE):
            problem = self._failure(code)
            self._tear(problem, "")
            # What came before the error is the caller's; the error is raised by the next call.
            if not filled:
                raise problem
        return ctypes.string_at(start, filled), code

    async def send_eof(self) -> None:
        """Tell the peer that nothing more comes (close_notify). Receiving goes on."""
        with self._sending:
            self._check(_State.OPEN)
            await trio.lowlevel.checkpoint_if_cancelled()
            if not self._sent_end:
                self._sent_end = True
                try:
                    await self._until_done(self._library.shutdown)
                except BaseException as problem:
                    self._tear(problem, "the end of the stream was not sent")
                    raise
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def aclose(self) -> None:
        """Close, with a close_notify if the socket has room for one; never waits for the peer. Safe at any time."""
        if self._state is _State.OPEN and not self._sent_end and not self._sending.taken:
            self._call(self._library.shutdown)
        self._state = _State.CLOSED
        # Its traceback holds this stream: the two, and all that the connection had, would wait for a collection.
        self._why = None
        self._ssl.free()
        await self.transport.aclose()

    def _check(self, wanted: _State) -> None:
        if self._state is wanted:
            return
        if self._state is _State.CLOSED:
            raise trio.ClosedResourceError("this stream is closed")
        if self._why is not None:
            # A new one each time: the first has the traceback, and the context, of where it came from.
            raise type(self._why)(self._why.reason, str(self._why)) from self._why
        raise LocalTLSError("out-of-order", "a handshake comes first, and once")

    def _tear(self, problem: BaseException, otherwise: str) -> None:
        """Nothing works any more, but for aclose."""
        if self._state in (_State.TORN, _State.CLOSED):
            return
        self._state = _State.TORN
        self._why = problem if isinstance(problem, TLSError) else LocalTLSError("torn", otherwise)
        self._ssl.free()
        # Whoever waits for the socket in the other direction finds out now.
        trio.lowlevel.notify_closing(self._socket)

    def _pointer(self) -> int:
        pointer = self._ssl.pointer
        if pointer is None:
            self._check(_State.OPEN)
            raise trio.ClosedResourceError("this stream is closed")
        return pointer

    def _call(self, function: openssl.Function, *arguments: Any) -> int:
        """One call of libssl's: 0 if it is done, else what SSL_get_error says. The error queue is this call's alone."""
        lib, pointer = self._library, self._pointer()
        lib.clear_error()
        result = function(pointer, *arguments)
        if result == 1:
            return 0
        self._errno = ctypes.get_errno()
        # 0 of SSL_shutdown: sent, and the peer's own has not come, which nobody waits for.
        if result == 0 and function is lib.shutdown:
            return 0
        return int(lib.get_error(pointer, result))

    async def _until_done(self, function: openssl.Function, *arguments: Any) -> int:
        """Call until it is done: 0, or ERROR_ZERO_RETURN. Raises TLSError, or what a callback of ours raised."""
        while True:
            code = self._call(function, *arguments)
            if self._attempt.defect is not None:
                raise self._attempt.defect
            if code == openssl.ERROR_WANT_READ:
                await self._wait("read")
            elif code == openssl.ERROR_WANT_WRITE:
                await self._wait("write")
            elif code in (0, openssl.ERROR_ZERO_RETURN):
                return code
            else:
                raise self._failure(code)

    async def _wait(self, what: str) -> None:
        """Until the socket can be read or written. TLS may want to read in order to send, and the other way round, so
        two tasks can wait for the same; trio lets only one, and the second waits for the first.
        """
        other = self._waiting.get(what)
        try:
            if other is not None:
                await other.wait()
                return
            self._waiting[what] = done = trio.Event()
            try:
                if what == "read":
                    await trio.lowlevel.wait_readable(self._socket)
                else:
                    await trio.lowlevel.wait_writable(self._socket)
            finally:
                del self._waiting[what]
                done.set()
        except trio.ClosedResourceError:
            self._check(_State.OPEN)  # torn by the other direction: says why
            raise
        if self._ssl.pointer is None:
            self._check(_State.OPEN)

    def _failure(self, code: int) -> TLSError:
        """What a call that failed means. Reads out the error queue."""
        return explain(
            self._library,
            code,
            self._errno,
            self._attempt,
            server=self._context.is_server,
            shaking=self._state is _State.NEW,
        )
