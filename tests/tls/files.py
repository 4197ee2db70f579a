"""Key files and lists as tests need them."""

from __future__ import annotations

from pathlib import Path

from audisp.parse.psk import Key, key_text


def put_key(path: Path, key: Key, identity: bytes | None = b"", mode: int = 0o400) -> Path:
    """A key file; identity b"": one that says nothing of whose it is, None: a master key."""
    text = key.reveal().hex().encode() + b"\n" if identity == b"" else key_text(key, identity)
    path.unlink(missing_ok=True)
    path.write_bytes(text)
    path.chmod(mode)
    return path


def put_acl(path: Path, *lines: str) -> Path:
    """A list of clients."""
    path.write_text("".join(f"{line}\n" for line in lines))
    path.chmod(0o640)
    return path
