"""Settings of both ends: suites, groups, ALPN, the library itself; with each libssl that there is."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from audisp.errors import ConfigError, ParseError
from audisp.parse.psk import Key
from audisp.tls.context import ClientContext, ServerContext
from audisp.tls.failures import LocalTLSError
from audisp.tls.openssl import LIBSSL, OpenSSL, load
from audisp.tls.settings import CryptoSettings, Profile
from tests.needs import needs
from tests.tls.ends import LIBRARIES, WEB1, Book, Known, client, connected, ends, library, rss_kib, server, shake

__all__ = ["library"]

SHA384_FIRST = "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256"


def has_ml_kem(library: OpenSSL) -> bool:
    return tuple(map(int, library.version.split()[1].split(".")[:2])) >= (3, 5)


def suites(context: ClientContext | ServerContext) -> list[str]:
    lib = context.library
    return [lib.cipher_name(each).decode() for each in context._suites()]


async def agreed(local: CryptoSettings, remote: CryptoSettings, library: OpenSSL) -> tuple[str, str]:
    one, two = await connected(client(settings=local, library=library), server(settings=remote, library=library))
    async with one, two:
        return two.session.cipher, two.session.group


@pytest.mark.parametrize("profile", [Profile.COMPATIBLE, Profile.PQC])
async def test_profiles(profile: Profile, library: OpenSSL) -> None:
    settings = CryptoSettings(profile)
    if has_ml_kem(library):
        assert client(settings=settings, library=library).notices == []
        assert await agreed(settings, settings, library) == ("TLS_AES_128_GCM_SHA256", "X25519MLKEM768")
    elif profile is Profile.COMPATIBLE:
        (notice,) = client(settings=settings, library=library).notices
        assert "has no ML-KEM (3.5 has): keys are exchanged with X25519 alone" in notice
        assert await agreed(settings, settings, library) == ("TLS_AES_128_GCM_SHA256", "x25519")
    else:
        with pytest.raises(ConfigError, match=r"tls_crypto_profile: pqc needs a libssl with ML-KEM, which is 3\.5"):
            client(settings=settings, library=library)


async def test_pqc_refuses_a_peer_that_has_none(library: OpenSSL) -> None:
    if not has_ml_kem(library):
        return  # test_profiles has shown that such a context cannot be made
    classic, pqc = CryptoSettings(key_exchange="X25519"), CryptoSettings(Profile.PQC)
    for local, remote in ((classic, pqc), (pqc, classic)):
        errors = await shake(*ends(client(settings=local, library=library), server(settings=remote, library=library)))
        assert None not in errors
    # Groups of one's own under pqc: what was agreed on is looked at all the same.
    loose = CryptoSettings(Profile.PQC, key_exchange="X25519")
    errors = await shake(*ends(client(settings=loose, library=library), server(settings=classic, library=library)))
    assert errors[0] is not None
    assert (errors[0].reason, str(errors[0])) == (
        "handshake-pqc",
        "keys were exchanged with x25519, and pqc wants MLKEM in it",
    )


async def test_hybrid_and_classic_peers_meet(library: OpenSSL) -> None:
    classic = CryptoSettings(key_exchange="X25519")
    for local, remote in ((CryptoSettings(), classic), (classic, CryptoSettings())):
        assert (await agreed(local, remote, library))[1] == "x25519"


async def test_a_group_that_must_be_asked_for_again(library: OpenSSL) -> None:
    """The client's first guess is not the server's group: a HelloRetryRequest, and the PSK a second time."""
    local = CryptoSettings(key_exchange="X25519:P-256")
    assert (await agreed(local, CryptoSettings(key_exchange="P-256"), library))[1] == "secp256r1"


@pytest.mark.parametrize(
    "settings",
    [CryptoSettings(Profile.SYSTEM), CryptoSettings(cipher_suites=SHA384_FIRST)],
    ids=["system", "upstream's example"],
)
async def test_suites_with_sha256_come_first(settings: CryptoSettings, library: OpenSSL) -> None:
    for context in (client(settings=settings, library=library), server(settings=settings, library=library)):
        names = suites(context)
        assert [name.endswith("SHA256") for name in names] == sorted(
            [n.endswith("SHA256") for n in names], reverse=True
        )
        assert any(name.endswith("SHA384") for name in names)
    plain = CryptoSettings()
    for local, remote in ((settings, plain), (plain, settings), (settings, settings)):
        assert (await agreed(local, remote, library))[0].endswith("SHA256")


def test_a_changed_order_is_told(library: OpenSSL) -> None:
    changed = client(settings=CryptoSettings(cipher_suites=SHA384_FIRST), library=library).notices
    assert [
        notice for notice in changed if notice.startswith("tls_cipher_suites: suites with SHA-256 are offered before")
    ]
    kept = client(settings=CryptoSettings(cipher_suites="TLS_AES_128_GCM_SHA256"), library=library).notices
    assert not [notice for notice in kept if "tls_cipher_suites" in notice]


async def test_sha384_alone(library: OpenSSL) -> None:
    only = CryptoSettings(cipher_suites="TLS_AES_256_GCM_SHA384")
    assert (await agreed(only, only, library))[0] == "TLS_AES_256_GCM_SHA384"
    # The key of one end belongs to another hash than that of the other: no way to prove it, and no way in.
    for local, remote in ((only, CryptoSettings()), (CryptoSettings(), only)):
        errors = await shake(*ends(client(settings=local, library=library), server(settings=remote, library=library)))
        assert [error is not None for error in errors] == [True, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (CryptoSettings(cipher_suites="NONSENSE"), "tls_cipher_suites: OpenSSL .* does not take 'NONSENSE'"),
        (CryptoSettings(cipher_suites=""), "tls_cipher_suites: '' leaves no suite of TLS 1.3"),
        (CryptoSettings(key_exchange="NONSENSE"), "tls_key_exchange: OpenSSL .* does not take 'NONSENSE'"),
        (CryptoSettings(key_exchange="Ä"), "tls_key_exchange: OpenSSL .* does not take"),
    ],
)
def test_lists_that_make_no_sense(settings: CryptoSettings, message: str, library: OpenSSL) -> None:
    for make in (client, server):
        with pytest.raises(ConfigError, match=message):
            make(settings=settings, library=library)


@pytest.mark.parametrize(
    ("offered", "served", "chosen"),
    [
        ((b"audisp/1",), (b"audisp/1",), b"audisp/1"),
        ((b"x", b"audisp/1"), (b"audisp/1",), b"audisp/1"),
        ((b"audisp/1", b"audisp/2"), (b"audisp/2", b"audisp/1"), b"audisp/2"),
        ((b"x",), (b"audisp/1",), None),
        ((b"audisp/11", b"audisp/", b"a" * 255), (b"audisp/1",), None),
        ((b"audisp/1",), (), None),
        ((), (b"audisp/1",), None),
        ((), (), None),
    ],
)
async def test_alpn(offered: tuple[bytes, ...], served: tuple[bytes, ...], chosen: bytes | None) -> None:
    one, two = await connected(client(alpn=offered), server(alpn=served))
    async with one, two:
        assert one.session.alpn == two.session.alpn == chosen


@pytest.mark.parametrize("wrong", [b"", b"a" * 256])
def test_what_is_no_protocol(wrong: bytes) -> None:
    for make in (client, server):
        with pytest.raises(ValueError, match="1 to 255 bytes"):
            make(alpn=(wrong,))


def test_what_is_no_identity() -> None:
    with pytest.raises(ParseError, match="character 2"):
        client(identity=b"a b")


@pytest.mark.parametrize("size", [32, 48, 64, 255])
async def test_identities_and_keys_of_every_size(size: int) -> None:
    key = Key(bytes(range(size)))
    identity = b"i" * size
    one, two = await connected(client(identity, key), server({identity: key}))
    async with one, two:
        assert two.session.identity == two.session.host == identity


async def test_a_host_is_not_what_it_offers() -> None:
    def lookup(identity: bytes) -> Known:
        return Known(b"web1", Book().keys[WEB1])  # type: ignore[arg-type]

    one, two = await connected(client(b"web1#7"), ServerContext(lookup))
    async with one, two:
        assert (two.session.identity, two.session.host) == (b"web1#7", b"web1")


async def test_a_lookup_that_fails_ends_the_handshake_and_is_heard_of(library: OpenSSL) -> None:
    def lookup(identity: bytes) -> Known:
        raise ZeroDivisionError("of the lookup")

    one, two = ends(client(library=library), ServerContext(lookup, library=library))
    async with one, two:
        with pytest.RaisesGroup(ZeroDivisionError):
            await shake(one, two)


async def test_an_interrupt_in_a_callback_is_not_swallowed() -> None:
    def lookup(identity: bytes) -> Known:
        raise KeyboardInterrupt

    one, two = ends(client(), ServerContext(lookup))
    async with one, two:
        with pytest.RaisesGroup(KeyboardInterrupt):
            await shake(one, two)


def test_a_libssl_that_is_missing() -> None:
    with pytest.raises(
        LocalTLSError, match=r"libssl.so.999 cannot be loaded, and TLS needs OpenSSL 3.0 or newer"
    ) as found:
        load("libssl.so.999")
    assert found.value.reason == "no-libssl"


@needs("gcc")
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("int nothing;", "has no OPENSSL_version_major: it is older than OpenSSL 3.0, or not OpenSSL"),
        (
            "unsigned OPENSSL_version_major(void) { return 2; }"
            'const char *OpenSSL_version(int of) { return "OpenSSL 2.9"; }',
            "is OpenSSL 2.9, and TLS needs OpenSSL 3.0 or newer",
        ),
    ],
)
def test_a_libssl_that_is_too_old(tmp_path: Path, code: str, message: str) -> None:
    path = tmp_path / "libold.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-x", "c", "-o", path, "-"], input=code, text=True, check=True)
    with pytest.raises(LocalTLSError, match=message):
        OpenSSL(str(path))


def test_importing_loads_no_library() -> None:
    program = "import audisp.tls.stream\nfrom audisp.tls import openssl\nprint(openssl._loaded.cache_info().currsize)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_the_systems_configuration_cannot_weaken_us(tmp_path: Path) -> None:
    """What openssl.cnf may say: key exchange without forward secrecy, and older TLS."""
    conf = tmp_path / "openssl.cnf"
    conf.write_text(
        "openssl_conf = init\n[init]\nssl_conf = ssl\n[ssl]\nsystem_default = all\n[all]\n"
        "Options = AllowNoDHEKEX\nMinProtocol = TLSv1\n"
    )
    program = (
        "import ctypes\nfrom tests.tls.ends import client, server\nfrom audisp.tls import openssl\n"
        "for context in (client(), server()):\n"
        "    lib = context.library\n"
        "    options = lib.ctx_set_options(context._pointer, 0)\n"
        "    low = lib.ctx_ctrl(context._pointer, 130, 0, None)\n"
        "    print(bool(options & openssl.OP_ALLOW_NO_DHE_KEX), hex(low))\n"
        "print(bool(lib.ctx_set_options(lib.ctx_new(lib.server_method()), 0) & openssl.OP_ALLOW_NO_DHE_KEX))\n"
    )
    env = {"OPENSSL_CONF": str(conf), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    # The last line: the file was in force, for a context that we had not set up.
    assert done.stdout.split() == ["False", "0x304", "False", "0x304", "True"]


@pytest.mark.parametrize("name", LIBRARIES)
def test_contexts_leave_nothing_behind(name: str) -> None:
    def make(count: int) -> None:
        for _ in range(count):
            client(library=LIBRARIES[name], alpn=(b"a",))
            server(library=LIBRARIES[name], alpn=(b"a",))
        gc.collect()

    make(500)
    before = rss_kib()
    make(500)
    middle = rss_kib()
    make(500)
    # A context is tens of KiB: one that is left behind in a hundred would be seen.
    assert min(rss_kib() - middle, middle - before) < 1_024


def test_the_library_is_loaded_once() -> None:
    assert load() is load() is load(LIBSSL) is client().library
