"""Who sent a user-space record: what the kernel wrote before ``msg='``, read again by the reactor itself.

Whoever has CAP_AUDIT_WRITE, root in a container included, writes the text behind ``msg='`` as he likes. Before it stand
the sender's pid, uid, auid and session as the kernel knows them (kernel/audit.c, audit_receive_msg).
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from audisp.react.request import MAX_HEAD

USER_SPACE: Final = (range(1100, 1200), range(2100, 3000))
"""Types that user space may send (linux/audit.h: AUDIT_FIRST_USER_MSG, AUDIT_FIRST_USER_MSG2). 1005, AUDIT_USER, is
one as well."""
AUDIT_USER: Final = 1005
# AppArmor's labels end in the mode of the profile: subj=/usr/sbin/cupsd (enforce).
_HEAD: Final = re.compile(
    rb"(?:node=[!-~]{1,255} )?(?:type=[A-Za-z0-9_\[\]]{1,40} msg=)?(?:audit\([0-9]{1,13}\.[0-9]{3}:[0-9]{1,20}\): ?)?"
    rb"(?:user )?pid=([0-9]{1,7}) uid=([0-9]{1,10}) auid=([0-9]{1,10}) ses=([0-9]{1,10})"
    rb"(?: subj=[^' ]{1,512}(?: \([a-z]{1,16}\))?)?(?: (?:msg=)?)?",
)


@attrs.frozen
class Sender:
    """As the kernel saw it. auid and ses: 4294967295 is unset."""

    pid: int
    uid: int
    auid: int
    ses: int


def is_user_space(record_type: int) -> bool:
    """Whether user space can send records of this type."""
    return record_type == AUDIT_USER or any(record_type in each for each in USER_SPACE)


def cut_head(record: bytes) -> bytes:
    """What of a user-space record stands before the sender's own text, as `read_head` wants it; at most MAX_HEAD bytes.
    For the matcher. Without ``msg='`` it is the whole record, whose text then is somebody's, and no head."""
    return record.partition(b" msg='")[0][:MAX_HEAD]


def read_head(head: bytes) -> Sender | None:
    """The sender that these bytes name; None if they are anything but what the kernel writes there.

    The whole must match, so that no second ``pid=``, and no quote, has a place.
    """
    found = _HEAD.fullmatch(head)
    if found is None:
        return None
    return Sender(*(int(number) for number in found.groups()))
