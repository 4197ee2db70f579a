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
from audisp.shapes.laurel_fast import CALL, Fragments
from audisp.shapes.laurel_process import added
from audisp.shapes.shape import ShapeSettings

_STAMP: Final = r"[1-9][0-9]{0,18}\.[0-9]{3}:[1-9][0-9]{0,18}"
"""A stamp that is laurel's ID as it stands."""
_ANY_STAMP: Final = r"[0-9]{1,20}\.[0-9]{1,3}:[0-9]{1,20}"
_NODE: Final = len("node=")
_LINES: Final = r"((?:%s[^\n]*+\n)*)"


def _runs(node: str, again: str) -> re.Pattern[str]:
    """One match is one event, as `audisp.event.runs` finds them: (all, node, stamp, CALL's, tail, rest) of one that
    starts with a plain SYSCALL, (all) of any other. node: what may stand before ``type=``; again: the same in the lines
    that follow, as a reference to group N."""

    def line(group: int, stamp: int) -> str:
        return rf"{again.replace('N', str(group))}type=[^ \n]++ msg=audit\(\{stamp}\):"

    call = rf"({node})type=SYSCALL msg=audit\(({_STAMP})\): {CALL}([^\n]*+)\n{_LINES % line(2, 3)}"
    # CALL has eight groups, tail and rest are the last two of the first branch.
    other = rf"({node})type=[^ \n]+ msg=audit\(({_ANY_STAMP})\):[^\n]*\n(?:{line(14, 15)}[^\n]*\n)*"
    return re.compile(f"((?:{call})|(?:{other}))")


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
        """The same of many: what `render` gives for each, three times as fast."""
        if self._enrichment is None:
            raws = [event.raw for event in events]
            texts = self._texts(b"".join(raws))
            # Two neighbours may be one event to whoever reads them again, and lines without a stamp are none.
            if texts is not None and texts[0] == [*map(len, raws)]:
                return texts[1]
        return [*map(self.render, events)]

    def render_batch(self, batch: Batch) -> list[bytes]:
        """The same of a batch, whose events need not be made for it: what `render` gives for each of them."""
        texts = self._texts(batch.data) if self._enrichment is None and batch.marks is None else None
        return self.render_all(batch.events) if texts is None else texts[1]

    def _text(self, stamp: str, node: str, lines: Iterable[str], more: Added = NOTHING_ADDED) -> str:
        opening = f'"ID":"{identity(stamp)}"'
        if node:
            opening += f',"NODE":{string(node)}'
        return event_text(opening, lines, self._exact, self._fragments.line, more)

    def _texts(self, data: bytes) -> tuple[list[int], list[bytes]] | None:
        """Bytes of each event in whole records, and its text; None if some line is no record's."""
        text = data.decode("latin-1")
        found = (_NODE_RUN if text.startswith("node=") or "\nnode=" in text else _RUN).findall(text)
        lengths = [len(each[0]) for each in found]
        if sum(lengths) != len(text):
            return None
        fragments = self._fragments
        rests, tails = fragments.rests, fragments.tails
        get_head, get_tail, get_rest = fragments.heads.young.get, tails.young.get, rests.young.get
        out = []
        for whole, node, stamp, head, a0, a1, a2, a3, items, ppid, pid, tail, lines, other_node, other in found:
            if other:
                out.append(self._whole(whole, other_node, other))
                continue
            mark = f" msg=audit({stamp}):"
            body = lines.replace(mark, "")
            if len(lines) - len(body) == len(mark) * body.count("\n"):
                first = get_head(head) or fragments.head(head)
                middle = get_tail(tail) or fragments.tail(tail)
                last = get_rest(body)
                if last is None:
                    last = fragments.rest(body, len(node))
                if first is not None and middle is not None and last is not None:
                    sender = f',"NODE":{string(node[_NODE:-1])}' if node else ""
                    out.append(
                        f'{{"ID":"{stamp}"{sender},"SYSCALL":{{{first},"items":{items},"ppid":{ppid},"pid":{pid}{middle},'
                        f'"ARGV":["0x{a0}","0x{a1}","0x{a2}","0x{a3}"]}}{last}}}\n'
                    )
                    continue
            # Something in it is not as the kernel writes it, or there is more than one of a kind.
            out.append(self._whole(whole, node, stamp))
        rests.asked(len(found))
        tails.asked(len(found))
        return lengths, [text.encode("latin-1") for text in out]

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
