"""What upstream's models look for (upstream.md 7.1), and how it is found without taking an event apart."""

from __future__ import annotations

import re
from typing import Final

from audisp.detect.actors import Said
from audisp.detect.weights import MIN_PERSON, ScoreSettings
from audisp.parse.record import Record

LOGIN: Final = 1
WEIGHED: Final = 2
CONNECTED: Final = 4
"""What a watched text stands for, as bits."""
ANOMALIES: Final = frozenset({"ANOM_PROMISCUOUS", "ANOM_ABEND", "ANOM_LINK", "ANOM_CREAT"})
"""The kernel's own (linux/audit.h: 1700 to 1703); user space may send what has other names."""
ALLOWED: Final = frozenset({"1", "0x1"})
"""FANOTIFY's resp of what was allowed (linux/fanotify.h: FAN_ALLOW)."""


_IDLE: Final = re.compile(
    rb"(?:node=[^ \n]++ )?type=(?:(?:USER_START|USER_END|USER_LOGOUT) msg=audit\([^)\n]++\): pid=[0-9]++ uid=[0-9]++ "
    rb"auid=[0-9]++ ses=4294967295 [^\n]*+\n|USER_AUTH [^\n]*?res=success'[^\n]*+\n)\Z"
)


def matters(raw: bytes, bits: int) -> bool:
    """Whether an event with these bits can add to anything: what begins or ends no session, and who proved to be who he
    is, does not."""
    return bits != LOGIN or _IDLE.match(raw) is None


def is_service(each: Said, settings: ScoreSettings) -> bool:
    """Whether a login is one of an account that no person has."""
    if each.account is not None:
        return each.account in settings.services
    return each.number is not None and 0 < each.number < MIN_PERSON


def is_denied(record: Record) -> bool:
    """Whether an AVC tells of something that was refused: SELinux' ``denied``, AppArmor's DENIED."""
    fields = record.fields
    return fields.get("seresult") == "denied" or fields.get("apparmor") == '"DENIED"'


def texts_of(settings: ScoreSettings) -> tuple[tuple[bytes, int], ...]:
    """Texts, in lower case, and what they stand for."""
    found = [
        (b"type=%b msg=" % each, LOGIN) for each in (b"login", b"user_login", b"user_auth", b"user_start", b"user_end")
    ]
    found += [(b"type=%b msg=" % each, LOGIN) for each in (b"user_logout", b"system_boot", b"system_shutdown")]
    found += [(b"type=%b msg=" % each, WEIGHED) for each in (b"avc", b"fanotify")]
    found += [(b"type=%b msg=" % each.lower().encode(), WEIGHED) for each in sorted(ANOMALIES)]
    for key in settings.keys:
        # One key stands in quotes, several in hexadecimal digits.
        found += [(key.lower().encode(), WEIGHED), (key.encode().hex().encode(), WEIGHED)]
    # struct sockaddr_in and sockaddr_in6 begin with the family, in the machine's order.
    found += [(b"saddr=%b" % family, CONNECTED) for family in (b"0200", b"0a00", b"0002", b"000a")]
    return tuple(found)
