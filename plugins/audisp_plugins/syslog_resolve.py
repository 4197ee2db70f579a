"""Names to addresses, without ever waiting longer than one is willing to."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any, Final

import attrs

MAX_ADDRESSES: Final = 8
"""Most addresses of one name that are tried; a name server may answer with hundreds."""


@attrs.define(eq=False)
class _Question:
    done: threading.Event = attrs.field(factory=threading.Event)
    found: list[tuple[int, Any]] = attrs.field(factory=list)
    error: OSError | None = None


class Resolver:
    """Looks one name up, in a thread of its own, since getaddrinfo waits as long as resolv.conf says. There is at most
    one thread: an unanswered question is waited for, not asked again."""

    def __init__(self, server: str, port: int, kind: socket.SocketKind) -> None:
        self._server, self._port, self._kind = server, port, kind
        self._question: _Question | None = None

    def ask(self, timeout: float) -> list[tuple[int, Any]] | None:
        """Families and socket addresses, best first; None if there is no answer yet. Raises OSError (gaierror)."""
        with contextlib.suppress(socket.gaierror):
            return self._look_up(socket.AI_NUMERICHOST)
        if self._question is None:
            question = self._question = _Question()
            threading.Thread(target=self._answer, args=(question,), name="audisp syslog lookup", daemon=True).start()
        question = self._question
        if not question.done.wait(timeout):
            return None
        self._question = None
        if question.error is not None:
            raise question.error
        return question.found

    def _answer(self, question: _Question) -> None:
        try:
            question.found = self._look_up(socket.AI_ADDRCONFIG)
        except OSError as error:
            question.error = error
        except UnicodeError as error:
            # A name with a part that is empty or longer than 63 characters fails in Python, before it is asked for.
            question.error = socket.gaierror(socket.EAI_NONAME, str(error))
        finally:
            question.done.set()

    def _look_up(self, flags: int) -> list[tuple[int, Any]]:
        found = socket.getaddrinfo(self._server, self._port, type=self._kind, flags=flags)
        return [(int(family), where) for family, _, _, _, where in found][:MAX_ADDRESSES]
