"""The bundled plugin `remote`: audisp-remote inside the dispatcher, with the spool as its queue.

The same audisp-remote.conf, spool, protocols, actions and state file as the program's, and one process and one copy
less. It is bundled, but lives here: it is the program's other door.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import attrs
import trio

from audisp.config.grammar import ConfigErrors
from audisp.config.remote import NAME, RemoteConf, load
from audisp.dispatch.say import Voice
from audisp.errors import ConfigError, PluginError, StoreError
from audisp.plugin import Delivery, Host, PluginType, hookimpl
from audisp.remote import state
from audisp.remote.actions import Brake, Notices
from audisp.remote.inside import Inside
from audisp.remote.outbox import Outbox
from audisp.remote.queue_file import take_over
from audisp.remote.sender import Sender

TICK: Final = 1.0
STATE_SECONDS: Final = 5.0
"""Between two state files, as the program's."""
GRACE: Final = 2.0
"""Seconds without an acknowledgement after which, at the end, the rest is left for the next start. The host waits five
for a plugin to close."""


@attrs.frozen
class RemoteSettings:
    """Keys of `remote`."""

    config: Path = Path("/etc/audit") / NAME
    """audisp-remote.conf."""

    def __attrs_post_init__(self) -> None:
        if not self.config.is_absolute():
            raise ConfigError(f"{self.config} must be absolute", key="config")
        try:
            load(self.config)
        except ConfigErrors as errors:
            raise ConfigError("; ".join(map(str, errors.errors)), key="config") from errors

    def files(self) -> list[Path]:
        """What it is made of: audisp-remote.conf, and the key it names."""
        try:
            conf, _ = load(self.config)
        except ConfigErrors:
            return [self.config]
        return [self.config, *([conf.tls_psk_file] if conf.tls_psk_file is not None else [])]


class HostVoice(Voice):
    """What the sender says goes into the dispatcher's log, under the plugin's name."""

    def __init__(self, host: Host) -> None:
        super().__init__("stderr", host.name)
        self._host = host

    def _flush(self) -> bool:
        while self._pending:
            level, text, _ = self._pending.popleft()
            # The host has no level above critical.
            self._host.say("critical" if level == "alert" else level, text)
        return True


class Forwarder:
    """One opened `remote`."""

    def __init__(self, conf: RemoteConf, outbox: Outbox, host: Host, voice: Voice) -> None:
        self._conf, self._outbox, self._voice = conf, outbox, voice
        self._brake = Brake()
        self._notices = Notices(conf, voice, self._brake)
        self.inside = Inside(conf, outbox, self._notices, host.name)
        self.sender = Sender(conf, outbox, self._notices, self._brake, voice)
        self._age: float | None = None

    async def run(self) -> None:
        """Send, and look after what is due by time. Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.sender.run)
            nursery.start_soon(self._tick)
            if self._conf.spool_sync != "always":
                nursery.start_soon(self._sync)
            await take_over(self._conf.queue_file, self._outbox, self._voice.say)

    async def finish(self) -> None:
        """Nothing more comes: until all is sent, or nothing gets on."""
        outbox = self._outbox
        await outbox.sync()
        outbox.progress = time.monotonic()
        self.sender.finish()
        while outbox.stream.records and not self._brake.holds and not self.sender.away:
            left = outbox.progress + GRACE - time.monotonic()
            if left <= 0:
                break
            ring = outbox.shrunk.next()
            with trio.move_on_after(left):
                await ring.wait()
        await self._write_state()
        if outbox.stream.records:
            text = f"{outbox.stream.records} records are left in {outbox.stream.path}, to be sent at the next start"
            self._voice.say("notice", text)

    async def _sync(self) -> None:
        while True:
            await trio.sleep(self._conf.spool_sync_interval)
            if self._outbox.stream.synced < self._outbox.stream.next_record:
                try:
                    await self._outbox.sync()
                except StoreError as error:
                    # The next delivery meets it too, and opens the spool anew.
                    self._notices.occur("queue_error", f"the spool cannot be synced: {error}")

    async def _tick(self) -> None:
        due = 0.0
        while True:
            self._notices.tick()
            try:
                self._age = await self._outbox.oldest_age()
            except StoreError:
                self._age = None
            if time.monotonic() >= due:
                due = time.monotonic() + STATE_SECONDS
                await self._write_state()
            await trio.sleep(TICK)

    async def _write_state(self) -> None:
        try:
            state.write(self._conf.state_file, await state.lines(self.sender, self.inside))
        except OSError as error:
            self._voice.say("warning", f"{self._conf.state_file}: {error.strerror}", limit=("state", 1, 3600.0))

    def resume(self) -> None:
        """SIGUSR2."""
        if self._notices.resume():
            self._voice.say("notice", "sending goes on")
        self.sender.wake()

    def view(self) -> Mapping[str, str]:
        """For status, in the words of the state file."""
        suspended = "yes" if self._brake.suspended else "no"
        known = {"suspend": suspended, "known": str(self.inside.known)}
        return known | state.about(self.sender, self.inside, self._age)


@asynccontextmanager
async def open_remote(settings: RemoteSettings, host: Host) -> AsyncIterator[Delivery]:
    """Open `remote`: its spool, and the sender beside it. PluginError, or StoreError, if one of them is unusable."""
    voice = HostVoice(host)
    try:
        conf, notes = load(settings.config)
    except ConfigErrors as errors:
        raise PluginError("; ".join(map(str, errors.errors))) from errors
    for line in notes:
        voice.say("notice", line)

    def waits(text: str) -> None:
        voice.say("notice", f"waiting: {text}", limit=("spool", 1, 60.0))

    outbox = await Outbox.opened(conf.spool_dir, conf.spool_bytes, conf.spool_min_free, waits)
    try:
        forwarder = Forwarder(conf, outbox, host, voice)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(forwarder.run)
            yield Delivery(forwarder.inside.deliver, resume=forwarder.resume, state=forwarder.view)
            await forwarder.finish()
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            try:
                await outbox.close()
            except StoreError as error:
                voice.say("error", str(error))


@hookimpl
def audisp_plugins() -> list[PluginType]:
    """The plugin type `remote`."""
    return [PluginType("remote", RemoteSettings, open_remote)]
