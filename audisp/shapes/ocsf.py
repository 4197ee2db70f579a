"""``ocsf``: one event of the Open Cybersecurity Schema Framework per event (docs/shapes/ocsf.md).

Process, File System and Network Activity, Authentication and Account Change where a record type or system call is one
of these and brings along what the class cannot be without; Base Event otherwise. Every field of every record that has
no place in the class stands in ``unmapped``, by record type.
"""

from __future__ import annotations

from typing import Any, Final

from audisp.event import NO_STAMP, Event
from audisp.parse import values
from audisp.shapes import activity, activity_process, ocsf_objects, ocsf_table
from audisp.shapes.activity import Meaning
from audisp.shapes.activity_sheet import Remainders, Sheet
from audisp.shapes.activity_text import encoded
from audisp.shapes.ocsf_objects import Scene
from audisp.shapes.ocsf_table import ACCOUNT, AUTHENTICATION, BASE, FILE, NETWORK, OCSF_VERSION, OTHER, PROCESS, Class
from audisp.shapes.shape import ShapeSettings

MAX_TIME: Final = (1 << 63) - 1
"""Largest ``timestamp_t`` (a signed 64 bit number); stamps of real clocks are far below."""
UNKNOWN_HOST: Final = "unknown"
"""device.hostname where neither the event names its node nor the host is known: a device has to be called something."""

_Activity = tuple[Class, int, dict[str, Any], str]
"""Class, activity_id, the class's own attributes, and what the event is about, for its message."""


class Ocsf:
    """Events in OCSF. See docs/shapes/ocsf.md."""

    name = "ocsf"

    def __init__(self, settings: ShapeSettings) -> None:
        self._names = settings.names
        self._host = settings.host or UNKNOWN_HOST
        self._enrichment = settings.enrichment
        self._remainders = Remainders()

    def render(self, event: Event) -> bytes:
        """One event. b"" for EOE alone."""
        if event.flags & NO_STAMP:
            return self._stray(event)
        parts = activity.part(event.records)
        if parts is None:
            return b""
        main = Sheet(parts.main)
        subject = main if parts.call is None or parts.call is parts.main else Sheet(parts.call)
        sheets = [main, *([] if subject is main else [subject]), *[Sheet(record) for record in parts.rest]]
        call = None if parts.call is None else activity.call_name(parts.call)
        known = activity_process.known(self._enrichment, event)
        scene = Scene(event, main, subject, call, sheets, self._names, known)
        is_call = parts.main is parts.call
        meaning = activity.of_call(call) if is_call else activity.of_record(parts.main)
        action = meaning.action or (call if is_call and call else values.from_text(parts.main.type).lower())
        result = activity.outcome(subject.record)
        process = ocsf_objects.process(scene)
        actor = self._actor(process)
        row = ocsf_table.CALLS.get(call or "") if is_call else ocsf_table.RECORDS.get(parts.main.type)
        made = None if row is None else self._activity(scene, meaning, row, actor, result)
        class_, number, own, about = made or (BASE, OTHER, {}, "")
        if actor:
            own.setdefault("actor", actor)
        return self._document(scene, meaning, action, result, class_, number, own, about)

    @staticmethod
    def _actor(process: dict[str, Any]) -> dict[str, Any]:
        """``actor``: the process, its user and its session; {} if nothing is known of them."""
        out: dict[str, Any] = {}
        if "pid" in process:
            out["process"] = process
        for name in ("user", "session"):
            if name in process:
                out[name] = process[name]
        return out

    # ---- the classes ----

    def _activity(
        self, scene: Scene, meaning: Meaning, row: tuple[Class, int], actor: dict[str, Any], result: str
    ) -> _Activity | None:
        class_, number = row
        if class_ is FILE:
            return self._file(scene, meaning, number, actor)
        if class_ is PROCESS:
            return self._process(scene, number, actor, result)
        if class_ is NETWORK:
            return self._network(scene, number, result)
        return self._login(scene, number) if class_ is AUTHENTICATION else self._account(scene, number)

    def _file(self, scene: Scene, meaning: Meaning, number: int, actor: dict[str, Any]) -> _Activity | None:
        paths = scene.of("PATH")
        if not paths or not actor:
            return None
        at = meaning.path if len(paths) > meaning.path else 0
        chosen = next((sheet for sheet in paths[at:] if not ocsf_objects.passed(sheet)), paths[at])
        file = ocsf_objects.file(chosen, scene)
        if file is None:
            return None
        own: dict[str, Any] = {"file": file}
        kinds = [sheet.record.fields.get("nametype") for sheet in paths]
        if number == 14 and "CREATE" in kinds:
            number = 1
        if number == 5 and "CREATE" in kinds:
            result = ocsf_objects.file(paths[kinds.index("CREATE")], scene)
            if result is not None and paths[kinds.index("CREATE")] is not chosen:
                own["file_result"] = result
        return FILE, number, own, str(file["path"])

    def _process(self, scene: Scene, number: int, actor: dict[str, Any], result: str) -> _Activity | None:
        process = actor.get("process")
        if process is None:
            return None
        call = scene.call or ""
        own: dict[str, Any] = {}
        target: dict[str, Any] = process
        if scene.main.record.type == "USER_CMD":
            command = scene.main.take("cmd")
            target = {"pid": process["pid"]} | ({} if command is None else {"cmd_line": command})
        elif call in ocsf_table.FORKS:
            child = scene.subject.number("exit") if result == activity.SUCCESS else None
            target = {"pid": process["pid"] if child is None else child, "parent_process": {"pid": process["pid"]}}
            own = {"launch_type_id": 2, "launch_type": "Fork"}
        elif call in ("execve", "execveat"):
            words = ocsf_objects.arguments_of(scene)
            if words:
                line = ocsf_objects.command_line(words)
                if process.get("cmd_line", line) != line:
                    # The title is the interpreter's, where the program is a script.
                    scene.of("PROCTITLE")[0].release("proctitle")
                process["cmd_line"] = line
            parent = process.get("parent_process")
            actor = {name: each for name, each in actor.items() if name != "process"}
            own = {"launch_type_id": 3, "launch_type": "Exec"}
            own["actor"] = ({"process": parent} if parent is not None else {"process": process}) | actor
        elif call in ocsf_table.SIGNALS or call in ocsf_table.TARGETS:
            number = self._signal(scene, number)
            target = self._target(scene)
            if not target:
                return None
        name = target.get("path") or target.get("name") or target.get("cmd_line") or f"process {target['pid']}"
        return PROCESS, number, own | {"process": target}, str(name)

    @staticmethod
    def _signal(scene: Scene, number: int) -> int:
        """activity_id of a signal, or of looking into another process."""
        call = scene.call or ""
        if call == "ptrace":
            return 4 if scene.argument("a0") in ocsf_table.PTRACE_INTO else number
        if call in ocsf_table.SIGNALS:
            return 2 if scene.argument(ocsf_table.SIGNALS[call][1]) in ocsf_table.DEADLY else number
        return number

    @staticmethod
    def _target(scene: Scene) -> dict[str, Any]:
        """The other process: as OBJ_PID names it, else by the argument; {} if that is no process's number."""
        for sheet in scene.of("OBJ_PID")[:1]:
            pid = sheet.number("opid")
            if pid is not None:
                name = sheet.take("ocomm")
                account = ocsf_objects.user(sheet, "ouid", scene.names)
                return {"pid": pid} | ({} if name is None else {"name": name}) | ({"user": account} if account else {})
        call = scene.call or ""
        argument = ocsf_table.TARGETS.get(call) or ocsf_table.SIGNALS.get(call, ("", ""))[0]
        pid = scene.argument(argument) if argument else None
        return {"pid": pid} if pid is not None and 0 < pid < 1 << 31 else {}

    def _network(self, scene: Scene, number: int, result: str) -> _Activity | None:
        call = scene.call or ""
        here = {"hostname": self._name(scene)}
        inbound, outbound = call in ocsf_table.INBOUND, call in ocsf_table.OUTBOUND
        if call == "listen":
            return NETWORK, number, {"dst_endpoint": here}, ""
        found = ocsf_objects.endpoint(scene)
        if found is None:
            return None
        there, address = found
        info: dict[str, Any] = {"direction_id": 1 if inbound else 2 if outbound else 0}
        info["direction"] = ("Unknown", "Inbound", "Outbound")[info["direction_id"]]
        version = {"inet": 4, "inet6": 6}.get(address.family)
        if version is not None:
            info["protocol_ver_id"] = version
            info["protocol_ver"] = f"Internet Protocol version {version} (IPv{version})"
        else:
            info["direction_id"], info["direction"] = 4, "Local"
        own: dict[str, Any] = {"connection_info": info}
        if inbound:
            own |= {"src_endpoint": there, "dst_endpoint": here}
        elif outbound:
            own |= {"src_endpoint": here, "dst_endpoint": there}
        else:
            own["dst_endpoint"] = there
        if number == 1 and result == activity.FAILURE:
            error = activity.exit_name(scene.subject.record.fields.get("exit", ""))
            number = 5 if error == "ECONNREFUSED" else number if error in ("EINPROGRESS", "EAGAIN") else 4
        text = f"{there['ip']} port {there['port']}" if "ip" in there else str(there["name"])
        return NETWORK, number, own, text

    def _login(self, scene: Scene, number: int) -> _Activity | None:
        main = scene.main
        fields = ("auid",) if main.record.type == "LOGIN" else ("acct", "id", "auid", "uid")
        account = ocsf_objects.account(scene, fields)
        if not account:
            return None
        own: dict[str, Any] = {"user": account}
        program = scene.subject.get("exe") or scene.subject.get("comm")
        own["service"] = {"name": ocsf_objects.base_name(program) if program else "audit"}
        own["dst_endpoint"] = {"hostname": self._name(scene)}
        session: dict[str, Any] = {}
        ses = main.get("ses")
        if ses is not None and ses != "unset":
            main.mark("ses")
            session["uid"] = ses
        terminal = main.take("terminal")
        if terminal is not None:
            session["terminal"] = terminal
        source = self._source(main)
        if source:
            own["src_endpoint"] = source
            if "ip" in source:
                own["is_remote"] = not activity.is_loopback(source["ip"])
        if session:
            own["session"] = session
        return AUTHENTICATION, number, own, str(account.get("name") or f"uid {account['uid']}")

    def _account(self, scene: Scene, number: int) -> _Activity | None:
        account = ocsf_objects.account(scene, ("acct", "id"))
        if not account:
            return None
        own: dict[str, Any] = {"user": account}
        source = self._source(scene.main)
        if source:
            own["src_endpoint"] = source
        return ACCOUNT, number, own, str(account.get("name") or f"uid {account['uid']}")

    @staticmethod
    def _source(sheet: Sheet) -> dict[str, Any]:
        """``src_endpoint`` of a session; {} for none."""
        out: dict[str, Any] = {}
        ip = activity.address(sheet.get("addr"))
        if ip is not None:
            sheet.mark("addr")
            out["ip"] = ip
        hostname = sheet.take("hostname")
        if hostname is not None:
            out["hostname"] = hostname
        return out

    # ---- the event ----

    def _name(self, scene: Scene) -> str:
        return scene.event.node or self._host

    def _document(
        self,
        scene: Scene,
        meaning: Meaning,
        action: str,
        result: str,
        class_: Class,
        number: int,
        own: dict[str, Any],
        about: str,
    ) -> bytes:
        event = scene.event
        seconds, millis, serial = activity.stamp(event)
        for name in activity.RESULTS:
            if scene.subject.record.raw(name) is not None and result != activity.UNKNOWN:
                scene.subject.mark(name)
                break
        status_id, status = ocsf_table.STATUSES[result]
        severity = 3 if meaning.kind == "alert" else 1
        caption = class_.activities.get(number, action)
        profiles = ["host", "linux/linux_users"]
        if scene.known is not None and activity_process.container(scene.known) is not None:
            profiles.append("container")
        type_ = values.from_text(scene.main.record.type)
        metadata: dict[str, Any] = {
            "version": OCSF_VERSION,
            "product": {"name": activity.PRODUCT, "vendor_name": activity.PRODUCT, "version": activity.RELEASE},
            "profiles": profiles,
            "log_name": "audit",
            "event_code": type_,
            "uid": event.stamp,
            "original_time": event.stamp.partition(":")[0],
        }
        if serial <= activity.MAX_ID:
            metadata["sequence"] = serial
        labels = self._keys(scene)
        if labels:
            metadata["labels"] = labels
        document: dict[str, Any] = {
            "time": min(seconds * 1000 + millis, MAX_TIME),
            "metadata": metadata,
            "class_uid": class_.uid,
            "class_name": class_.name,
            "category_uid": class_.category_uid,
            "category_name": class_.category,
            "activity_id": number,
            "activity_name": caption,
            "type_uid": class_.uid * 100 + number,
            "type_name": f"{class_.name}: {class_.activities.get(number, 'Other')}",
            "severity_id": severity,
            "severity": ocsf_table.SEVERITIES[severity],
            "status_id": status_id,
            "status": status,
            "message": f"{action} {about}" if about else action,
            "device": self._device(self._name(scene)),
        }
        if result == activity.FAILURE and scene.call is not None:
            code = scene.subject.take("exit")
            if code is not None:
                document["status_code"] = activity.exit_name(code)
        problems = event.problems
        if problems:
            document["status_detail"] = "; ".join(problems)
        document |= own
        if scene.known is not None:
            rest = activity_process.rest(scene.known)
            rest.pop("parents", None)
            if rest:
                document["enrichments"] = [
                    {"name": "process", "value": str(rest.get("unit", "")), "provider": "audisp", "data": rest}
                ]
        return self._closed(document, scene.sheets)

    def _closed(self, document: dict[str, Any], sheets: list[Sheet]) -> bytes:
        left = self._remainders.of(sheets)
        if left:
            document["unmapped"] = left.all()
        return (encoded(document) + "\n").encode("ascii")

    @staticmethod
    def _keys(scene: Scene) -> list[str]:
        sheet = scene.subject
        raw = sheet.record.raw("key")
        found = [] if raw is None else list(values.keys(raw))
        if found:
            sheet.mark("key")
        return found

    @staticmethod
    def _device(name: str) -> dict[str, Any]:
        return {
            "hostname": name,
            "type_id": 0,
            "type": "Unknown",
            "os": {"name": "Linux", "type_id": 200, "type": "Linux"},
        }

    def _stray(self, event: Event) -> bytes:
        """A line that belongs to no event: a Base Event without a time of its own, so it has the epoch's."""
        document: dict[str, Any] = {
            "time": 0,
            "metadata": {
                "version": OCSF_VERSION,
                "product": {"name": activity.PRODUCT, "vendor_name": activity.PRODUCT, "version": activity.RELEASE},
                "profiles": ["host"],
            },
            "class_uid": 0,
            "class_name": BASE.name,
            "category_uid": 0,
            "category_name": BASE.category,
            "activity_id": OTHER,
            "activity_name": "no audit record",
            "type_uid": OTHER,
            "type_name": f"{BASE.name}: Other",
            "severity_id": 1,
            "severity": "Informational",
            "message": "the line is no audit record",
            "device": self._device(self._host),
            "unmapped": {activity.FREE_TEXT: values.from_text(event.raw.decode("latin-1").removesuffix("\n"))},
        }
        return (encoded(document) + "\n").encode("ascii")
