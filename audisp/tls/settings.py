"""What may be chosen of TLS: `tls_crypto_profile`, `tls_cipher_suites`, `tls_key_exchange`, as upstream's keys.

How a list of suites is read differs from upstream in one thing: suites with SHA-256 are moved to the front, in their
order. An external PSK belongs to one hash, upstream's to SHA-256, and the suite is chosen before the PSK is looked at:
with a SHA-384 suite in front the handshake dies (upstream.md 6.1). So `system`, and the example in upstream's own
configuration, work here.
"""

from __future__ import annotations

import enum
from typing import Final

import attrs

SUITES: Final = "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"
"""Upstream's list for `compatible` and `pqc`."""
HYBRID_GROUPS: Final = "X25519MLKEM768:X25519"
"""Upstream's list for `compatible`; OpenSSL before 3.5 refuses the whole of it."""
CLASSIC_GROUPS: Final = "X25519"
"""What is left of it then."""
PQC_GROUPS: Final = "X25519MLKEM768:SecP256r1MLKEM768:SecP384r1MLKEM1024"
"""Upstream's list for `pqc`."""
PQC_MARK: Final = "MLKEM"
"""In the name of the group that was agreed on, under `pqc` (upstream.md section 6)."""


class Profile(enum.Enum):
    """`tls_crypto_profile`. compatible: hybrid where libssl knows it. system: the system's lists. pqc: hybrid only."""

    COMPATIBLE = "compatible"
    SYSTEM = "system"
    PQC = "pqc"


@attrs.frozen
class CryptoSettings:
    """cipher_suites, key_exchange: colon-separated, override the profile's list."""

    profile: Profile = Profile.COMPATIBLE
    cipher_suites: str | None = None
    key_exchange: str | None = None
