"""What is done about trouble: the notice of an action is given, and sending is braked; no record is ever given up.

The words are audisp-remote.conf's (docs/remote.md, "Actions").
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Literal

from audisp.config.remote import RemoteConf, check_action_program
from audisp.config.values import Action
from audisp.dispatch.actions import ActionError, Actions
from audisp.dispatch.say import Level, Voice
from audisp.remote.bell import Bell

Kind = Literal[
    "network_failure",
    "disk_low",
    "disk_full",
    "disk_error",
    "remote_ending",
    "generic_error",
    "generic_warning",
    "queue_error",
    "startup_failure",
    "overflow",
]

WORDS: Final[dict[str, Level]] = {
    "suspend": "alert",
    "stop": "error",
    "reconnect": "notice",
    "drop_oldest": "warning",
    "drop_newest": "warning",
}
"""Actions whose notice is a line, with its severity; those of auditd's have theirs there."""

REPEAT: Final = 60.0
"""Seconds. The line of an action that comes again and again stands in the log so often at most."""


class Programs(Actions):
    """auditd's actions, with `exec` as audisp-remote has it: the message is the program's argument."""

    def _carry_out(self, action: str, message: str, path: str | None) -> None:
        if action != "exec":
            super()._carry_out(action, message, path)
            return
        # Looked at again: it may have been changed since the file was read.
        assert path is not None
        try:
            check_action_program(path)
        except ValueError as error:
            raise ActionError(str(error)) from error
        self._start("exec", (path, message), b"")


class Brake:
    """What keeps records from being sent, though a server may be there."""

    def __init__(self) -> None:
        self.suspended = False
        """Until SIGUSR2."""
        self.stopped_until = 0.0
        """time.monotonic()."""
        self.changed = Bell()

    def wait(self, now: float) -> float | None:
        """Seconds for which nothing is to be sent; None: until somebody resumes."""
        return None if self.suspended else max(0.0, self.stopped_until - now)

    @property
    def holds(self) -> bool:
        """Whether it is on."""
        return self.wait(time.monotonic()) != 0.0

    def release(self) -> bool:
        """Go on; False if there was nothing to end."""
        held = self.holds
        self.suspended, self.stopped_until = False, 0.0
        self.changed.ring()
        return held


class Notices:
    """Gives notice of trouble as the configuration says, and puts on the brake."""

    def __init__(
        self,
        conf: RemoteConf,
        voice: Voice,
        brake: Brake,
        *,
        programs: Programs | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.conf = conf
        """To be replaced on reload."""
        self.counts: dict[str, int] = {}
        """Troubles of each kind."""
        self.last = ""
        """What was said last."""
        self._voice = voice
        self._brake = brake
        self._programs = programs or Programs(voice, clock=clock)
        self._clock = clock
        self._warned: set[str] = set()

    def occur(self, kind: Kind, message: str) -> None:
        """There is trouble of this kind. message: one line, with no secret in it. Returns at once, never raises."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.last = message
        action: Action = getattr(self.conf, f"{kind}_action")
        name = action.name
        if name.startswith("warn_once"):
            if kind not in self._warned:
                self._warned.add(kind)
                self._voice.say("warning", message)
            return
        if name in WORDS:
            self._voice.say(WORDS[name], message, limit=(f"{kind}:{name}", 1, REPEAT))
        else:
            path = None if action.program is None else str(action.program)
            self._programs.act(name, message, path=path, reason=kind)
        if name == "suspend":
            self._voice.say("alert", "sending is suspended until SIGUSR2; records are kept", limit=(kind, 1, REPEAT))
            self._brake.suspended = True
        elif name == "stop":
            self._brake.stopped_until = self._clock() + self.conf.retry_max
        else:
            return
        self._brake.changed.ring()

    def well(self) -> None:
        """A record has arrived: what was to be said once may be said again."""
        self._warned.clear()

    def resume(self) -> bool:
        """SIGUSR2. False if sending was not held."""
        self._programs.resume()
        return self._brake.release()

    def tick(self) -> None:
        """About once a second: see what became of programs, write what waits for the log."""
        self._programs.reap()
        self._voice.tick()
