"""The ledger as a table for people: `audisp status`, and what Ctrl-C prints."""

from __future__ import annotations

from typing import Any

from audisp.dispatch.crash import Crash
from audisp.parse.form import terminal_safe


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    # Names stand left, figures right.
    return [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    ]


def _size(count: int) -> str:
    if count < 1024:
        return f"{count} B"
    return f"{count / 1024:.0f} KiB" if count < 1 << 20 else f"{count / (1 << 20):.1f} MiB"


def _filled(plugin: dict[str, Any]) -> int:
    """Percent of the bound that is nearer."""
    most = plugin.get("queue_max_records")
    records: int = plugin["queue_records"] * 100 // most if most else 0
    size: int = plugin["queue_bytes"] * 100 // plugin["queue_max"]
    return max(records, size)


def duration(seconds: float) -> str:
    """A span of time as people say it: its two largest units."""
    whole = int(seconds)
    for unit, name, lesser, part in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // lesser} {part}"
    return f"{whole} s"


def ledger_table(snapshot: dict[str, Any]) -> str:
    """Sources and plugins with their books, one line each, then what deserves a word."""
    rows = []
    notes = []
    for name, source in snapshot["sources"].items():
        rows.append(
            [
                terminal_safe(name),
                *(f"{source[key]:,}" for key in ("received", "routed", "rejected")),
                _size(source["bytes"]),
            ]
        )
        # unread_records and unread_bytes stand in the detail `unread`, in one phrase.
        counters = {key: value for key, value in source["counters"].items() if not key.startswith("unread_")}
        words = [f"{key.replace('_', ' ')} {value:,}" for key, value in sorted(counters.items())]
        words += [
            key if value == "yes" else f"{key}: {value}"
            for key, value in sorted(source["detail"].items())
            if (key, value) != ("state", "ended")  # which `ended` says
        ]
        if words:
            notes.append(f"{name}: {', '.join(words)}")
    lines = _table(["source", "received", "routed", "rejected", "bytes"], rows)
    rows = []
    for name, plugin in snapshot["plugins"].items():
        rows.append(
            [
                terminal_safe(name),
                plugin["state"],
                *(f"{plugin[key]:,}" for key in ("offered", "delivered", "dropped", "quarantined", "waiting")),
                f"{_filled(plugin)} %",
                str(plugin["restarts"]),
            ]
        )
        words = [f"dropped for {reason} {count:,}" for reason, count in sorted(plugin["losses"].items())]
        if plugin["carried"]:
            words.append(f"carried over from the last run {plugin['carried']:,}")
        if plugin["disk"]:
            words.append(f"on disk {plugin['disk']:,}")
        if plugin["redelivered"]:
            words.append(f"offered again {plugin['redelivered']:,}")
        words += [f"{key.replace('_', ' ')} {value:,}" for key, value in sorted(plugin["counters"].items())]
        if "sender" not in plugin or plugin["kind"] == "child":
            # What a sender within this process says of itself stands in a table of its own.
            words += [f"{key}: {value}" for key, value in plugin["detail"].items()]
        if words:
            notes.append(f"{name}: {', '.join(words)}")
    lines.append("")
    head = ["plugin", "state", "offered", "delivered", "dropped", "quarantined", "waiting", "queue", "restarts"]
    lines += _table(head, rows)
    senders = {name: plugin["sender"] for name, plugin in snapshot["plugins"].items() if "sender" in plugin}
    known = {name: sender for name, sender in senders.items() if not sender["error"]}
    if known:
        head = ["sender", "server", "protocol", "sent", "waiting", "oldest", "lost"]
        rows = [_sender_row(name, sender) for name, sender in known.items()]
        lines += ["", *_table(head, rows)]
    for name, sender in senders.items():
        notes += [f"{name}: {words}" for words in _sender_notes(sender)]
    own = snapshot["own_activity"]
    if own["of"]:
        notes.append(f"own activity: {own['records']:,} of {own['of']:,} system calls, {own['percent']} % lately")
    for name, crash in snapshot["lost_in_crash"].items():
        notes.append(f"{name}: {Crash(**crash).text()}")
    if notes:
        lines += ["", *(terminal_safe(note) for note in notes)]
    return "\n".join(lines)


def _sender_row(name: str, sender: dict[str, Any]) -> list[str]:
    def count(key: str) -> str:
        return "?" if sender[key] is None else f"{sender[key]:,}"

    oldest = sender["oldest_seconds"]
    return [
        terminal_safe(name),
        terminal_safe(sender["server"] or "none"),
        terminal_safe(sender["protocol"] or "none"),
        count("sent"),
        count("waiting"),
        "-" if oldest is None else f"{oldest:.1f} s" if oldest < 60 else duration(oldest),
        count("lost"),
    ]


def _sender_notes(sender: dict[str, Any]) -> list[str]:
    """What deserves a word of a sender."""
    if sender["error"]:
        return [f"nothing is known of what it has sent: {sender['error']}"]
    words = []
    if sender["stale"]:
        age = duration(sender["state_seconds"])
        words.append(f"{sender['state_file']} was written {age} ago, by pid {sender['pid'] or '?'}: it may not hold")
    if sender["server"] is None:
        words.append(f"not connected: {sender['problem'] or 'it has just begun to try'}")
    if sender["held"]:
        words.append(f"does not send: {sender['held']}")
    if sender["trouble"]:
        words.append(f"the server has trouble: {sender['trouble']}")
    if sender["spool_error"]:
        words.append(f"its spool: {sender['spool_error']}")
    for key, what in (
        ("unstored", "records are on their way to its spool"),
        ("damaged", "records were lost by its disk"),
        ("known", "records came again after a crash, and had been stored"),
    ):
        if sender[key]:
            words.append(f"{sender[key]:,} {what}")
    return words
