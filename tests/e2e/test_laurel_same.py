"""The shape ``laurel`` beside Debian's laurel 0.5.1, which reads the same records: the same objects, key by key.

Where they differ stands here, event by event or by its reason, and in docs/shapes/laurel.md; anything else fails. Both
get the records without NULs, of which laurel dies, and laurel's enrichment is off: it would look for the corpus'
processes in our /proc.
"""

from __future__ import annotations

import json
import lzma
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import pytest

from audisp.event import NO_STAMP
from audisp.parse.assemble import Assembler
from audisp.parse.record import RecordReader
from audisp.record import Block
from audisp.shapes.laurel import Laurel
from audisp.shapes.shape import ShapeSettings
from tests.needs import CORPUS, ROOT, needs

pytestmark = needs("laurel")

OURS: Final = ROOT / "tests" / "corpus"
CONFIG: Final = """
directory = "{folder}"
[auditlog]
file = "-"
[enrich]
pid = false
container = false
script = false
execve-env = []
"""
Objects = dict[tuple[str, str], list[dict[str, Any]]]
"""By node and ID, in order."""

REFUSED: Final = "laurel refuses the record"
DIGITS: Final = "digits of a field that laurel does not know are bytes to it"
NASTY: Final = {
    "1760500001.012:1031": REFUSED,  # "tty pid=8": a word before the fields
    "1760500002.002:1041": REFUSED,  # an AVC without permissions
    "1760500003.002:1051": "of an argument's pieces laurel loses what comes in a second record before the first",
    "1760500003.005:1054": REFUSED,  # an empty argument
    "1760500005.001:1100": DIGITS,
    "1760500005.002:1101": "laurel 0.5.1 has another name for type 1420 than Linux has",
    "1760500005.003:1102": REFUSED,
    "1760500005.004:1103": DIGITS,
    "1760500005.005:1104": DIGITS,
    "1760500005.008:1107": REFUSED,  # LOGIN of a kernel before 3.3
    "1760500050.003:1402": "a SYSCALL that was sent twice: laurel puts both into one object",
    "1760500060.001:1500": REFUSED,  # torn
    "1760500060.002:1501": REFUSED,  # a quote without an end
    "1760500060.003:1502": REFUSED,  # torn
    "1760500060.006:1506": "laurel has no line for a SYSCALL of fewer than three fields",
    "1760500060.008:1508": REFUSED,  # an odd number of digits
    "1760500060.010:1510": "laurel has no line for a SYSCALL of fewer than three fields",
    "1760500060.013:1513": "a name that comes twice in a record: the first is the kernel's, most readers take the last",
}


def objects(lines: list[bytes]) -> Objects:
    """The events of these lines of JSON."""
    found: Objects = defaultdict(list)
    for line in lines:
        event = json.loads(line)
        found[event.get("NODE", ""), event["ID"]].append(event)
    return found


def theirs(data: bytes, folder: Path) -> tuple[Objects, list[str]]:
    """What laurel makes of it, and what it complains of."""
    config = folder / "laurel.toml"
    config.write_text(CONFIG.format(folder=folder))
    program = shutil.which("laurel", path="/usr/sbin:/sbin:/usr/bin:/bin")
    assert program is not None
    done = subprocess.run([program, "--config", config], input=data, capture_output=True, check=True, timeout=50)
    return objects(done.stdout.splitlines()), [line for line in done.stderr.decode().split("\n") if " Error " in line]


def ours(data: bytes) -> Objects:
    """What we make of it; lines without a stamp left out, which laurel refuses."""
    assembler = Assembler("test", RecordReader(), recorded=True)
    shape = Laurel(ShapeSettings())
    lines: list[bytes] = []
    pieces = data.split(b"\n")
    for at in range(0, len(pieces), 1_000):
        piece = b"".join(line + b"\n" for line in pieces[at : at + 1_000] if line)
        batch = assembler.feed(Block(piece, piece.count(b"\n"), "test", 0.0), 0.0)
        for each in (batch, assembler.flush(0.0) if at + 1_000 >= len(pieces) else None):
            if each is not None:
                texts = zip(each.events, shape.render_batch(each), strict=True)
                lines += [text for event, text in texts if text and not event.flags & NO_STAMP]
    return objects(lines)


def clean(path: Path) -> bytes:
    """The file's records."""
    data = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    data = data.replace(b"\0", b"")
    return data if data.endswith(b"\n") else data + b"\n"


def differences(mine: Objects, its: Objects) -> set[str]:
    """IDs of events that are not the same."""
    return {key[1] for key in mine.keys() | its.keys() if mine.get(key) != its.get(key)}


def _refused(id_: str, complaints: list[str]) -> bool:
    """Whether laurel complained of a record of this event. Milliseconds may be written with fewer digits there."""
    second, _, serial = id_.partition(".")
    serial = serial.partition(":")[2]
    return any(f"audit({second}." in each and f":{serial})" in each for each in complaints)


def test_our_own_log(tmp_path: Path) -> None:
    data = clean(OURS / "mixed.log")
    its, complaints = theirs(data, tmp_path)
    assert ours(data) == its
    assert len(its) > 15
    assert complaints == []


@needs("corpus")
@pytest.mark.parametrize("name", ["mixed.log.xz", "mixed-enriched.log.xz", "sigma_positive.log"])
@pytest.mark.timeout(150)
def test_the_corpus(name: str, tmp_path: Path) -> None:
    data = clean(CORPUS / name)
    its, complaints = theirs(data, tmp_path)
    assert differences(ours(data), its) == set()
    assert len(its) > 100
    assert complaints == []


@pytest.mark.parametrize("path", [OURS / "nasty-events.log", CORPUS / "nasty.log"], ids=["ours", "corpus"])
def test_hard_lines(path: Path, tmp_path: Path) -> None:
    if not path.exists():
        pytest.skip(f"corpus: {path} is missing")
    data = clean(path)
    mine = ours(data)
    its, complaints = theirs(data, tmp_path)
    different = differences(mine, its)
    assert different == NASTY.keys()
    for (node, id_), events in mine.items():
        if id_ in different and NASTY[id_] == REFUSED:
            assert (node, id_) not in its, id_
            assert _refused(id_, complaints), id_
            assert events
    assert its.keys() <= mine.keys()  # we have every event that laurel has


PUBLIC: Final = {
    # records that a newer laurel may take; what is listed are all events that differ
    "auditbeat__testdata__userlogin.log": {"1553452002.231:110276965": REFUSED, "1553501549.148:110544844": REFUSED},
    "auparse__testdata__audit-rhel6.log": {"1488862769.030:19469538": REFUSED},
    "auparse__testdata__audit-ubuntu17.log": {"1515619721.392:106081": REFUSED},
    "filebeat__test__audit-cent7-node.log": {"1594053514.707:4": DIGITS},
    "raw_test_events.log": {"1521773704.435:270957": DIGITS},
    "test_data__selinux.log": {
        "1337845201.000:0": REFUSED,
        "1337845201.174:94983": REFUSED,
        "1337845222.174:94984": REFUSED,
        "1337845666.174:94984": REFUSED,
    },
    "tests__auditd-suid-crash__auditd-suid-crash.log": {
        "1696431255.037:8272": REFUSED,  # of some records: 0x1D was lost, and "res=1AUID=..." is left
        "1696431282.553:8282": REFUSED,
        "1696431282.553:8283": REFUSED,
    },
}


@needs("corpus")
def test_logs_of_public_projects(tmp_path: Path) -> None:
    logs = sorted((CORPUS / "public").rglob("*.log"))
    assert len(logs) > 10
    for path in logs:
        data = clean(path)
        mine = ours(data)
        its, complaints = theirs(data, tmp_path)
        known = PUBLIC.get(path.name, {})
        assert differences(mine, its) == known.keys(), path.name
        assert its.keys() <= mine.keys(), path.name
        for id_, reason in known.items():
            assert (reason == REFUSED) is _refused(id_, complaints), (path.name, id_)


NAMELESS: Final = {1204, 1301, 1329}
"""Types for which laurel has names, and auditd none: it writes the number, and so do we."""
EOE: Final = 1320


def test_records_made_here(tmp_path: Path) -> None:
    numbers = {*range(1100, 1340), *range(1700, 1710)} - NAMELESS - {EOE}
    lines = [
        *(f"type=UNKNOWN[{number}] msg=audit(@): a=1 b=2 pid=3" for number in sorted(numbers)),
        'type=PATH msg=audit(@): item=0 name="\\%+\x01\x7f\xe4\xc3\xa4" x=C3A4FF225C0A pid=-1 mode=0644 flags=0x1',
        'type=EXECVE msg=audit(@): argc=4 a0="x" a1_len=4 a1[0]=4142 a1[1]=43 a3=(null) foo=1',
        "type=PROCTITLE msg=audit(@): proctitle=41004200004300",
        'type=USER_LOGIN msg=audit(@): pid=1 uid=0 msg=\'op=a "b" \\ %\'\x1dUID="x" AUID=unset',
        "type=AVC msg=audit(@): avc:  denied  { read write } for  pid=1 scontext=a:b",
        "type=SOCKADDR msg=audit(@): saddr=0A\x1dSADDR={ saddr_fam=inet6 laddr=::1 lport=1 }",
        'type=SYSCALL msg=audit(@): arch=c000003e syscall=59 success=no exit=-13 a0=0 a9=ff key=610162 comm="a"',
        'node=n+1 type=CWD msg=audit(@): cwd="/"',
    ]
    data = b"".join(
        line.replace("@", f"1700000000.5:{at}").encode("latin-1") + b"\n" for at, line in enumerate(lines, 1)
    )
    its, complaints = theirs(data, tmp_path)
    assert complaints == []
    assert len(its) == len(lines)
    assert ours(data) == its


def test_the_table_of_fields_is_what_laurel_answers() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "make_laurel.py", "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "up to date"), done.stderr
