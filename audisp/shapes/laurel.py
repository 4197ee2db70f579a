"""laurel's JSON: one object for each event, one to a line, as laurel 0.5.1 writes it, so that what reads laurel's log
reads ours (``docs/shapes/laurel.md``).

Most of a stream is a system call with the records that belong to it. A regular expression finds these whole, and cuts
the SYSCALL where its repeating parts meet; what is the same in many events is looked up, not rendered again. All else
goes line by line, and what no template knows, token by token (`audisp.shapes.laurel_exact`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from audisp.event import NO_STAMP, Batch, Event
from audisp.shapes.activity_process import known
from audisp.shapes.json_text import string
from audisp.shapes.laurel_exact import NOTHING, NOTHING_ADDED, Added, Exact, event_text, identity
from audisp.shapes.laurel_fast import ADDRESSES, CALL, Fragments
from audisp.shapes.laurel_process import added
from audisp.shapes.shape import ShapeSettings

_STAMP: Final = r"[1-9][0-9]{0,18}\.[0-9]{3}:[1-9][0-9]{0,18}"
"""A stamp that is laurel's ID as it stands."""
_ANY_STAMP: Final = r"[0-9]{1,20}\.[0-9]{1,3}:[0-9]{1,20}"
_TYPE: Final = r"[A-Za-z0-9_[\]]++"
_NODE: Final = len("node=")


def _runs(node: str, again: str) -> re.Pattern[str]:
    """One match is one event, as `audisp.event.runs` finds them, or one line that is no record's. Groups: node, stamp,
    those of CALL, tail, address and other records of an event that begins with a plain SYSCALL; the whole, node and
    stamp of any other event; the whole of a line without a stamp. node: what may stand before ``type=``; again: the
    same in the lines that follow, N being the number of its group."""

    def line(group: int) -> str:
        return rf"{again.replace('N', str(group))}type={_TYPE} msg=audit\(\{group + 1}\):"

    # Of what is in a SOCKADDR hardly anything comes twice, and of what follows it almost all: it has a group.
    call = rf"({node})type=SYSCALL msg=audit\(({_STAMP})\): {CALL}([^\n]*+)\n"
    call += rf"(?:{again.replace('N', '1')}type=SOCKADDR msg=audit\(\2\): saddr=([^\n]*+)\n)?((?:{line(1)}[^\n]*+\n)*)"
    other = rf"(({node})type={_TYPE} msg=audit\(({_ANY_STAMP})\):[^\n]*\n(?:{line(15)}[^\n]*\n)*)"
    return re.compile(rf"{call}|{other}|([^\n]*\n|[^\n]+\Z)")


_SADDR: Final = 11
"""Place of the address among the groups."""
_RUN: Final = _runs("", "")
_NODE_RUN: Final = _runs(r"(?:node=[^ \n]+ )?", r"\N")

NEWER: Final = "0.8"


class Laurel:
    """The shape ``laurel``. settings.version: 0.5, which is the default, or 0.8."""

    name = "laurel"

    def __init__(self, settings: ShapeSettings) -> None:
        self._newer = settings.version == NEWER
        self._exact = Exact(questions=not self._newer)
        self._fragments = Fragments(self._exact)
        self._enrichment = settings.enrichment

    def render(self, event: Event) -> bytes:
        """One event; b"" of an EOE that came alone."""
        if event.flags & NO_STAMP:
            raw = event.raw.decode("latin-1").removesuffix("\n")
            return f'{{"ID":"","UNKNOWN":[{{"raw":{string(raw)}}}]}}\n'.encode("latin-1")
        what = known(self._enrichment, event)
        more = NOTHING_ADDED if what is None else added(what, event.integer("ppid"), newer=self._newer)
        node = event.same[0][_NODE:-1].decode("latin-1")
        return self._text(event.stamp, node, event.lines, more).encode("latin-1")

    def render_all(self, events: Sequence[Event]) -> list[bytes]:
        """The same of many: what `render` gives for each, several times as fast."""
        if self._enrichment is None:
            texts = self._texts(b"".join([event.raw for event in events]))
            # Two neighbours with one stamp would be one event to whoever reads them together.
            if texts is not None and len(texts) == len(events):
                return texts
        return [*map(self.render, events)]

    def render_batch(self, batch: Batch) -> list[bytes]:
        """The same of a batch: what `render` gives for each of its events, which need not be made for it."""
        texts = self._texts(batch.data) if self._enrichment is None else None
        return [*map(self.render, batch.events)] if texts is None else texts

    def _text(self, stamp: str, node: str, lines: Iterable[str], more: Added = NOTHING_ADDED) -> str:
        opening = f'"ID":"{identity(stamp)}"'
        if node:
            opening += f',"NODE":{string(node)}'
        return event_text(opening, lines, self._exact, self._fragments.line, more)

    def _texts(self, data: bytes) -> list[bytes] | None:
        """The text of each event in whole records; None if some line is no record's."""
        text = data.decode("latin-1")
        found = (_NODE_RUN if text.startswith("node=") or "\nnode=" in text else _RUN).findall(text)
        fragments = self._fragments
        rests, tails = fragments.rests, fragments.tails
        get_head, get_tail, get_rest = fragments.heads.young.get, tails.young.get, rests.young.get
        get_address = fragments.addresses.young.get
        out = []
        for (
            node,
            stamp,
            head,
            a0,
            a1,
            a2,
            a3,
            items,
            ppid,
            pid,
            tail,
            saddr,
            lines,
            whole,
            sender,
            other,
            stray,
        ) in found:
            if not stamp:
                if stray:
                    return None
                out.append(self._whole(whole, sender, other))
                continue
            mark = f" msg=audit({stamp}):"
            body = lines.replace(mark, "")
            if len(lines) - len(body) == len(mark) * body.count("\n"):
                first = get_head(head) or fragments.head(head)
                middle = get_tail(tail) or fragments.tail(tail)
                last = get_rest(body)
                if last is None:
                    last = fragments.rest(body, len(node))
                address = (get_address(saddr) or fragments.address(saddr)) if saddr else ""
                if first and middle and last is not None and not (address and ADDRESSES in last):
                    name = f',"NODE":{string(node[_NODE:-1])}' if node else ""
                    out.append(
                        f'{{"ID":"{stamp}"{name},"SYSCALL":{{{first},"items":{items},"ppid":{ppid},"pid":{pid}{middle},'
                        f'"ARGV":["0x{a0}","0x{a1}","0x{a2}","0x{a3}"]}}{address}{last}}}\n'
                    )
                    continue
            # Something in it is not as the kernel writes it, or there are two of a kind.
            call = f"{head} a0={a0} a1={a1} a2={a2} a3={a3} items={items} ppid={ppid} pid={pid} {tail}\n"
            if saddr:
                call += f"{node}type=SOCKADDR{mark} saddr={saddr}\n"
            out.append(self._whole(f"{node}type=SYSCALL{mark} {call}{lines}", node, stamp))
        rests.asked(len(found))
        tails.asked(len(found))
        fragments.addresses.asked(sum([each[_SADDR] != "" for each in found]))
        return [text.encode("latin-1") for text in out]

    def _whole(self, whole: str, node: str, stamp: str) -> str:
        """Any event, line by line."""
        mark, start = f" msg=audit({stamp}):", len(node)
        lines = whole.split("\n")
        lines.pop()
        if len(lines) == 1:
            key, text = self._fragments.line(lines[0][start:].replace(mark, "", 1))
            if key.kind != NOTHING:
                sender = f',"NODE":{string(node[_NODE:-1])}' if node else ""
                return f'{{"ID":"{identity(stamp)}"{sender}{key.opens}{text}{key.closes}}}\n'
        return self._text(stamp, node[_NODE:-1], [line[start:].replace(mark, "", 1) for line in lines])
