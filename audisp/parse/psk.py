"""Pre-shared keys and the identities they belong to: text of key files, derivation from a master key.

Formats and a test vector: ``docs/formats/keys.md``. Facts about upstream's files: upstream.md section 6. Nothing here
puts key material into a message, a repr or a pickle.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from typing import Final, NoReturn

import attrs

from audisp.errors import ParseError
from audisp.parse.form import terminal_safe

MIN_KEY: Final = 32
"""Fewest bytes of a key, upstream's bound: what HKDF with SHA-256 can hold of entropy."""
KEY_LINE: Final = 510
"""Longest first line of a key file in bytes, upstream's bound, so at most 255 bytes of key."""
MAX_KEY_FILE: Final = 4_096
"""Longest key file in bytes: one line of key and one of ours, with room for a person's notes."""
MAX_IDENTITY: Final = 255
"""Longest identity in bytes, upstream's bound."""
MAX_EPOCH: Final = (1 << 32) - 1
"""It is four bytes in the derivation."""
LABEL: Final = b"audisp psk 1\0"
"""First part of HKDF's info: keys made for another purpose from the same master differ. NUL ends it."""

_IDENTITY: Final = re.compile(rb"[!-~]{1,%d}\Z" % MAX_IDENTITY)
_EPOCH: Final = re.compile(rb"([!-~]+)#([1-9][0-9]{0,9})\Z")
_NOT_HEX: Final = re.compile(rb"[^0-9A-Fa-f:]")
_MASTER: Final = b"# audisp master"
_OF: Final = b"# audisp identity="


class Key:
    """Secret bytes that do not show. Equal if the bytes are, compared in constant time."""

    __slots__ = ("_octets",)

    def __init__(self, octets: bytes) -> None:
        if len(octets) < MIN_KEY:
            raise ParseError(f"a key of {len(octets)} bytes is too short, {MIN_KEY} at least")
        self._octets = bytes(octets)

    def reveal(self) -> bytes:
        """The bytes. For the TLS library and for the one file that they are written to; never for a message."""
        return self._octets

    def __len__(self) -> int:
        return len(self._octets)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and hmac.compare_digest(self._octets, other._octets)

    def __hash__(self) -> int:
        return hash(self._octets)

    def __repr__(self) -> str:
        return f"<Key of {len(self._octets)} bytes>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not pickled")


@attrs.frozen
class KeyText:
    """What a key file says. identity: whose key it is, as offered on the wire, if the file says so."""

    key: Key
    identity: bytes | None = None
    master: bool = False


def check_identity(identity: bytes) -> bytes:
    """The identity itself. Raises ParseError unless it is 1 to 255 bytes of 0x21 to 0x7E."""
    if _IDENTITY.match(identity):
        return identity
    if not identity:
        raise ParseError("an identity has at least one character")
    if len(identity) > MAX_IDENTITY:
        raise ParseError(f"an identity has at most {MAX_IDENTITY} characters, this has {len(identity)}")
    wrong = next(at for at, byte in enumerate(identity) if not 0x21 <= byte <= 0x7E)
    raise ParseError(
        f"identity '{terminal_safe(identity[:80])}': character {wrong + 1} is not a printable ASCII character "
        "other than space"
    )


def split_epoch(identity: bytes) -> tuple[bytes, int]:
    """``web1#2`` is (``web1``, 2); what does not end in ``#`` and one number from 1 on is itself, of epoch 0."""
    found = _EPOCH.match(identity)
    if found is None or int(found[2]) > MAX_EPOCH or _EPOCH.match(found[1]):
        return identity, 0
    return found[1], int(found[2])


def with_epoch(identity: bytes, epoch: int) -> bytes:
    """What is offered on the wire for an epoch: ``web1`` for 0, ``web1#2`` for 2. Raises ParseError if that is none."""
    if not 0 <= epoch <= MAX_EPOCH:
        raise ParseError(f"epoch {epoch} is not 0 to {MAX_EPOCH}")
    if split_epoch(check_identity(identity))[1]:
        raise ParseError(f"identity '{terminal_safe(identity)}' has an epoch already; name the host alone")
    return check_identity(b"%s#%d" % (identity, epoch)) if epoch else identity


def derive(master: Key, identity: bytes, epoch: int) -> Key:
    """The key of one identity and epoch: HKDF-SHA256 (RFC 5869) of the master, without salt, 32 bytes.

    The info is unambiguous: a label ended by NUL, four bytes of epoch, big-endian, and the identity up to the end.
    Raises ParseError for an identity or an epoch that is none.
    """
    with_epoch(identity, epoch)
    return Key(expand(master, LABEL + epoch.to_bytes(4, "big") + identity))


def expand(master: Key, info: bytes) -> bytes:
    """32 bytes of HKDF-SHA256 with no salt: extract, then one block of expand."""
    pseudorandom = hmac.digest(bytes(hashlib.sha256().digest_size), master.reveal(), "sha256")
    return hmac.digest(pseudorandom, info + b"\x01", "sha256")


def parse_key(data: bytes) -> KeyText:
    """A key file: one line of hexadecimal digits (colons between bytes allowed), then at most one line for us.

    As upstream, nothing behind the first line matters, except a second line that we wrote ourselves (`key_text`).
    Raises ParseError, which names a position and never what stands there.
    """
    line, _, rest = data.partition(b"\n")
    if not line:
        raise ParseError("the first line is empty; it must be the key in hexadecimal digits")
    if line.endswith(b"\r"):
        raise ParseError("the first line ends with CR LF: save with LF line ends")
    if len(line) > KEY_LINE:
        raise ParseError(f"the first line is longer than {KEY_LINE} characters")
    wrong = _NOT_HEX.search(line)
    if wrong:
        what = "white space" if wrong[0].isspace() else "no hexadecimal digit"
        raise ParseError(f"character {wrong.start() + 1} of the first line is {what}")
    parts = line.split(b":")
    if any(len(part) % 2 for part in parts):
        raise ParseError(
            "the first line has an odd number of hexadecimal digits" + (" between colons" * (len(parts) > 1))
        )
    octets = binascii.unhexlify(b"".join(parts))
    if len(octets) < MIN_KEY:
        raise ParseError(f"the key has {len(octets)} bytes, {MIN_KEY} at least: `audisp key new` makes one")
    return KeyText(Key(octets), *_mark(rest.partition(b"\n")[0]))


def _mark(line: bytes) -> tuple[bytes | None, bool]:
    if line == _MASTER:
        return None, True
    if not line.startswith(_OF):
        return None, False
    return check_identity(line.removeprefix(_OF)), False


def key_text(key: Key, identity: bytes | None) -> bytes:
    """The content of a key file. identity: as on the wire; None for a master key."""
    mark = _MASTER if identity is None else _OF + check_identity(identity)
    return binascii.hexlify(key.reveal()) + b"\n" + mark + b"\n"
