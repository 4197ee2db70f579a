"""Scores: what an address, an account, a session, a process tree has added up to, and why.

Findings add by their level, logins and what a host does by upstream's models (`audisp.detect.weights`), something that
was never seen before a little. A session or a tree that reaches its threshold adds to the address that it came from.
Scores halve with time; one that reached its threshold says so once, and again when it has been below half of it.

Of each score a part is *firm*: without what rules of low and medium level, keywords, novelties and bonuses gave.
An act needs that part to reach the threshold, which is said by itself if it comes later: nobody gets past a
reaction by reaching the threshold with trifles first.

An event is taken apart only if it was recognised, has one of the texts of `Scores.watched`, or starts a program.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any, Final

import attrs

from audisp.detect.actors import Connects, Said, actor_of, call_of, destination_of, is_ours, path_of, said
from audisp.detect.correlate import Finding
from audisp.detect.entities import FIRST, TACTIC_MS, Entity, EntityId, tables
from audisp.detect.firstseen import FirstSeen, Novelty
from audisp.detect.judged import Judged, Judges, shown
from audisp.detect.models import ALLOWED, ANOMALIES, CONNECTED, LOGIN, WEIGHED, is_denied, is_service, matters, texts_of
from audisp.detect.prefilter import Prefilter, Scan
from audisp.detect.scores_kept import dump, restore
from audisp.detect.standing import Counts, Scene, Scored, Standing, host_of, time_of
from audisp.detect.trees import Trees
from audisp.detect.weights import FIRST_SEEN_LIMIT, FIRST_SEEN_SHARE, RULE_LIMIT, ScoreSettings
from audisp.event import NO_STAMP, Batch, Event, runs
from audisp.parse.record import Record

ROOT: Final = "root"
UNSET: Final = b"4294967295"


class Scores:
    """Not thread-safe. Everything is bounded by the settings; time is the events' own."""

    def __init__(self, settings: ScoreSettings | None = None) -> None:
        self.settings = settings = settings or ScoreSettings()
        self.counts = Counts()
        self.tables = tables(settings)
        self.first = FirstSeen(settings)
        self.trees = Trees()
        self.watched = texts_of(settings)
        """For `Detector`, whose scan then finds these texts as well, and their bits."""
        self._connects = Connects()
        self._judges = Judges(settings)
        self._alone: Prefilter | None = None
        self._now: int | None = None

    # ---- events in, scores out ----

    def feed(
        self, batch: Batch, findings: Sequence[Finding], scan: Scan | None = None, *, now: float | None = None
    ) -> list[Scored]:
        """What reached its threshold, in order of the events. findings: what `Detector.detect` found in this batch.

        scan: `Detector.scan` after that, if it was made with `watched`; without, the batch is looked through once more.
        now: seconds since the epoch, by which holds end; the events' own stamps if None.
        """
        if scan is None or scan.watched is None:
            if self._alone is None:
                self._alone = Prefilter((), watched=self.watched)
            scan = self._alone.scan(batch.data, batch.found or runs(batch.data))
            assert scan.watched is not None
        found: dict[int, list[Finding]] = {}
        if findings:
            places = {id(event): at for at, event in enumerate(batch.events)}
            for finding in findings:
                found.setdefault(places[id(finding.event)], []).append(finding)
        starts, watched = set(scan.starts), scan.watched
        if not (starts or watched or found):
            return []
        events = batch.events
        self._now = None if now is None else int(now * 1000)
        out: list[Scored] = []
        for at in sorted({*starts, *watched, *found}):
            event = events[at]
            if event.flags & NO_STAMP:
                continue
            bits, recognised = watched.get(at, 0), found.get(at, ())
            scene = self._novel(event, bits, started=at in starts)
            if recognised or (bits & (WEIGHED | LOGIN) and matters(event.raw, bits)):
                scene = scene or Scene(event)
                self._take(scene, bits, recognised)
            if scene is not None and scene.touched:
                self._fire(scene, out)
        return out

    def standing(self, event: Event) -> tuple[Standing, ...]:
        """What the entities that an event belongs to have added up to by then; those without a score are left out."""
        if event.flags & NO_STAMP:
            return ()
        scene = Scene(event)
        self._actors(scene)
        ids = dict.fromkeys([*scene.ids, *self._addresses(scene, said(event)[0])])
        out = []
        for id_ in ids:
            entity = self.tables[id_.kind].get(id_)
            if entity is not None and entity.score:
                out.append(Standing(**self._described(entity, scene.stamp)))
        return tuple(out)

    def hold(self, id_: EntityId, until: float) -> bool:
        """Keep what is known of a target while something is done to it: until then (seconds since the epoch) it is
        neither evicted nor forgotten. False: half of the table is kept already; that is counted."""
        table = self.tables[id_.kind]
        entity = table.get(id_) or table.make(id_, 0, 0)
        return table.hold(entity, int(until * 1000))

    def save(self) -> bytes:
        """All scores, and what was seen, for `restore`."""
        return dump(self.tables, self.first)

    def restore(self, data: bytes) -> None:
        """Take over what was saved, into tables that are empty. Raises ParseError; nothing is taken over then."""
        restore(self.tables, self.first, data)

    def counted(self) -> dict[str, int]:
        """All counters by their names."""
        found: dict[str, int] = attrs.asdict(self.counts)
        found |= {f"evicted_{kind}": table.evicted for kind, table in self.tables.items()}
        found["holds_refused"] = sum(table.refused for table in self.tables.values())
        found["evicted_first_seen"] = self.first.evicted
        found["evicted_processes"] = self.trees.evicted
        return found

    # ---- one event ----

    def _take(self, scene: Scene, bits: int, findings: Sequence[Finding]) -> None:
        event = scene.event
        if is_ours(event.raw):
            return
        self.counts.events += 1
        self._actors(scene)
        logins: list[Said] = []
        if bits & LOGIN:
            logins, forged = said(event)
            self.counts.forged += forged
            for each in logins:
                self._login(scene, each)
        if bits & WEIGHED:
            self._behaviour(scene)
        if findings:
            targets = [*scene.ids, *(scene.id("address", each.address) for each in logins if each.address)]
            for finding in findings:
                self._recognised(scene, targets, self._judges.of(finding))

    def _actors(self, scene: Scene) -> None:
        """Whom the kernel names."""
        if scene.ids:
            return
        event = scene.event
        actor = actor_of(event)
        if actor is None:
            return
        name = actor.account
        if actor.ses is not None:
            id_ = scene.id("session", str(actor.ses))
            scene.ids.append(id_)
            session = self.tables["session"].get(id_)
            if session is not None and session.account is not None:
                name = session.account
        if actor.auid is not None:
            name = name or (ROOT if actor.auid == 0 else f"#{actor.auid}")
            scene.ids.append(scene.id("account", name))
        tree = self.trees.of(scene.host, actor.pid, actor.ppid, scene.stamp, event.context)
        if tree is not None:
            scene.ids.append(scene.id("tree", f"{tree[0]}@{tree[1]}"))

    def _login(self, scene: Scene, each: Said) -> None:
        settings = self.settings
        session = None if each.ses is None else scene.id("session", str(each.ses))
        if each.what == "SYSTEM":
            self.counts.cleared += self.tables["session"].clear(scene.id("session", ""), self._until(scene))
        elif each.what == "LOGIN":
            # The kernel gives a number out once in a boot: whatever was known under it is of one before.
            self.counts.cleared += session is not None and self.tables["session"].remove(session, self._until(scene))
        elif each.what in ("USER_END", "USER_LOGOUT"):
            self._ended(scene, session, each)
        elif each.what == "USER_AUTH":
            if each.failed and each.address is None:
                name = None if each.account is None else scene.id("account", each.account)
                for id_ in (session, name):
                    if id_ is not None:
                        self._add(scene, id_, settings.bad_login_weight, "authentication failed")
        else:
            if each.what == "USER_LOGIN":
                self._logged_in(scene, each)
            if session is not None and not each.failed:
                self._link(scene, session, each)

    def _logged_in(self, scene: Scene, each: Said) -> None:
        """Upstream's model of logins."""
        settings = self.settings
        name = each.account or (None if each.number is None else ROOT if each.number == 0 else f"#{each.number}")
        reasons: list[tuple[float, str]] = []
        if is_service(each, settings) and not settings.service_login_allowed:
            reasons.append((settings.service_login_weight, f"login of a service's account, {shown(name or '')}"))
        elif (each.number == 0 or each.account == ROOT) and not settings.root_login_allowed:
            reasons.append((settings.root_login_weight, "login of root"))
        if each.failed:
            reasons.append((settings.bad_login_weight, "login failed"))
            if name is not None:
                id_ = scene.id("account", name)
                self._add(scene, id_, settings.bad_login_weight, "login failed")
        if each.address is not None:
            for weight, reason in reasons:
                self._add(scene, scene.id("address", each.address), weight, reason, firm=weight)

    def _link(self, scene: Scene, id_: EntityId, each: Said) -> None:
        """A session was opened; what came first stays, for `sudo` opens one in the same."""
        session = self.tables["session"].make(id_, scene.stamp, self._until(scene))
        if session.opener is not None:
            return
        session.opener = each.pid
        session.account = each.account or (None if each.number is None else ROOT if not each.number else None)
        if each.address is not None:
            session.address = scene.id("address", each.address)

    def _ended(self, scene: Scene, id_: EntityId | None, each: Said) -> None:
        """A session ended: if who opened it says so. Else everybody could end his own by `sudo`."""
        table = self.tables["session"]
        session = None if id_ is None else table.get(id_)
        if id_ is None or session is None:
            return
        known = session.opener is not None
        if session.opener == each.pid or (not known and each.what == "USER_LOGOUT"):
            self.counts.cleared += table.remove(id_, self._until(scene))

    def _addresses(self, scene: Scene, logins: Sequence[Said]) -> list[EntityId]:
        """Where a login came from, and where the event's session did."""
        found = [scene.id("address", each.address) for each in logins if each.address]
        for id_ in scene.ids:
            session = self.tables["session"].get(id_) if id_.kind == "session" else None
            if session is not None and session.address is not None:
                found.append(session.address)
        return found

    def _behaviour(self, scene: Scene) -> None:
        """Upstream's model of what a session does."""
        settings = self.settings
        reasons = [(settings.keys[key], f"audit key {shown(key)}") for key in scene.event.keys if key in settings.keys]
        seen: dict[str, Record] = {}
        for record in scene.event.records:
            if record.type == "AVC" and is_denied(record):
                seen.setdefault("AVC", record)
            elif record.type in ANOMALIES or (record.type == "FANOTIFY" and record.fields.get("resp") not in ALLOWED):
                seen.setdefault(record.type, record)
        for type_ in seen:
            reasons.append((settings.fanotify_weight if type_ == "FANOTIFY" else settings.anomaly_weight, type_))
        for weight, reason in reasons:
            for id_ in scene.ids:
                self._add(scene, id_, weight, reason, firm=weight)

    def _recognised(self, scene: Scene, targets: Sequence[EntityId], judged: Judged) -> None:
        for id_ in targets:
            entity = self._add(
                scene,
                id_,
                judged.weight,
                judged.reason,
                firm=judged.weight if judged.firm else 0.0,
                part=judged.id,
                limit=RULE_LIMIT * judged.weight,
            )
            if entity is None or not judged.tactics or not judged.weight:
                continue
            tactics = entity.tactics
            for old in [each for each, seen in tactics.items() if scene.stamp - seen > TACTIC_MS]:
                del tactics[old]
            # One rule often names several; it is another one that shows that somebody goes on.
            fresh = judged.tactics - tactics.keys()
            if tactics and fresh and fresh == judged.tactics:
                self._add(scene, id_, self.settings.tactic_bonus, f"another tactic, {', '.join(sorted(fresh))}")
            tactics.update(dict.fromkeys(judged.tactics, scene.stamp))

    # ---- what was never there before ----

    def _novel(self, event: Event, bits: int, *, started: bool) -> Scene | None:
        """Remember what is started and where is connected to; the event's scene if any of it is worth a word."""
        if not (started or bits & CONNECTED):
            return None
        raw = event.raw
        call = call_of(raw)
        if call is None:
            return None
        connecting = bits & CONNECTED and self._connects.ask(call, raw)
        if not (started or connecting):
            return None
        head = event.same[1]
        host, stamp = host_of(event), time_of(head)
        user = b"u" + call.uid if call.auid == UNSET else b"a" + call.auid
        meet = self.first.meet
        new: list[tuple[Novelty, bytes, bytes]] = []
        if started:
            exe = path_of(call.exe)
            parent = self.trees.start(host, int(call.pid), int(call.ppid), stamp, exe, event.context)
            if meet("program", host, stamp, user, exe):
                new.append(("program", user, exe))
            if parent and meet("child", host, stamp, parent, exe):
                new.append(("child", parent, exe))
        there = destination_of(raw, head) if connecting else None
        if there is not None and meet("destination", host, stamp, user, there):
            new.append(("destination", user, str(ip_address(bytes.fromhex(there.decode()))).encode()))
        if not new:
            return None
        scene = Scene(event)
        self._actors(scene)
        for what, whose, thing in new:
            for id_ in scene.ids:
                limit = min(FIRST_SEEN_LIMIT, FIRST_SEEN_SHARE * self.settings.threshold(id_.kind))
                reason = f"{FIRST}: {what} {shown(thing)} of {shown(whose)}"
                self._add(scene, id_, self.settings.first_seen_weight, reason, part=FIRST, limit=limit)
        return scene

    def _until(self, scene: Scene) -> int:
        """The time by which holds end."""
        return scene.stamp if self._now is None else self._now

    # ---- adding, and what comes of it ----

    def _add(
        self,
        scene: Scene,
        id_: EntityId,
        weight: float,
        reason: str,
        *,
        firm: float = 0.0,
        part: str | None = None,
        limit: float = float("inf"),
    ) -> Entity | None:
        """Add to an entity, made if need be; None if it is worth nothing."""
        if weight <= 0 and firm <= 0:
            return None
        table = self.tables[id_.kind]
        entity = scene.touched.get(id_)
        if entity is None:
            entity = scene.touched[id_] = table.make(id_, scene.stamp, self._until(scene))
        self.counts.added += table.add(
            entity, scene.stamp, weight, scene.text, reason, firm=firm, part=part, limit=limit
        )
        return entity

    def _fire(self, scene: Scene, out: list[Scored]) -> None:
        for id_, entity in list(scene.touched.items()):
            grown, surely = self._reached(scene, entity, out)
            if not (grown or surely) or id_.kind not in ("session", "tree"):
                continue
            # A session and what runs in it are one matter, whichever comes first.
            others = [self.tables[each.kind].get(each) for each in scene.ids if each.kind in ("session", "tree")]
            grown = grown and not any(each.fired for each in others if each and each is not entity)
            surely = surely and not any(each.sure for each in others if each and each is not entity)
            for address in self._addresses(scene, ()):
                weight = self.settings.linked_weight
                self._add(
                    scene,
                    address,
                    weight if grown else 0.0,
                    f"{id_.kind} {shown(id_.key)} reached {self.tables[id_.kind].threshold:g}",
                    firm=weight if surely else 0.0,
                )
                if address in scene.touched:
                    self._reached(scene, scene.touched[address], out)

    def _reached(self, scene: Scene, entity: Entity, out: list[Scored]) -> tuple[bool, bool]:
        threshold = self.tables[entity.id.kind].reached
        grown = not entity.fired and entity.score >= threshold
        surely = not entity.sure and entity.firm >= threshold
        if grown or surely:
            entity.fired = True
            entity.sure = entity.sure or surely
            self.counts.fired += 1
            out.append(Scored(**self._described(entity, scene.stamp), event=scene.event))
        return grown, surely

    def _described(self, entity: Entity, stamp: int) -> dict[str, Any]:
        """The fields of `Standing`."""
        table = self.tables[entity.id.kind]
        score, firm = table.present(entity, stamp)
        return {
            **entity.id._asdict(),
            "score": score,
            "firm": firm,
            "threshold": table.threshold,
            "contributions": entity.why,
            "tactics": tuple(sorted(each for each, seen in entity.tactics.items() if stamp - seen <= TACTIC_MS)),
        }
