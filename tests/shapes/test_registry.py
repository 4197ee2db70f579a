"""The list of shapes."""

from __future__ import annotations

from audisp.enrich.facts import Enrichment
from audisp.event import Event
from audisp.parse.cgroup import Container
from audisp.shapes.registry import SHAPES, WITH_CONTEXT, make_shape
from audisp.shapes.shape import ShapeSettings
from tests.shapes import documents

EXEC = (
    "type=SYSCALL msg=audit(1700000000.123:7): arch=c000003e syscall=59 success=yes exit=0 a0=1 a1=2 a2=3 a3=4 items=0 "
    'ppid=1 pid=2 auid=1000 uid=0 tty=pts0 ses=3 comm="id" exe="/usr/bin/id" key=(null)'
)


def test_with_context_are_those_that_show_what_is_known() -> None:
    """Only for these the dispatcher looks at processes, and keeps what it needs to."""
    event = documents.one(EXEC)
    shown = set()
    for name, versions in SHAPES.items():

        def known(_event: Event) -> Enrichment:
            return Enrichment(container=Container("0123abc", "docker"), unit="ssh.service")

        for version in versions or ("",):
            knowing = make_shape(name, ShapeSettings(version=version, host="h", enrichment=known)).render(event)
            alone = make_shape(name, ShapeSettings(version=version, host="h")).render(event)
            if knowing != alone:
                shown.add(name)
    assert shown == WITH_CONTEXT
