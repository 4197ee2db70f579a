"""Key files, identities, derivation: tables, a second implementation, and keys that do not show."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import hmac
import pickle
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.errors import ParseError
from audisp.parse.psk import (
    KEY_LINE,
    MAX_EPOCH,
    MAX_IDENTITY,
    Key,
    KeyText,
    check_identity,
    derive,
    key_text,
    parse_key,
    split_epoch,
    with_epoch,
)
from tests.needs import needs

OCTETS = bytes(range(32))
HEX = OCTETS.hex().encode()
IDENTITIES = st.binary(min_size=1, max_size=MAX_IDENTITY).map(lambda raw: bytes(0x21 + byte % 94 for byte in raw))
KEYS = st.binary(min_size=32, max_size=255).map(Key)


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        (HEX + b"\n", OCTETS),
        (HEX, OCTETS),
        (HEX.upper() + b"\n", OCTETS),
        (b":".join(HEX[at : at + 2] for at in range(0, 64, 2)), OCTETS),
        (b":" + HEX[:4] + b"::" + HEX[4:] + b":", OCTETS),
        (HEX + b"\nnotes of a person\n\xff\x00", OCTETS),
        (b"00" * 255 + b"\n", bytes(255)),
    ],
)
def test_keys(text: bytes, octets: bytes) -> None:
    assert parse_key(text) == KeyText(Key(octets))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the first line is empty"),
        (b"\n" + HEX, "the first line is empty"),
        (b"  \n", "character 1 of the first line is white space"),
        (HEX + b" \n", "character 65 of the first line is white space"),
        (b"\t" + HEX, "character 1 of the first line is white space"),
        (HEX + b"\r\n", "ends with CR LF"),
        (HEX[:-1], "odd number of hexadecimal digits$"),
        (HEX[:3] + b":" + HEX[3:], "odd number of hexadecimal digits between colons"),
        (HEX[:62], "has 31 bytes, 32 at least"),
        (b":::", "has 0 bytes"),
        (b"0x" + HEX, "character 2 of the first line is no hexadecimal digit"),
        (HEX[:63] + b"g", "character 64"),
        (HEX[:62] + "\uff41".encode(), "character 63"),
        (b"\0" + HEX, "character 1"),
        (b"00" * 256, f"longer than {KEY_LINE}"),
        (HEX + b"\n# audisp identity=a b\n", "character 2"),
        (HEX + b"\n# audisp identity=\n", "at least one"),
    ],
)
def test_what_is_no_key(text: bytes, message: str) -> None:
    with pytest.raises(ParseError, match=message) as caught:
        parse_key(text)
    assert HEX[:16].decode() not in str(caught.value)


@given(KEYS, st.none() | IDENTITIES)
def test_what_we_write_we_read(key: Key, identity: bytes | None) -> None:
    text = key_text(key, identity)
    assert parse_key(text) == KeyText(key, identity, identity is None)
    assert parse_key(text.split(b"\n")[0]) == KeyText(key)  # upstream reads no more


@given(st.binary(max_size=600))
def test_any_bytes_are_a_key_or_an_error(data: bytes) -> None:
    with contextlib.suppress(ParseError):
        assert len(parse_key(data).key) >= 32


def test_a_key_does_not_show() -> None:
    key = Key(OCTETS)
    assert repr(key) == str(key) == f"{key}" == "<Key of 32 bytes>"
    assert HEX.decode() not in repr(KeyText(key))
    for spread in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled"):
            spread(key)
    assert not hasattr(key, "__dict__")
    with pytest.raises(ParseError, match="31 bytes"):
        Key(OCTETS[:31])


def test_keys_are_equal_by_their_bytes() -> None:
    assert Key(OCTETS) == Key(OCTETS)
    assert Key(OCTETS) != Key(OCTETS[::-1])
    assert Key(OCTETS) != OCTETS
    assert len({Key(OCTETS), Key(OCTETS), Key(bytes(32))}) == 2


@pytest.mark.parametrize("identity", [b"a", b"!" * 255, b"web1.dmz.example.com", b"*", b"#", b"~", b"key=/x"])
def test_identities(identity: bytes) -> None:
    assert check_identity(identity) is identity


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        (b"", "at least one"),
        (b"a" * 256, "at most 255 characters, this has 256"),
        (b"a b", "'a b': character 2 is not"),
        (b"a\n", r"'a\\x0a': character 2"),
        (b"a\x7f", "character 2"),
        (b"\x00", "character 1"),
        ("ä".encode(), "character 1"),
    ],
)
def test_what_is_no_identity(identity: bytes, message: str) -> None:
    with pytest.raises(ParseError, match=message):
        check_identity(identity)


@pytest.mark.parametrize(
    ("identity", "split"),
    [
        (b"web1", (b"web1", 0)),
        (b"web1#2", (b"web1", 2)),
        (b"a#1#2", (b"a#1#2", 0)),
        (b"web1#4294967295", (b"web1", MAX_EPOCH)),
        (b"web1#4294967296", (b"web1#4294967296", 0)),
        (b"web1#0", (b"web1#0", 0)),
        (b"web1#02", (b"web1#02", 0)),
        (b"web1#-1", (b"web1#-1", 0)),
        (b"web1#x", (b"web1#x", 0)),
        (b"web1#", (b"web1#", 0)),
        (b"#2", (b"#2", 0)),
        (b"web1#2\n", (b"web1#2\n", 0)),
        (b"we b1#2", (b"we b1#2", 0)),
        (b"", (b"", 0)),
    ],
)
def test_epochs(identity: bytes, split: tuple[bytes, int]) -> None:
    assert split_epoch(identity) == split
    if split[1]:
        assert with_epoch(*split) == identity


@pytest.mark.parametrize(
    ("host", "epoch", "message"),
    [
        (b"web1", -1, "epoch -1 is not 0 to 4294967295"),
        (b"web1", MAX_EPOCH + 1, "is not 0 to"),
        (b"web1#2", 3, "'web1#2' has an epoch already"),
        (b"web1#2", 0, "'web1#2' has an epoch already"),
        (b"a" * 254, 1, "at most 255"),
        (b"", 0, "at least one"),
    ],
)
def test_what_has_no_derived_key(host: bytes, epoch: int, message: str) -> None:
    for make in (lambda: with_epoch(host, epoch), lambda: derive(Key(OCTETS), host, epoch)):
        with pytest.raises(ParseError, match=message):
            make()


# The vectors of docs/formats/keys.md: master key 00 01 02 … 1f.
DERIVED = [
    (b"web1.dmz.example.com", 0, "2a922eebab7ea5115edc57a4ab5e0317c2867a2228e317e6fc7d68bb9e1be008"),
    (b"web1.dmz.example.com", 1, "7eb5de43217982b69ea2c743928f94e3a8267fcb33d8666cfcf9540c101f814f"),
    (b"a", 4_294_967_295, "87f4ba940dcdc35bcc0e4b9386b0cd41b2cd8fff555ad411bcffc75627e29b99"),
]


@pytest.mark.parametrize(("host", "epoch", "wanted"), DERIVED)
def test_derived_keys(host: bytes, epoch: int, wanted: str) -> None:
    assert derive(Key(OCTETS), host, epoch).reveal().hex() == wanted


@needs("openssl")
@pytest.mark.parametrize(("host", "epoch", "wanted"), DERIVED)
def test_derived_keys_are_those_of_a_second_implementation(host: bytes, epoch: int, wanted: str) -> None:
    info = b"audisp psk 1\0" + epoch.to_bytes(4, "big") + host
    words = ["openssl", "kdf", "-keylen", "32", "-kdfopt", "digest:SHA256", "-kdfopt", f"hexkey:{HEX.decode()}"]
    words += ["-kdfopt", f"hexinfo:{info.hex()}", "HKDF"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.strip().replace(":", "").lower() == wanted


@given(KEYS, IDENTITIES, st.integers(0, MAX_EPOCH))
def test_derivation_is_rfc_5869(master: Key, host: bytes, epoch: int) -> None:
    if split_epoch(host)[1] or len(host) > 240:
        return
    pseudorandom = hmac.new(b"", master.reveal(), hashlib.sha256).digest()
    info = b"audisp psk 1\x00" + bytes([epoch >> 24, epoch >> 16 & 255, epoch >> 8 & 255, epoch & 255]) + host
    wanted = hmac.new(pseudorandom, info + b"\1", hashlib.sha256).digest()
    made = derive(master, host, epoch)
    assert made == Key(wanted)
    assert made != derive(master, host, epoch ^ 1)
    assert made != master
