"""The key and the name that it is offered under."""

from __future__ import annotations

from pathlib import Path

import pytest

from audisp.errors import ConfigError
from audisp.parse.psk import Key
from audisp.remote.connect import Connector
from audisp.tls.keyfile import write_key
from tests.remote.test_intake import conf

KEY = Key(b"k" * 32)


def connector(folder: Path, said: bytes | None) -> Connector:
    write_key(folder / "key", KEY, said)
    return Connector(conf(transport="tls", tls_psk_identity="web1", tls_psk_file=str(folder / "key")))


@pytest.mark.parametrize("said", [b"web1", b"web1#1"])
def test_a_key_is_exchanged_by_exchanging_one_file(tmp_path: Path, said: bytes) -> None:
    """docs/keys.md, "Exchanging keys": the file of the next epoch is offered under the identity that it names."""
    context = connector(tmp_path, said)._context
    assert context is not None
    assert context.identity == said


@pytest.mark.parametrize(("said", "why"), [(b"web2", "is the key of 'web2'"), (None, "master")])
def test_another_hosts_key_is_refused(tmp_path: Path, said: bytes | None, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        connector(tmp_path, said)
