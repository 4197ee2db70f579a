"""Write audisp/shapes/schema_ecs.json and schema_ocsf.json, what the tests hold the documents of ecs and ocsf against,
and schema_cef.py, the lengths that cef keeps to.

Sources of the facts:
1. npm package @elastic/ecs (Elastic, Apache-2.0), which has the whole of ECS as one JavaScript object;
2. PyPI package ocsf-json-schema (MIT), which has the compiled OCSF schema (Apache-2.0) as JSON;
3. PyPI package format-cef (MIT), which has the dictionary of the ArcSight Common Event Format implementation standard
   as a table: full name, key, length, type.

Only names, types, levels, requirements and allowed values are kept, of the field sets, classes and objects that the
shapes use: no description. A document with anything else in it is wrong, and the test says so.

Usage: python tools/make_schemas.py [--check]    (needs npm, node and pip; --check compares and writes nothing)
"""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parent.parent / "audisp" / "shapes"

ECS_PACKAGE = "@elastic/ecs@8.11.5"
ECS_VERSION = "8.11.0"
ECS_SETS = (
    "@timestamp", "agent", "container", "destination", "ecs", "error", "event", "file", "group", "host", "labels",
    "message", "network", "process", "related", "service", "source", "tags", "user",
)  # fmt: skip
ECS_DEEP = (
    "process.entry_leader", "process.session_leader", "process.group_leader", "process.parent.", "process.previous",
    "process.elf", "process.macho", "process.pe", "process.io", "process.tty", "file.elf", "file.macho", "file.pe",
    "file.x509",
)  # fmt: skip
"""Parts of ECS that are large and that no document of ours has, but for what ECS_KEPT names."""
ECS_KEPT = ("process.parent.pid", "process.parent.name", "process.parent.executable", "process.parent.args",
            "process.parent.start", "process.parent.entity_id")  # fmt: skip
ECS_VALUES = ("event.category", "event.kind", "event.outcome", "event.type")

OCSF_PACKAGE = "ocsf-json-schema==1.2.0"
OCSF_VERSION = "1.7.0"
OCSF_CLASSES = (
    "base_event", "file_activity", "process_activity", "account_change", "authentication", "network_activity",
)  # fmt: skip
OCSF_OBJECTS = (
    "actor", "container", "device", "enrichment", "file", "group", "image", "metadata", "network_connection_info",
    "network_endpoint", "object", "os", "process", "process_entity", "product", "service", "session", "user",
)  # fmt: skip

CEF_PACKAGE = "format-cef==0.0.4"
CEF_KEYS = (
    "act", "c6a1", "c6a1Label", "c6a3", "c6a3Label", "cat", "cn1", "cn1Label", "cn2", "cn2Label", "cs1", "cs1Label",
    "cs2", "cs2Label", "cs3", "cs3Label", "cs4", "cs4Label", "cs5", "cs5Label", "cs6", "cs6Label", "deviceDirection",
    "dpid", "dproc", "dpt", "dst", "duid", "duser", "dvchost", "externalId", "fileId", "filePath", "filePermission",
    "fileType", "fname", "msg", "oldFileName", "oldFilePath", "outcome", "reason", "rt", "shost", "spid", "sproc",
    "spt", "src", "suid", "suser",
)  # fmt: skip
"""Keys that the shape writes."""

_NODE = """
const flat = require(process.argv[1]).EcsFlat, out = {};
for (const [name, field] of Object.entries(flat)) out[name] = field;
console.log(JSON.stringify(out));
"""


def ecs(folder: Path) -> dict[str, Any]:
    """Fields by name: [type, level, "array" or ""]; allowed values, and the types that go with each category."""
    subprocess.run(["npm", "pack", "--silent", ECS_PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.glob("*.tgz")
    subprocess.run(["tar", "xzf", archive.name], cwd=folder, check=True)
    index = (folder / "package/build/commonjs/index.js").read_text()
    if f"EcsVersion = '{ECS_VERSION}'" not in index:
        raise SystemExit(f"{ECS_PACKAGE} does not have ECS {ECS_VERSION}")
    said = subprocess.run(
        ["node", "-e", _NODE, str(folder / "package/build/commonjs/ecs_flat.js")],
        check=True,
        capture_output=True,
    )
    fields: dict[str, list[str]] = {}
    values: dict[str, Any] = {}
    for name, field in json.loads(said.stdout).items():
        if name in ECS_VALUES:
            values[name] = {each["name"]: each.get("expected_event_types", []) for each in field["allowed_values"]}
        if name.split(".")[0] not in ECS_SETS or (name.startswith(ECS_DEEP) and name not in ECS_KEPT):
            continue
        fields[name] = [field["type"], field["level"], "array" if "array" in field["normalize"] else ""]
    return {"source": ECS_PACKAGE, "version": ECS_VERSION, "fields": fields, "values": values}


def _download(package: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
    subprocess.run(command, check=True)


def _attributes(of: dict[str, Any]) -> dict[str, Any]:
    out = {}
    for name, each in of["attributes"].items():
        kept: dict[str, Any] = {"type": each["type"]}
        if each["requirement"] != "optional":
            kept["requirement"] = each["requirement"]
        if each.get("is_array"):
            kept["array"] = True
        if each.get("object_type"):
            kept["object"] = each["object_type"]
        if each.get("profile"):
            kept["profile"] = each["profile"]
        if each.get("sibling"):
            kept["sibling"] = each["sibling"]
        if each.get("enum"):
            kept["enum"] = {number: value["caption"] for number, value in each["enum"].items()}
        out[name] = kept
    return out


def ocsf(folder: Path) -> dict[str, Any]:
    """Classes and objects with their attributes; the types that attributes have, down to what JSON has."""
    _download(OCSF_PACKAGE, folder)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        schema = json.loads(archive.read(f"ocsf_json_schema/ocsf/{OCSF_VERSION}.json"))
    classes, objects = {}, {}
    for name in OCSF_CLASSES:
        of = schema["classes"][name]
        classes[name] = {
            "uid": of["uid"],
            "caption": of["caption"],
            "category_uid": of.get("category_uid", 0),
            "category": of["category"],
            "constraints": of.get("constraints") or {},
            "attributes": _attributes(of),
        }
    for name in OCSF_OBJECTS:
        of = schema["objects"][name]
        objects[name] = {"constraints": of.get("constraints") or {}, "attributes": _attributes(of)}
    types = {}
    for name, each in schema["types"].items():
        types[name] = {key: each[key] for key in ("type", "regex", "range", "max_len") if key in each}
    return {
        "source": OCSF_PACKAGE,
        "version": OCSF_VERSION,
        "classes": classes,
        "objects": objects,
        "types": types,
    }


CEF_HEAD = '''"""Keys of the CEF dictionary that the shape writes. Written by tools/make_schemas.py; do not edit.

Source: the ArcSight Common Event Format implementation standard, as {package} (PyPI) has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

KEYS: Final[Mapping[str, tuple[str, int]]] = MappingProxyType(
    {{
{rows}    }}
)
"""Type and length of each key; 0 where the type says it all."""
'''


def cef(folder: Path) -> str:
    """A module with the keys in use: their types and lengths."""
    _download(CEF_PACKAGE, folder)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        table = csv.DictReader(io.StringIO(archive.read("format_cef/_cef/valid_extensions.csv").decode()))
        known = {row["CEF Key Name"]: (row["Data Type"], row["Length"]) for row in table}
    rows = ""
    for key in CEF_KEYS:
        type_, length = known[key]
        rows += f'        "{key}": ("{type_}", {length if type_ == "String" else 0}),\n'
    return CEF_HEAD.format(package=CEF_PACKAGE, rows=rows)


def _json(make: Callable[[Path], dict[str, Any]]) -> Callable[[Path], str]:
    return lambda folder: json.dumps(make(folder), indent=0, sort_keys=True, ensure_ascii=True) + "\n"


def main() -> int:
    """Write all extracts, or with --check say whether they are what the packages say."""
    wrong = 0
    for name, make in (("schema_ecs.json", _json(ecs)), ("schema_ocsf.json", _json(ocsf)), ("schema_cef.py", cef)):
        with tempfile.TemporaryDirectory() as folder:
            made = make(Path(folder))
        target = TARGET / name
        if "--check" not in sys.argv:
            target.write_text(made)
        elif not target.exists() or target.read_text() != made:
            print(f"{target} is not what {name} should be")
            wrong = 1
    return wrong


if __name__ == "__main__":
    raise SystemExit(main())
