"""Where a process runs, from the text of ``/proc/PID/cgroup``: container and runtime, pod, systemd unit and slice.

Each line is ``HIERARCHY:CONTROLLERS:PATH`` (cgroups(7)); version 2 has one line, ``0::PATH``. The path alone tells:
every runtime writes the container's id into the name of the cgroup it makes, in one of two ways, by itself (the
*cgroupfs* driver: ``/docker/ID``) or through systemd (a scope: ``docker-ID.scope``). The forms known here stand in the
tables below, from the runtimes' documentation and sources. A path that has none of these forms is no container; one
that cannot be read is unknown, and that is the caller's business.

Three things to know:

- A monitor (``libpod-conmon-ID.scope``, ``crio-conmon-ID.scope``, ``lxc.monitor.NAME``, nspawn's ``supervisor``) bears
  the container's id and runs outside of it: it is in no container.
- Below ``user@UID.service`` everything belongs to that user, who may give a cgroup any name. A container found there is
  as good as that user's word, and `Container.user` says whose.
- Of containers in containers the outermost is the one that this host's runtime made and lists; the names further in
  are the word of who is root in there. The innermost of these is `Container.inner`.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

MAX_TEXT: Final = 64 * 1024
"""Bytes of ``/proc/PID/cgroup`` looked at. Version 1 has some 14 lines, and a path has at most 4,096 bytes."""
MAX_PATH: Final = 4_096
"""Characters of a path kept (PATH_MAX); what is longer is no cgroup of a runtime, and is cut."""

_ID: Final = r"[0-9a-f]{64}"
_HEX_ID: Final = re.compile(_ID)
_NAMED_ID: Final = re.compile(rf"([a-z][a-z0-9-]{{0,30}})-({_ID})(?:\.scope)?")
"""``RUNTIME-ID``, as cgroup or scope."""
_COLON_ID: Final = re.compile(rf"[^:]{{1,255}}:([a-z][a-z0-9-]{{0,30}}):({_ID})")
"""``PARENT:RUNTIME:ID``: what runc makes of a systemd name when it was configured for cgroupfs."""
_POD: Final = re.compile(r"pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})")
"""A pod's uid; the systemd driver writes ``_`` for ``-``, and static pods have 32 digits without any."""
_USER: Final = re.compile(r"user@([0-9]{1,10})\.service")

RUNTIMES: Final = {
    "docker": "docker",
    "cri-containerd": "containerd",
    "containerd": "containerd",
    "nerdctl": "containerd",
    "libpod": "podman",
    "libpod-payload": "podman",
    "crio": "cri-o",
}
"""The word before the id, and the runtime it stands for."""
MONITORS: Final = frozenset({"libpod-conmon", "crio-conmon"})
"""The same where the process watches the container from outside."""
UNIT_TYPES: Final = (".service", ".scope", ".socket", ".mount", ".swap")
"""Units that hold processes themselves (systemd.unit(5)); slices hold units."""


@attrs.frozen
class Container:
    """id: the runtime's, 64 hexadecimal digits or a name. runtime: None if the path does not say. pod: Kubernetes' uid
    of the pod, with hyphens. user: the uid in whose part of the tree it lies, None for the system's own. inner: the id
    of the innermost container inside of this one."""

    id: str
    runtime: str | None = None
    pod: str | None = None
    user: int | None = None
    inner: str | None = None


@attrs.frozen
class Placement:
    """What a cgroup path says. container, unit, slice: None where there is none.

    unit: the unit of the system's own systemd, a container's scope included; what a systemd inside a container says is
    not looked at. user_unit: the unit of the user's systemd below ``user@UID.service``. slice: the innermost above it.
    """

    cgroup: str
    container: Container | None = None
    unit: str | None = None
    user_unit: str | None = None
    slice: str | None = None


def path_of(text: str) -> str | None:
    """The path that tells most, of all lines: version 2's, else systemd's, else the longest. None if no line has one.

    On a host with both versions, version 2 says ``/`` where version 1 is in use.
    """
    found: dict[str, str] = {}
    for line in text[:MAX_TEXT].split("\n"):
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon and number.isdecimal() and path.startswith("/"):
            found.setdefault(controllers, path.removesuffix(" (deleted)")[:MAX_PATH])
    for controllers in ("", "name=systemd"):
        if found.get(controllers, "/") != "/":
            return found[controllers]
    return max(found.values(), key=len, default=None)


def placement(text: str) -> Placement | None:
    """What the text of ``/proc/PID/cgroup`` says; None if it says nothing (empty, or damaged)."""
    path = path_of(text)
    return None if path is None else of_path(path)


def of_path(path: str) -> Placement:
    """What one cgroup path says."""
    parts = [part for part in path.split("/") if part and part != ".."]
    at, container = _container(parts)
    unit, slice_, below = _unit(parts, 0, len(parts) if at is None else at + 1)
    user_unit = None
    if unit is not None and _USER.fullmatch(unit):
        user_unit, inner, _ = _unit(parts, below, len(parts) if at is None else at + 1)
        slice_ = slice_ if user_unit is None else inner or slice_
    return Placement(path, container, unit, user_unit, slice_)


def _container(parts: list[str]) -> tuple[int | None, Container | None]:
    # The outermost container, and where its name stands.
    user: int | None = None
    pod: str | None = None
    found: Container | None = None
    at: int | None = None
    for index, part in enumerate(parts):
        name = _named(parts, index)
        if found is not None:
            if name is not None and name[0] is not None:
                found = attrs.evolve(found, inner=name[0])
            continue
        owner = _USER.fullmatch(part)
        user = int(owner[1]) if owner else user
        uid = _POD.search(part)
        pod = uid[1].replace("_", "-") if uid else pod
        if name is not None:
            if name[0] is None:
                return None, None
            found, at = Container(name[0], name[1], pod, user), index
    return at, found


def _named(parts: list[str], at: int) -> tuple[str | None, str | None] | None:
    # Id and runtime that the part at `at` names; (None, None) for a monitor, None for no container.
    part = parts[at]
    above = parts[at - 1] if at else ""
    match = _NAMED_ID.fullmatch(part)
    if match:
        if match[1] in MONITORS:
            return None, None
        return match[2], RUNTIMES.get(match[1])
    match = _COLON_ID.fullmatch(part)
    if match:
        return match[2], RUNTIMES.get(match[1])
    if _HEX_ID.fullmatch(part):
        # cgroupfs: the folder above is the runtime's own, a pod's, or a namespace's, which says nothing.
        return part, RUNTIMES.get(above.removesuffix("_parent"))
    return _by_name(part, above, parts[at + 1] if at + 1 < len(parts) else "")


def _by_name(part: str, above: str, below: str) -> tuple[str | None, str | None] | None:
    # LXC and systemd-nspawn, which call their containers by names.
    if part.startswith("lxc.monitor"):
        return None, None
    if part.startswith("lxc.payload.") and len(part) > len("lxc.payload."):
        return part.removeprefix("lxc.payload."), "lxc"
    if above in ("lxc", "lxc.payload"):
        return part, "lxc"
    if part.startswith("systemd-nspawn@") and part.endswith(".service"):
        if below == "supervisor":
            return None, None
        return unescape(part.removeprefix("systemd-nspawn@").removesuffix(".service")), "systemd-nspawn"
    if part.startswith("machine-") and part.endswith(".scope"):
        name = unescape(part.removeprefix("machine-").removesuffix(".scope"))
        if name.startswith("qemu-"):
            return None  # a virtual machine of libvirt's: what runs in it are no processes of ours
        if name.startswith("lxc-"):
            return name, "libvirt-lxc"
        return (None, None) if below == "supervisor" else (name, "systemd-nspawn")
    return None


def _unit(parts: list[str], start: int, stop: int) -> tuple[str | None, str | None, int]:
    # The first unit below slices (systemd.slice(5)), the innermost of these, and the index behind the unit.
    slice_: str | None = None
    for index in range(start, stop):
        part = parts[index].removeprefix("_")  # how systemd writes a name that the kernel would take for its own file
        if part.endswith(".slice"):
            slice_ = part
        elif part.endswith(UNIT_TYPES) and not part.startswith("."):
            return part, slice_, index + 1
        else:
            break
    return None, slice_, stop


def unescape(name: str) -> str:
    """A piece of a unit's name as it was before systemd-escape(1): ``\\x2d`` back to ``-``. What is no escape stays."""
    if "\\x" not in name:
        return name
    return re.sub(r"\\x([0-7][0-9a-f])", lambda found: chr(int(found[1], 16)), name)
