"""Keys of the CEF dictionary that the shape writes. Written by tools/make_schemas.py; do not edit.

Source: the ArcSight Common Event Format implementation standard, as format-cef==0.0.4 (PyPI) has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

KEYS: Final[Mapping[str, tuple[str, int]]] = MappingProxyType(
    {
        "act": ("String", 63),
        "c6a1": ("IPv6 address", 0),
        "c6a1Label": ("String", 1023),
        "c6a3": ("IPv6 address", 0),
        "c6a3Label": ("String", 1023),
        "cat": ("String", 1023),
        "cn1": ("Integer", 0),
        "cn1Label": ("String", 1023),
        "cn2": ("Integer", 0),
        "cn2Label": ("String", 1023),
        "cs1": ("String", 4000),
        "cs1Label": ("String", 1023),
        "cs2": ("String", 4000),
        "cs2Label": ("String", 1023),
        "cs3": ("String", 4000),
        "cs3Label": ("String", 1023),
        "cs4": ("String", 4000),
        "cs4Label": ("String", 1023),
        "cs5": ("String", 4000),
        "cs5Label": ("String", 1023),
        "cs6": ("String", 4000),
        "cs6Label": ("String", 1023),
        "deviceDirection": ("Integer", 0),
        "dpid": ("Integer", 0),
        "dproc": ("String", 1023),
        "dpt": ("Integer", 0),
        "dst": ("IPv4 Address", 0),
        "duid": ("String", 1023),
        "duser": ("String", 1023),
        "dvchost": ("String", 100),
        "externalId": ("String", 40),
        "fileId": ("String", 1023),
        "filePath": ("String", 1023),
        "filePermission": ("String", 1023),
        "fileType": ("String", 1023),
        "fname": ("String", 1023),
        "msg": ("String", 1023),
        "oldFileName": ("String", 1023),
        "oldFilePath": ("String", 1023),
        "outcome": ("String", 63),
        "reason": ("String", 1023),
        "rt": ("Time Stamp", 0),
        "shost": ("String", 1023),
        "spid": ("Integer", 0),
        "sproc": ("String", 1023),
        "spt": ("Integer", 0),
        "src": ("IPv4 Address", 0),
        "suid": ("String", 1023),
        "suser": ("String", 1023),
    }
)
"""Type and length of each key; 0 where the type says it all."""
