"""The program audisp-remote: configuration, spool, tasks, signals, the end.

Tasks: standard input (read from the first moment on, also while the spool is still being opened), the spool's writer,
the sender, and the clock. The end of input, or SIGTERM from our parent, ends it: what is at hand is stored, what waits
is sent for as long as that gets on, and the rest waits for our successor.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from pathlib import Path
from typing import Final

import attrs
import trio

from audisp.config.grammar import ConfigErrors
from audisp.config.remote import RemoteConf, load
from audisp.dispatch import privileges
from audisp.dispatch.daemonize import EXIT_CONFIG, EXIT_START, settle
from audisp.dispatch.say import SYSLOG_PATH, Voice
from audisp.errors import AudispError, ConfigError, SourceError, StoreError
from audisp.remote import signals, state
from audisp.remote.actions import Brake, Notices
from audisp.remote.intake import Intake
from audisp.remote.outbox import Outbox
from audisp.remote.queue_file import take_over
from audisp.remote.sender import Sender
from audisp.sources.memory import keep_freed_memory
from audisp.sources.stdin import STDIN, StdinSource

PACKAGE: Final = Path(__file__).resolve().parents[1]
FREE_PORT: Final = 1_024
"""First port that anybody may bind (ip(7), ip_unprivileged_port_start)."""
TICK: Final = 1.0
STATE_SECONDS: Final = 5.0
"""Between two state files, if nobody asks."""
GRACE: Final = 5.0
"""Seconds without an acknowledgement after which, at the end of input, the rest is left to our successor; if our input
was a socket, seconds with and without. Also for a spool that our predecessor still has."""
TERM_GRACE: Final = 2.0
"""The same after SIGTERM: who sends it waits for us, and sends SIGKILL after a while."""
EXIT_WAITING: Final = 1
"""As the C program: there are records left to send."""


@attrs.define(eq=False)
class Program:
    """One run. conf_path: of audisp-remote.conf."""

    conf_path: Path
    conf: RemoteConf
    voice: Voice
    notices: Notices
    brake: Brake
    intake: Intake
    source: StdinSource
    sender: Sender | None = None
    outbox: Outbox | None = None
    grace: float = GRACE
    defect: str = ""
    reading: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    opening: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Of the wait for the spool; has a deadline once nothing more comes."""

    async def run(self, fd: int) -> int:
        """Until the end; the exit status."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear, fd)
            nursery.start_soon(self._tick)
            async with trio.open_nursery() as inner:
                inner.start_soon(self._read)
                await self._forward()
                inner.cancel_scope.cancel()
            nursery.cancel_scope.cancel()
        left = self.outbox.stream.records if self.outbox is not None else 0
        if left and not self.defect:
            self.voice.say("warning", f"{left} records are left in {self.conf.spool_dir}, to be sent at the next start")
        return EXIT_START if self.defect else EXIT_WAITING if left else 0

    async def _read(self) -> None:
        with self.reading:
            try:
                await self.source.run(self.intake)
            except SourceError as error:
                self.defect = str(error)
                self.voice.say("error", str(error))
        self.intake.close()
        self.opening.deadline = trio.current_time() + GRACE

    async def _forward(self) -> None:
        """Open the spool, then store and send."""
        conf = self.conf

        def waits(text: str) -> None:
            self.voice.say("notice", f"waiting: {text}", limit=("spool", 1, 60.0))

        outbox: Outbox | None = None
        with self.opening:
            while outbox is None:
                try:
                    outbox = await Outbox.opened(conf.spool_dir, conf.spool_bytes, conf.spool_min_free, waits)
                except StoreError as error:
                    self.intake.error = str(error)
                    self.notices.occur("queue_error", f"the spool cannot be used: {error}")
                    await trio.sleep(TICK)
        if outbox is None:
            self.defect = f"{conf.spool_dir}: could not be had"
            self.voice.say("error", f"{self.intake.waiting} records are lost: {self.defect}")
            return
        self.intake.error = None
        self.outbox = outbox
        try:
            await self._report(outbox)
            self.sender = sender = Sender(self.conf, outbox, self.notices, self.brake, self.voice)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, sender, nursery.cancel_scope)
                await self.intake.begin(outbox)
                await take_over(self.conf.queue_file, outbox, self.voice.say)
                await self.intake.run(outbox)
                outbox.progress = time.monotonic()
                sender.finish()
                ended = time.monotonic()
                while not sender.brake.holds and not sender.away:
                    since = ended if _has_successor() else outbox.progress
                    left = since + self.grace - time.monotonic()
                    if left <= 0:
                        break
                    ring = outbox.shrunk.next()
                    with trio.move_on_after(min(left, TICK)):
                        await ring.wait()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                try:
                    await outbox.close()
                except StoreError as error:
                    self.voice.say("error", str(error))

    async def _report(self, outbox: Outbox) -> None:
        found = outbox.stream.findings
        if outbox.stream.records:
            self.voice.say("info", f"{outbox.stream.records} records wait in {outbox.stream.path}")
        if found.lost or found.damaged or found.torn or found.aside:
            self.voice.say(
                "warning",
                f"{outbox.stream.path}: {found.damaged} damaged places, {found.lost} records lost by them, "
                f"{found.torn} unfinished writes cut off, {found.aside} files set aside",
            )
        await trio.lowlevel.checkpoint()

    async def _send(self, sender: Sender, scope: trio.CancelScope) -> None:
        await sender.run()
        scope.cancel()

    async def _tick(self) -> None:
        due = 0.0
        while True:
            await trio.sleep(TICK)
            self.notices.tick()
            if time.monotonic() >= due:
                await self._write_state()
                due = time.monotonic() + STATE_SECONDS

    async def _write_state(self) -> None:
        if self.sender is None:
            return
        try:
            state.write(self.conf.state_file, await state.lines(self.sender, self.intake))
        except OSError as error:
            self.voice.say("warning", f"{self.conf.state_file}: {error.strerror}", limit=("state", 1, 3600.0))

    async def _hear(self, fd: int) -> None:
        async for heard in signals.hear(fd):
            if heard.ends:
                self.grace = TERM_GRACE
                self.reading.cancel()
            elif heard.number == signal.SIGTERM:
                self.voice.say("notice", f"SIGTERM from process {heard.pid}, which is not our parent: ignored")
            elif heard.number == signal.SIGUSR1:
                await self._write_state()
            elif heard.number == signal.SIGUSR2:
                self.voice.say("notice", "sending goes on" if self.notices.resume() else "SIGUSR2: nothing to resume")
                if self.sender is not None:
                    self.sender.wake()
            elif heard.number == signal.SIGHUP:
                await self._reload()

    async def _reload(self) -> None:
        try:
            conf, notes = load(self.conf_path)
            if self.sender is not None:
                self.sender.reload(conf)
        except ConfigErrors as errors:
            for error in errors.errors:
                self.voice.say("error", str(error))
            self.voice.say("error", "the configuration stays what it was")
            return
        except ConfigError as error:
            self.voice.say("error", f"{error}; the configuration stays what it was")
            return
        for line in notes:
            self.voice.say("notice", line)
        if conf.spool_dir != self.conf.spool_dir:
            self.voice.say("warning", f"spool_dir: {conf.spool_dir} is used from the next start on")
        self.conf = self.notices.conf = self.intake.conf = conf
        if self.outbox is not None:
            await self.outbox.bound(conf.spool_bytes, conf.spool_min_free)
        self.voice.say("info", f"{self.conf_path} was read again")


def _needed(conf: RemoteConf) -> dict[str, list[str]]:
    """Capabilities to be kept, with the parts that need them. A program that an action runs has root's again."""
    needed: dict[str, list[str]] = {}
    if 0 < conf.local_port < FREE_PORT:
        needed["cap_net_bind_service"] = ["local_port"]
    # Python's own modules lie elsewhere than a virtual environment, and some are loaded late.
    for path in (PACKAGE, Path(sys.prefix), Path(os.__file__).parent):
        if privileges.out_of_reach(path):
            needed.setdefault("cap_dac_read_search", []).append(f"our own code: {path}")
            break
    return needed


def _has_successor() -> bool:
    """Whether our input is a socket, as a daemon gives its children: that starts another one, which wants the spool."""
    try:
        return stat.S_ISSOCK(os.fstat(STDIN).st_mode)
    except OSError:
        return False


def run(conf_path: Path) -> int:
    """The program, from its configuration on; the exit status."""
    keep_freed_memory()
    # As the C program, but for somebody who tries it out in a terminal.
    silent = os.path.lexists(SYSLOG_PATH) and not os.isatty(2)
    voice = Voice("syslog" if silent else "stderr", "audisp-remote")
    try:
        try:
            conf, notes = load(conf_path)
        except ConfigErrors as errors:
            for error in errors.errors:
                voice.say("error", str(error))
            return EXIT_CONFIG
        for line in notes:
            voice.say("notice", line)
        settle()
        for line in privileges.keep(_needed(conf)):
            voice.say("info", line)
        brake = Brake()
        notices = Notices(conf, voice, brake)
        source = StdinSource(say=voice.say, file=STDIN)
        intake = Intake(conf, notices, patient=source.kind == "replay")
        with signals.listening() as fd:
            return trio.run(Program(conf_path, conf, voice, notices, brake, intake, source).run, fd)
    except (AudispError, OSError) as error:
        voice.say("error", str(error))
        return EXIT_START
    finally:
        voice.close()
