"""English for what the normaliser says: verbs for its actions, and nouns where an object has no name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from audisp.parse.form import terminal_safe
from audisp.parse.sockaddr import SockAddr
from audisp.parse.values import to_str

PLAIN: Final = 0
"""An object, or what stands for it."""
PROGRAM: Final = 1
"""The object is a program, and has arguments."""
PAIR: Final = 2
"""The second object is a file's new name."""
BARE: Final = 3
"""There is no object: the system call is all that is known."""

Shown = tuple[int, str, str, str, str, str]
"""A call as the sentence has it: one of the forms above; what comes before the object; what stands for one that is not
known; what comes after it; the same without the program; the program."""

LONGEST_WORD: Final = 1_024
"""Characters of one value: a path of 4,096 would push all that comes after it off every screen."""

# fmt: off
VERBS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType({
    "accepted-connection-from": ("accepted a connection from", "accept a connection from"),
    "accessed-mac-policy-controlled-object": ("was judged by the policy about", "pass the policy about"),
    "accessed-policy-controlled-file": ("asked fanotify's watchers about", "ask fanotify's watchers about"),
    "acquired-credentials": ("acquired the credentials of", "acquire the credentials of"),
    "added-audit-rule": ("added an audit rule with the key", "add an audit rule with the key"),
    "added-group-account-to": ("added the group", "add the group"),
    "added-user-account": ("added the account", "add the account"),
    "adjusted-scheduling-policy-of": ("changed the scheduling of", "change the scheduling of"),
    "allocated-memory-in": ("allocated memory in", "allocate memory in"),
    "authenticated": ("authenticated as", "authenticate as"),
    "bound-socket": ("bound a socket to", "bind a socket to"),
    "called-seccomp-controlled-syscall": ("called, with seccomp's leave,", "call, against seccomp's rules,"),
    "caused-mac-policy-error": ("caused an error of the security policy", "cause an error of the security policy"),
    "changed-audit-configuration": ("changed the audit configuration to", "change the audit configuration to"),
    "changed-audit-feature": ("changed the audit feature", "change the audit feature"),
    "changed-file-attributes-of": ("changed the attributes of", "change the attributes of"),
    "changed-file-ownership-of": ("changed the owner of", "change the owner of"),
    "changed-file-permissions-of": ("changed the permissions of", "change the permissions of"),
    "changed-identity-of": ("changed the identity of", "change the identity of"),
    "changed-login-id-to": ("set the login id to", "set the login id to"),
    "changed-password": ("changed the password of", "change the password of"),
    "changed-role-to": ("changed the role to", "change the role to"),
    "changed-selinux-boolean": ("changed the SELinux boolean", "change the SELinux boolean"),
    "changed-selinux-enforcement-to": ("set SELinux enforcement to", "set SELinux enforcement to"),
    "changed-system-name": ("changed the system's name", "change the system's name"),
    "changed-system-time": ("changed the system's time", "change the system's time"),
    "changed-timestamp-of": ("changed the times of", "change the times of"),
    "checked-filesystem-metadata-of": ("looked at the file system of", "look at the file system of"),
    "checked-metadata-of": ("looked at", "look at"),
    "connected-to": ("connected to", "connect to"),
    "crashed-program": ("crashed", "crash"),
    "created-directory": ("created the directory", "create the directory"),
    "deleted": ("deleted", "delete"),
    "deleted-audit-rule": ("removed an audit rule with the key", "remove an audit rule with the key"),
    "deleted-group-account-from": ("deleted the group", "delete the group"),
    "deleted-user-account": ("deleted the account", "delete the account"),

    "did-unknown": ("left a record of type", "leave a record of type"),
    "disconnected-from": ("disconnected from", "disconnect from"),
    "disposed-credentials": ("disposed of the credentials of", "dispose of the credentials of"),
    "ended-session": ("ended a session on", "end a session on"),
    "entered-promiscuous-mode-on-device": ("made promiscuous the device", "make promiscuous the device"),
    "executed": ("executed", "execute"),
    "installed-software": ("installed", "install"),
    "killed-list-of-pids": ("sent a signal to several processes, first", "send a signal to several processes, first"),
    "killed-pid": ("sent a signal to process", "send a signal to process"),
    "left-promiscuous-mode-on-device": ("ended promiscuous mode of the device", "end promiscuous mode of the device"),
    "loaded-bpf-program": ("loaded the BPF program", "load the BPF program"),
    "loaded-firewall-rule-to": ("changed the firewall table", "change the firewall table"),
    "loaded-kernel-module": ("loaded the kernel module", "load the kernel module"),
    "locked-account": ("locked the account", "lock the account"),
    "logged-in": ("logged in on", "log in on"),
    "logged-out": ("logged out of", "log out of"),
    "make-device": ("made the device or pipe", "make the device or pipe"),
    "modified-group-account": ("changed the group", "change the group"),
    "modified-user-account": ("changed the account", "change the account"),
    "mounted": ("mounted", "mount"),
    "opened-file": ("opened", "open"),
    "ran-command": ("ran", "run"),
    "received-from": ("received from", "receive from"),
    "refreshed-credentials": ("refreshed the credentials of", "refresh the credentials of"),
    "renamed": ("renamed", "rename"),
    "sent-message": ("sent a message", "send a message"),
    "sent-to": ("sent to", "send to"),
    "started-audit": ("started auditing", "start auditing"),
    "started-service": ("started the service", "start the service"),
    "started-session": ("started a session on", "start a session on"),
    "stopped-service": ("stopped the service", "stop the service"),
    "symlinked": ("made the symbolic link", "make the symbolic link"),
    "typed": ("typed", "type"),
    "unloaded-bpf-program": ("unloaded the BPF program", "unload the BPF program"),
    "unloaded-kernel-module": ("unloaded a kernel module", "unload a kernel module"),
    "unlocked-account": ("unlocked the account", "unlock the account"),
    "unmounted": ("unmounted", "unmount"),
    "used-suspcious-link": ("used a suspicious link", "use a suspicious link"),
    "was-authorized": ("passed the account check as", "pass the account check as"),
})
# fmt: on
"""What somebody did, and what they tried to do. An action that has none of its own is said by its words."""

NOUNS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "account": "an account",
        "file": "a file",
        "file-system": "a file system",
        "keystrokes": "something",
        "process": "a process",
        "socket": "a socket",
        "user-session": "a session",
        "virtual-machine": "a virtual machine",
    }
)
"""What is said for an object without a name, by its kind; nothing for any other kind."""

PREPOSITIONS: Final = frozenset({"about", "as", "from", "in", "key", "leave,", "of", "on", "rules,", "to"})
"""Last words of verbs that cannot stand without an object."""

_PLAIN: Final = re.compile(r"[A-Za-z0-9_@%+:./-]++\Z")


def word(text: str) -> str:
    """A value as one word that cannot be taken for anything else in the sentence: in quotes if it is not plain.

    Inside quotes a quote and a backslash have a backslash before them, and what a terminal acts on is ``\\xNN``.
    """
    if _PLAIN.match(text) and len(text) <= LONGEST_WORD:
        return text
    if len(text) > LONGEST_WORD:
        text = text[: LONGEST_WORD - 1] + "…"
    return '"' + terminal_safe(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def peer(address: SockAddr) -> str:
    """A socket address: ``192.0.2.1 port 443``, ``/dev/log``, or the family of one that is neither."""
    if address.problem or not address.family:
        return "an address that cannot be read"
    if address.path is not None:
        path = to_str(address.path)
        return word("@" + path if address.abstract else path) if path else "an unnamed socket"
    if address.port is not None:
        host = f"{address.address}%{address.scope}" if address.scope else address.address
        return f"{host} port {address.port}"
    return "nobody" if address.family == "unspec" else f"a socket of the family {address.family}"
