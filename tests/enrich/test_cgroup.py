"""Cgroup paths in the forms that runtimes and systemd write them."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.parse.cgroup import MAX_PATH, Container, Placement, of_path, path_of, placement, unescape

A: Final = "3f" * 32
B: Final = "9a0b" * 16
POD: Final = "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0"
_POD: Final = POD.replace("-", "_")
STATIC: Final = "a1b2" * 8

USER: Final = "/user.slice/user-1000.slice/user@1000.service"

CONTAINERS: Final[list[tuple[str, str, dict[str, Any]]]] = [
    ("docker, cgroupfs", f"/docker/{A}", {"runtime": "docker"}),
    ("docker, systemd", f"/system.slice/docker-{A}.scope", {"runtime": "docker"}),
    ("docker, rootless", f"{USER}/user.slice/docker-{A}.scope", {"runtime": "docker", "user": 1000}),
    ("docker, a parent of its own", f"/actions_job/{A}", {}),
    ("docker, systemd inside", f"/system.slice/docker-{A}.scope/init.scope", {"runtime": "docker"}),
    ("docker in docker", f"/docker/{A}/docker/{B}", {"runtime": "docker", "inner": B}),
    ("buildkit in docker", f"/system.slice/docker-{A}.scope/buildkit/x1y2", {"runtime": "docker"}),
    ("kind", f"/docker/{A}/kubelet/kubepods/pod{POD}/{B}", {"runtime": "docker", "inner": B}),
    ("containerd, ctr", f"/default/{A}", {}),
    ("containerd, nerdctl", f"/system.slice/nerdctl-{A}.scope", {"runtime": "containerd"}),
    ("kubernetes, cgroupfs", f"/kubepods/burstable/pod{POD}/{A}", {"pod": POD}),
    ("kubernetes, guaranteed", f"/kubepods/pod{POD}/{A}", {"pod": POD}),
    ("kubernetes, static pod", f"/kubepods/burstable/pod{STATIC}/{A}", {"pod": STATIC}),
    (
        "kubernetes, systemd, containerd",
        f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{_POD}.slice/cri-containerd-{A}.scope",
        {"runtime": "containerd", "pod": POD},
    ),
    (
        "kubernetes, systemd, docker",
        f"/kubepods.slice/kubepods-pod{_POD}.slice/docker-{A}.scope",
        {"runtime": "docker", "pod": POD},
    ),
    (
        "kubernetes, cgroupfs runtime under the systemd driver",
        f"/system.slice/containerd.service/kubepods-burstable-pod{_POD}.slice:cri-containerd:{A}",
        {"runtime": "containerd", "pod": POD},
    ),
    (
        "cri-o, systemd",
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{_POD}.slice/crio-{A}.scope",
        {"runtime": "cri-o", "pod": POD},
    ),
    ("cri-o, cgroupfs", f"/kubepods/burstable/pod{POD}/crio-{A}", {"runtime": "cri-o", "pod": POD}),
    ("podman, systemd", f"/machine.slice/libpod-{A}.scope", {"runtime": "podman"}),
    ("podman, systemd, version 2", f"/machine.slice/libpod-{A}.scope/container", {"runtime": "podman"}),
    (
        "podman, pod",
        f"/machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope/container",
        {"runtime": "podman"},
    ),
    ("podman, cgroupfs", f"/libpod_parent/libpod-{A}", {"runtime": "podman"}),
    ("podman, cgroupfs, id alone", f"/libpod_parent/{A}", {"runtime": "podman"}),
    ("podman, rootless", f"{USER}/user.slice/libpod-{A}.scope/container", {"runtime": "podman", "user": 1000}),
    ("podman, split", f"/system.slice/web.service/libpod-payload-{A}", {"runtime": "podman"}),
    ("ecs", f"/ecs/5c8f0a1e/{A}", {}),
]

NAMED: Final = [
    ("lxc", "/lxc/web1", Container("web1", "lxc")),
    ("lxc, with more below", "/lxc/101/ns/system.slice/cron.service", Container("101", "lxc")),
    ("lxc 4", "/lxc.payload.web1", Container("web1", "lxc")),
    ("lxc 4, init inside", "/lxc.payload.web1/init.scope", Container("web1", "lxc")),
    ("lxc 3", "/lxc.payload/web1", Container("web1", "lxc")),
    ("docker in lxc", f"/lxc.payload.web1/docker/{A}", Container("web1", "lxc", inner=A)),
    (
        "nspawn, unit",
        "/machine.slice/systemd-nspawn@deb\\x2d12.service/payload",
        Container("deb-12", "systemd-nspawn"),
    ),
    ("nspawn, scope", "/machine.slice/machine-deb12.scope", Container("deb12", "systemd-nspawn")),
    ("libvirt lxc", "/machine.slice/machine-lxc\\x2d7\\x2dweb.scope", Container("lxc-7-web", "libvirt-lxc")),
]

NONE: Final = [
    "/",
    "/init.scope",
    "/system.slice/docker.service",
    "/system.slice/containerd.service",
    f"/system.slice/docker-{A[:12]}.scope",
    f"/machine.slice/libpod-conmon-{A}.scope",
    f"/kubepods.slice/kubepods-pod{_POD}.slice/crio-conmon-{A}.scope",
    "/lxc.monitor.web1",
    "/lxc.monitor/web1",
    "/lxc",
    "/lxc.payload.",
    "/machine.slice/systemd-nspawn@deb12.service/supervisor",
    "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt/emulator",
    f"/{A[:-1]}",
    f"/{A}0",
    f"/{A.upper()}",
    f"/kubepods/burstable/pod{POD}",
]


@pytest.mark.parametrize(("path", "about"), [row[1:] for row in CONTAINERS], ids=[row[0] for row in CONTAINERS])
def test_a_container_with_an_id(path: str, about: dict[str, Any]) -> None:
    assert of_path(path).container == Container(A, **about)


@pytest.mark.parametrize(("path", "container"), [row[1:] for row in NAMED], ids=[row[0] for row in NAMED])
def test_a_container_with_a_name(path: str, container: Container) -> None:
    assert of_path(path).container == container


@pytest.mark.parametrize("path", NONE)
def test_what_is_no_container(path: str) -> None:
    assert of_path(path).container is None


@pytest.mark.parametrize(
    ("path", "unit", "user_unit", "slice_"),
    [
        ("/", None, None, None),
        ("/init.scope", "init.scope", None, None),
        ("/system.slice/ssh.service", "ssh.service", None, "system.slice"),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service", None, "system-getty.slice"),
        ("/system.slice/nginx.service/workers/1", "nginx.service", None, "system.slice"),
        ("/system.slice/dbus.socket", "dbus.socket", None, "system.slice"),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope", None, "user-1000.slice"),
        (
            f"{USER}/app.slice/app-org.gnome.Terminal.slice/vte-spawn-1.scope",
            "user@1000.service",
            "vte-spawn-1.scope",
            "app-org.gnome.Terminal.slice",
        ),
        (f"{USER}/init.scope", "user@1000.service", "init.scope", "user-1000.slice"),
        (USER, "user@1000.service", None, "user-1000.slice"),
        (f"/system.slice/docker-{A}.scope/system.slice/ssh.service", f"docker-{A}.scope", None, "system.slice"),
        (f"/docker/{A}/system.slice/ssh.service", None, None, None),
        ("/lxc.payload.web1/system.slice/ssh.service", None, None, None),
        (f"/system.slice/web.service/libpod-payload-{A}", "web.service", None, "system.slice"),
        ("/system.slice/_cgroup.service", "cgroup.service", None, "system.slice"),
        ("/../../system.slice/ssh.service", "ssh.service", None, "system.slice"),
        ("/mygroup/sub", None, None, None),
    ],
)
def test_units(path: str, unit: str | None, user_unit: str | None, slice_: str | None) -> None:
    found = of_path(path)
    assert (found.unit, found.user_unit, found.slice) == (unit, user_unit, slice_)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("0::/system.slice/ssh.service\n", "/system.slice/ssh.service"),
        (
            "12:pids:/system.slice/ssh.service\n4:memory:/x\n1:name=systemd:/system.slice/ssh.service\n0::/\n",
            "/system.slice/ssh.service",
        ),
        ("12:pids:/\n1:name=systemd:/user.slice\n0::/system.slice/a.service\n", "/system.slice/a.service"),
        ("9:name=systemd:/\n4:memory:/process_api/5\n0::/\n", "/process_api/5"),
        ("0::/\n", "/"),
        ("0::/system.slice/gone.service (deleted)\n", "/system.slice/gone.service"),
        ("0::/with:colons:in/it\n", "/with:colons:in/it"),
        ("", None),
        ("garbage\n0:\nx::/y\n1:a\n", None),
    ],
)
def test_the_line_that_tells_most(text: str, path: str | None) -> None:
    assert path_of(text) == path


def test_a_whole_file() -> None:
    text = f"11:cpuset:/docker/{A}\n1:name=systemd:/docker/{A}\n0::/\n"
    assert placement(text) == Placement(f"/docker/{A}", Container(A, "docker"))
    assert placement("") is None


@pytest.mark.parametrize(
    ("name", "plain"), [("a\\x2db", "a-b"), ("a-b", "a-b"), ("\\x2", "\\x2"), ("\\xff", "\\xff"), ("\\x41\\x42", "AB")]
)
def test_unescape(name: str, plain: str) -> None:
    assert unescape(name) == plain


_PIECES: Final = st.sampled_from(
    [A, f"docker-{A}.scope", "lxc", "lxc.payload.x", "user@1.service", "system.slice", "pod" + POD, "..", "a.service"]
)


@given(st.lists(_PIECES | st.text(max_size=40), max_size=12))
def test_any_path_gives_something_in_bounds(parts: list[str]) -> None:
    found = placement("0::/" + "/".join(parts))
    if found is not None:
        assert len(found.cgroup) <= MAX_PATH
        assert found.container is None or found.container.id in found.cgroup or "\\x" in found.cgroup
        assert found.unit is None or found.unit in found.cgroup
