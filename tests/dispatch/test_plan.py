"""What is to run: options and files judged as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import attrs
import pytest

from audisp.config.auditd import AuditdConf
from audisp.config.grammar import ConfigErrors
from audisp.dispatch.plan import RECORD_SLOT, Options, Plan, load, node_name
from tests.dispatch.worlds import World


def options(world: World, *sources: str, foreground: bool = False) -> Options:
    return Options(
        conf_dir=world.folder / "etc",
        plugin_dir=world.folder / "plugins.d",
        runtime_dir=world.run,
        sources=sources,
        foreground=foreground,
    )


def live(world: World, *sources: str, foreground: bool = False) -> Plan:
    text = (world.folder / "etc/auditd.conf").read_text()
    (world.folder / "etc/auditd.conf").write_text(text.replace("local_events = no", "local_events = yes"))
    return load(options(world, *sources, foreground=foreground))


def test_only_active_plugins_and_the_folders_of_the_options(world: World) -> None:
    world.recorder("b")
    world.recorder("a")
    plan = world.plan()
    assert [conf.name for conf in plan.plugins] == ["a", "b"]
    assert plan.own.runtime_dir == world.run
    assert plan.own.state_dir == world.run / "state"
    assert plan.plugin_dir == world.folder / "plugins.d"
    assert plan.as_read == plan.own
    assert not plan.owner
    assert plan.queue_bytes == plan.auditd.q_depth * RECORD_SLOT


def test_a_bad_plugin_is_left_out_with_its_error(world: World) -> None:
    world.recorder("good")
    world.recorder("bad", "queue_bytes = none\n")
    plan = world.plan()
    assert [conf.name for conf in plan.plugins] == ["good"]
    assert [str(error).split(": ")[0] for error in plan.errors] == [f"{world.folder}/plugins.d/bad.audisp:5"]


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        (("stdin", "stdin"), "twice"),
        (("netlink", "multicast"), "choose one"),
        (("internal",), "internal"),
        (("nettlink",), "did you mean netlink"),
    ],
)
def test_sources_that_cannot_be(world: World, sources: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigErrors, match=said):
        live(world, *sources)


def test_without_local_events_the_kernel_is_not_read(world: World) -> None:
    for name in ("netlink", "multicast"):
        with pytest.raises(ConfigErrors, match="local_events"):
            load(options(world, name))


def test_other_hosts_are_a_source(world: World) -> None:
    """Then local_events = no needs no other, and the log is written without the kernel's stream."""
    world.recorder("a", "hosts = web1\n")

    def listening(*, sources: tuple[str, ...] = ()) -> Plan:
        return load(attrs.evolve(options(world), sources=sources))

    with pytest.raises(ConfigErrors, match="nothing to read"):
        listening()
    world.configure("tcp_listen_port = 60\nspace_left_action = email\n", "store_size = 64M\n")
    plan = listening()
    assert (plan.sources, plan.owner, plan.writes_log) == ((), False, True)
    conf = plan.network
    assert conf is not None
    assert (conf.transport, conf.tcp_listen_port, conf.store_dir) == ("tcp", 60, world.run / "state" / "store")
    assert (conf.store_size, conf.space_left, conf.space_left_action.name) == (64 << 20, (75, "MiB"), "ignore")
    assert [notice for notice in plan.notices if "plain TCP" in notice]
    assert not [notice for notice in plan.notices if "hosts: has" in notice]
    aside = listening(sources=("stdin",))
    assert (aside.network, aside.writes_log) == (None, False)
    assert [notice for notice in aside.notices if "hosts: has no effect" in notice]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("transport = krb5\n", r"auditd.conf:7: transport: Kerberos is not spoken here"),
        ("enable_krb5 = yes\n", r"auditd.conf:7: enable_krb5: Kerberos is not spoken here"),
        ("transport = tls\n", r"auditd.conf:7: transport: there is no key"),
        ("transport = tls\ntls_psk_file = /k\n", r"auditd.conf:8: tls_psk_file: is set, and nobody who may use it"),
    ],
)
def test_listening_that_cannot_be(world: World, more: str, message: str) -> None:
    world.configure(f"tcp_listen_port = 60\n{more}")
    with pytest.raises(ConfigErrors, match=message):
        load(options(world))


@pytest.mark.parametrize(
    ("source", "foreground", "owner", "writes"),
    [("netlink", False, True, True), ("netlink", True, True, False), ("multicast", False, False, False)],
)
def test_only_the_owner_in_the_background_writes_the_log(
    world: World, source: str, foreground: bool, owner: bool, writes: bool
) -> None:
    plan = live(world, source, foreground=foreground)
    assert (plan.owner, plan.writes_log) == (owner, writes)


def test_a_missing_folder_of_configuration_is_the_defaults_with_a_notice(tmp_path: Path) -> None:
    plan = load(Options(conf_dir=tmp_path, plugin_dir=tmp_path, sources=("stdin",)))
    assert any("built-in defaults" in notice for notice in plan.notices)


@pytest.mark.parametrize(("form", "node"), [("none", None), ("user", b"box_1")])
def test_the_name_that_records_carry(form: Literal["none", "user"], node: bytes | None) -> None:
    assert node_name(attrs.evolve(AuditdConf(), name_format=form, name="box 1")) == node


def test_a_name_with_a_line_end_would_make_lines_of_its_own() -> None:
    with pytest.raises(ConfigErrors, match="cannot stand in a record"):
        node_name(attrs.evolve(AuditdConf(), name_format="user", name="a\nb"))
