"""Maps of control frames: msgpack, of which only a small part is taken.

A map of few short string keys to integers, booleans, strings, binary, nil, or lists of these. No extension types, no
floating point, no key twice, nothing behind the map. What a later version adds under new keys stays within this.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack  # type: ignore[import-untyped]  # the package ships no types

MAX_CONTROL: Final = 4_096
"""Most bytes of a control frame's map: the largest takes about 400."""

MAX_KEYS: Final = 32
"""Most keys of a map, and items of a list. The largest map has 10."""

MAX_KEY: Final = 32
"""Longest key in characters."""

MAX_VALUE: Final = 1_024
"""Longest string or binary in bytes: text for a person, of a few lines at most."""

Plain = str | int | bool | bytes | None


class MapError(ValueError):
    """Bytes that are no such map; str() says why."""


def write_map(fields: dict[str, Any]) -> bytes:
    """As msgpack, keys in the order given, None left out. ValueError for what `read_map` would not take."""
    data: bytes = msgpack.packb({key: value for key, value in fields.items() if value is not None})
    read_map(data)
    return data


def read_map(data: bytes) -> dict[str, Any]:
    """The map. MapError for anything else."""
    if len(data) > MAX_CONTROL:
        raise MapError(f"a map of {len(data)} bytes, at most {MAX_CONTROL} may be")
    try:
        found = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_unique,
            max_str_len=MAX_VALUE,
            max_bin_len=MAX_VALUE,
            max_array_len=MAX_KEYS,
            max_map_len=MAX_KEYS,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise MapError(f"not the msgpack expected: {str(error) or type(error).__name__}") from error
    if not isinstance(found, dict):
        raise MapError("no map")
    for key, value in found.items():
        if not isinstance(key, str) or len(key) > MAX_KEY:
            raise MapError(f"a key that is no string of at most {MAX_KEY} characters")
        if not all(isinstance(item, Plain) for item in (value if isinstance(value, list) else (value,))):
            raise MapError(f"{key!r} is of a type that is not used here")
    return found


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found
