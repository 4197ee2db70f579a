"""Key rings: the three ways to have keys, settings that do not go together, reload, rotation, and any bytes at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.config.grammar import ConfigErrors
from audisp.errors import ConfigError
from audisp.parse.psk import Key, derive
from audisp.tls.keyring import Found, KeyFiles, KeyRing, Verdict, read_client_key
from tests.tls.ends import KEY, OTHER
from tests.tls.files import put_acl, put_key

MASTER = Key(bytes(range(100, 140)))


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with a few keys."""
    put_key(tmp_path / "one", KEY)
    put_key(tmp_path / "two", OTHER)
    put_key(tmp_path / "web1.key", KEY, b"web1")
    put_key(tmp_path / "web1.2.key", OTHER, b"web1#2")
    put_key(tmp_path / "master", MASTER, None)
    return tmp_path


def test_one_identity(keys: Path) -> None:
    ring = KeyRing(KeyFiles(shared=keys / "one", identity=b"web1"))
    assert ring.lookup(b"web1") == Found(b"web1", 0, Verdict.ENABLED, KEY)
    assert ring.lookup(b"web1").reason == ""
    for other in (b"web", b"web1#2", b"web11", b"WEB1"):
        assert ring.lookup(other).key is None
        assert ring.lookup(other).reason == "unknown-identity"
    assert ring.notices == ()


def test_a_list_with_a_shared_key(keys: Path) -> None:
    """Upstream's single-PSK mode: the list is in force, tls_psk_identity is not."""
    acl = put_acl(keys / "acl", "web1 enabled", "web2 disabled")
    ring = KeyRing(KeyFiles(acl, shared=keys / "one", identity=b"web9"))
    assert ring.lookup(b"web1").key == KEY
    assert ring.lookup(b"web2") == Found(b"web2", 0, Verdict.DISABLED)
    assert ring.lookup(b"web9").verdict is Verdict.UNKNOWN
    assert ring.lookup(b"web1#1") == Found(b"web1", 1, Verdict.NO_KEY)
    put_acl(acl, "web1 enabled", "web2 enabled")
    with pytest.raises(ConfigError, match=r"acl:2: 'web2' would share its key with line 1"):
        ring.reload()


def test_a_list_with_keys(keys: Path) -> None:
    acl = put_acl(keys / "acl", f"web1 enabled key={keys}/one", f"web2 disabled key={keys}/two")
    ring = KeyRing(KeyFiles(acl))
    assert ring.lookup(b"web1").key == KEY
    assert ring.lookup(b"web2") == Found(b"web2", 0, Verdict.DISABLED)
    assert ring.notices == ()
    ring = KeyRing(KeyFiles(acl, shared=keys / "one"))
    assert ring.lookup(b"web9").key is None
    assert ring.notices == (f"{keys}/one: is not used, since the lines of {acl} have keys of their own",)


def test_a_disabled_line_needs_no_key_file(keys: Path) -> None:
    acl = put_acl(keys / "acl", f"web1 enabled key={keys}/one", f"web2 disabled key={keys}/gone")
    ring = KeyRing(KeyFiles(acl))
    assert ring.lookup(b"web2").verdict is Verdict.DISABLED
    assert ring.notices == (f"{acl}:2: {keys}/gone is not there; it is not needed while the line says disabled",)


@pytest.mark.parametrize("lines", [(), ("# nobody",), ("web1 disabled",)])
def test_nobody_is_enabled(keys: Path, lines: tuple[str, ...]) -> None:
    acl = put_acl(keys / "acl", *lines)
    for files in (KeyFiles(acl), KeyFiles(acl, shared=keys / "one"), KeyFiles(acl, master=keys / "master")):
        ring = KeyRing(files)
        assert ring.lookup(b"web1").key is None
        assert ring.notices == (f"{acl}: no line is enabled, so nobody can connect",)


def test_derived_keys(keys: Path) -> None:
    acl = put_acl(
        keys / "acl",
        "*.dmz enabled match=suffix",
        "bad.dmz disabled",
        "db1 enabled",
        f"old enabled key={keys}/one",
        "half.dmz#1 disabled",
    )
    ring = KeyRing(KeyFiles(acl, master=keys / "master", epochs=(0, 1)))
    for identity, host, epoch in ((b"a.dmz", b"a.dmz", 0), (b"a.dmz#1", b"a.dmz", 1), (b"db1", b"db1", 0)):
        assert ring.lookup(identity) == Found(host, epoch, Verdict.ENABLED, derive(MASTER, host, epoch))
    assert ring.lookup(b"old").key == KEY
    assert ring.lookup(b"old#1").key == derive(MASTER, b"old", 1)
    assert ring.lookup(b"bad.dmz").verdict is Verdict.DISABLED
    assert ring.lookup(b"bad.dmz#1").verdict is Verdict.DISABLED
    assert ring.lookup(b"a.dmz#2") == Found(b"a.dmz", 2, Verdict.NOT_LIVE)
    assert ring.lookup(b"a.dmz#2").reason == "epoch-not-live"
    assert ring.lookup(b"half.dmz").key == derive(MASTER, b"half.dmz", 0)
    assert ring.lookup(b"half.dmz#1").verdict is Verdict.DISABLED
    assert ring.lookup(b"a.lan").verdict is Verdict.UNKNOWN


def test_rotation_of_derived_keys(keys: Path) -> None:
    acl = put_acl(keys / "acl", "*.dmz enabled match=suffix")
    live = []
    for epochs in ((0,), (0, 1), (1,), (1, 2)):
        ring = KeyRing(KeyFiles(acl, master=keys / "master", epochs=epochs))
        live.append([ring.lookup(name).key is not None for name in (b"a.dmz", b"a.dmz#1", b"a.dmz#2")])
    assert live == [[True, False, False], [True, True, False], [False, True, False], [False, True, True]]


def test_rotation_of_a_hosts_own_key(keys: Path) -> None:
    acl = put_acl(keys / "acl", f"web1 enabled key={keys}/web1.key")
    ring = KeyRing(KeyFiles(acl))
    assert ring.lookup(b"web1#2").verdict is Verdict.NO_KEY
    put_acl(acl, f"web1 enabled key={keys}/web1.key", f"web1#2 enabled key={keys}/web1.2.key")
    ring.reload()
    assert ring.lookup(b"web1") == Found(b"web1", 0, Verdict.ENABLED, KEY)
    assert ring.lookup(b"web1#2") == Found(b"web1", 2, Verdict.ENABLED, OTHER)
    put_acl(acl, f"web1#2 enabled key={keys}/web1.2.key", f"web2 enabled key={keys}/one")
    ring.reload()
    # Without a line for web1 it is a name like any other, as it would be upstream.
    assert ring.lookup(b"web1#2") == Found(b"web1#2", 0, Verdict.ENABLED, OTHER)
    # So the host keeps its line, without the key that it had.
    put_acl(acl, "web1 enabled", f"web1#2 enabled key={keys}/web1.2.key", f"web2 enabled key={keys}/one")
    for shared in (None, keys / "two"):
        ring = KeyRing(KeyFiles(acl, shared=shared))
        assert ring.lookup(b"web1#2") == Found(b"web1", 2, Verdict.ENABLED, OTHER)
        assert ring.lookup(b"web1") == Found(b"web1", 0, Verdict.NO_KEY)
        assert ring.lookup(b"web1#3") == Found(b"web1", 3, Verdict.NO_KEY)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "tls_psk_file: there is no key: set tls_psk_file, or tls_allowed_clients"),
        ({"shared": "one"}, "tls_psk_identity: there is a tls_psk_file and nobody who may use it"),
        ({"shared": "one", "identity": b"a b"}, "tls_psk_identity: identity 'a b': character 2"),
        ({"master": "master"}, "tls_psk_master: a master key needs tls_allowed_clients"),
        ({"master": "master", "acl": "acl", "shared": "one"}, "tls_psk_master: there is a tls_psk_file too"),
        ({"master": "master", "acl": "acl", "epochs": ()}, "tls_psk_epochs: name 1 to 8 different epochs"),
        ({"master": "master", "acl": "acl", "epochs": (1, 1)}, "tls_psk_epochs: name 1 to 8 different epochs"),
        ({"master": "master", "acl": "acl", "epochs": tuple(range(9))}, "tls_psk_epochs: name 1 to 8"),
        ({"master": "master", "acl": "acl", "epochs": (-1,)}, "tls_psk_epochs: epoch -1 is not 0 to 4294967295"),
        ({"shared": "master", "identity": b"a"}, "master: is a master key, and tls_psk_file wants a host's"),
        ({"master": "web1.key", "acl": "acl"}, "web1.key: is the key of 'web1' and no master key"),
        ({"shared": "gone", "identity": b"a"}, "gone: cannot be opened: No such file or directory"),
        ({"acl": "gone"}, "gone: cannot be opened: No such file or directory"),
    ],
)
def test_settings_that_cannot_be(keys: Path, files: dict[str, object], message: str) -> None:
    put_acl(keys / "acl", "web1 enabled")
    paths = {name: keys / value if isinstance(value, str) else value for name, value in files.items()}
    with pytest.raises(ConfigError) as caught:
        KeyRing(KeyFiles(**paths))  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a enabled"], "acl:1: 'a' has no key: give the line a key=, or set tls_psk_file or tls_psk_master"),
        (["a enabled key=K/one", "b enabled"], "acl:2: 'b' has no key=, and other lines have"),
        (["*.a enabled match=suffix"], "acl:1: '*.a' is a suffix: keys for whoever it admits are derived"),
        (["a enabled key=K/gone"], "acl:1: 'a': K/gone: cannot be opened"),
        (
            ["a enabled key=K/one", "b disabled key=K/copy"],
            "acl:2: 'b': K/copy: holds the same key as the file of line 1",
        ),
        (["b enabled key=K/web1.key"], "acl:1: 'b': K/web1.key: is the key of 'web1'"),
        (["a enabled key=K/master"], "acl:1: 'a': K/master: is a master key, and key= wants a host's"),
        (["a enabled key=K/acl"], "acl:1: 'a': K/acl: has mode 0640, a key file must have 0400: chmod 0400"),
        (["a on", "b off"], "acl:1: 'on' is no status: enabled or disabled\nK/acl:2: 'off' is no status"),
    ],
)
def test_lists_that_cannot_be(keys: Path, lines: list[str], message: str) -> None:
    put_key(keys / "copy", KEY)
    acl = put_acl(keys / "acl", *(line.replace("K/", f"{keys}/") for line in lines))
    with pytest.raises(ConfigError) as caught:
        KeyRing(KeyFiles(acl))
    assert message.replace("K/", f"{keys}/") in str(caught.value)


def test_an_epoch_without_its_host_cannot_be_derived(keys: Path) -> None:
    acl = put_acl(keys / "acl", "web1#2 enabled")
    with pytest.raises(ConfigError, match="acl:1: 'web1#2' has an epoch, and there is no line for the host itself"):
        KeyRing(KeyFiles(acl, master=keys / "master"))
    put_acl(acl, "web1#2 enabled", "web1 disabled")
    assert KeyRing(KeyFiles(acl, master=keys / "master")).status(b"web1#2") is Verdict.DISABLED


def test_everything_that_is_wrong_is_told_at_once(keys: Path) -> None:
    acl = put_acl(keys / "acl", "a on", "b enabled", "c off")
    with pytest.raises(ConfigErrors) as caught:
        KeyRing(KeyFiles(acl, master=keys / "gone"))
    assert len(caught.value.errors) == 3
    put_acl(acl, *(f"a{at} enabled key={keys}/gone{at}" for at in range(500)))
    with pytest.raises(ConfigErrors) as caught:
        KeyRing(KeyFiles(acl))
    assert len(caught.value.errors) == 101


def test_reload_is_all_or_nothing(keys: Path) -> None:
    acl = put_acl(keys / "acl", f"web1 enabled key={keys}/one", f"web2 enabled key={keys}/two")
    ring = KeyRing(KeyFiles(acl))
    put_acl(acl, f"web1 disabled key={keys}/one", f"web2 enabled key={keys}/gone")
    with pytest.raises(ConfigError, match="gone: cannot be opened"):
        ring.reload()
    assert ring.status(b"web1") is ring.status(b"web2") is Verdict.ENABLED
    acl.unlink()
    with pytest.raises(ConfigError, match="acl: cannot be opened"):
        ring.reload()
    assert ring.lookup(b"web2").key == OTHER
    put_acl(acl, f"web1 disabled key={keys}/one", f"web2 enabled key={keys}/two")
    ring.reload()
    # Whom to drop: those whose identity is not enabled any more, and nobody else.
    assert [name for name in (b"web1", b"web2") if ring.status(name) is not Verdict.ENABLED] == [b"web1"]
    put_acl(acl, f"web2 enabled key={keys}/one")
    ring.reload()
    assert (ring.status(b"web1"), ring.lookup(b"web2").key) == (Verdict.UNKNOWN, KEY)


@pytest.mark.parametrize("identity", [b"", b"a b", b"a" * 256, b"\0", "ä".encode(), b"web1\n"])
def test_invalid_identities(keys: Path, identity: bytes) -> None:
    ring = KeyRing(KeyFiles(shared=keys / "one", identity=b"web1"))
    assert ring.lookup(identity).reason == "invalid-identity"
    assert ring.lookup(identity).key is None


@given(st.one_of(st.binary(max_size=300), st.text("ab.dmz#12*", max_size=12).map(str.encode)))
def test_any_bytes_can_be_looked_up(tmp_path_factory: pytest.TempPathFactory, identity: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    if not folder.exists():
        folder.mkdir()
        put_key(folder / "master", MASTER, None)
        put_key(folder / "one", KEY)
        put_acl(
            folder / "acl", "*.dmz enabled match=suffix", "a enabled", f"b#1 enabled key={folder}/one", "a#1 enabled"
        )
    ring = KeyRing(KeyFiles(folder / "acl", master=folder / "master", epochs=(0, 1, 2)))
    found = ring.lookup(identity)
    assert (found.key is not None) == (found.verdict is Verdict.ENABLED) == (found.reason == "")
    assert ring.status(identity) is found.verdict


def test_a_clients_key(keys: Path) -> None:
    assert read_client_key(keys / "one", b"web1") == (b"web1", KEY)
    assert read_client_key(keys / "web1.key", b"web1") == (b"web1", KEY)
    # A new key file is all that a rotation needs on the host.
    assert read_client_key(keys / "web1.2.key", b"web1") == (b"web1#2", OTHER)
    assert read_client_key(keys / "web1.2.key", b"web1#2") == (b"web1#2", OTHER)
    for file, identity, message in (
        ("web1.key", b"web2", "web1.key: is the key of 'web1', and tls_psk_identity is 'web2'"),
        ("web1.2.key", b"web1#3", "web1.2.key: is the key of 'web1#2', and tls_psk_identity is 'web1#3'"),
        ("master", b"web1", "master: is a master key, and tls_psk_file wants a host's"),
        ("one", b"a b", "tls_psk_identity: identity 'a b': character 2"),
    ):
        with pytest.raises(ConfigError) as caught:
            read_client_key(keys / file, identity)
        assert message in str(caught.value)


def test_rings_do_not_show_their_keys(keys: Path) -> None:
    acl = put_acl(keys / "acl", "*.dmz enabled match=suffix", f"web1 enabled key={keys}/one")
    ring = KeyRing(KeyFiles(acl, master=keys / "master"))
    shown = repr(ring) + repr(vars(ring)) + repr(ring.lookup(b"web1")) + repr(ring.lookup(b"a.dmz"))
    for key in (KEY, MASTER, derive(MASTER, b"a.dmz", 0)):
        assert key.reveal().hex() not in shown
        assert repr(key.reveal())[2:-1] not in shown
