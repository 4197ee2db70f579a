"""audispd.conf: each key, its limits, and the checks of the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from audisp.config.audispd import KEYS, AudispdConf, load, read
from audisp.config.grammar import ConfigErrors

X = Path("x")

CASES = [
    ("source = multicast", "source", ("multicast",)),
    (
        "source = unix:/run/audit/audispd_events\nsource = file:/a b",
        "source",
        ("unix:/run/audit/audispd_events", "file:/a b"),
    ),
    ("runtime_dir = /run/other", "runtime_dir", Path("/run/other")),
    ("state_dir = /a", "state_dir", Path("/a")),
    ("spill_dir = /a/b", "spill_dir", Path("/a/b")),
    ("drain_timeout = 0", "drain_timeout", 0.0),
    ("drain_timeout = 2.5", "drain_timeout", 2.5),
    ("drain_timeout = 3600", "drain_timeout", 3600.0),
    ("spill_min_free = 0", "spill_min_free", 0),
    ("spill_min_free = 1g", "spill_min_free", 1 << 30),
    ("keep_bad_bytes = 4096", "keep_bad_bytes", 4096),
    ("keep_bad_bytes = 64M", "keep_bad_bytes", 64 << 20),
    ("rcvbuf = 64K", "rcvbuf", 64 << 10),
    ("rcvbuf = 1G", "rcvbuf", 1 << 30),
    ("own_activity_warn = 0", "own_activity_warn", 0),
    ("own_activity_warn = 100", "own_activity_warn", 100),
    ("enrich = none", "enrich", ()),
    ("enrich = Container labels", "enrich", ("container", "labels")),
    ("enrich_inherit = ALL", "enrich_inherit", "all"),
    ("enrich_processes = 256", "enrich_processes", 256),
    ("label_inherit = none", "label_inherit", ()),
    ("label_inherit = web cron", "label_inherit", ("web", "cron")),
    ("enrich_env = LD_PRELOAD HOME LD_PRELOAD", "enrich_env", ("LD_PRELOAD", "HOME")),
    ("label = web exe /usr/sbin/nginx\nlabel = web key http", "label", ("web exe /usr/sbin/nginx", "web key http")),
    ("unlabel = web argv *logrotate *", "unlabel", ("web argv *logrotate *",)),
    ("store_dir = /a/store", "store_dir", Path("/a/store")),
    ("store_size = 64M", "store_size", 64 << 20),
    ("store_min_free = 0", "store_min_free", 0),
    ("control = no", "control", False),
    ("capabilities = CAP_SYS_ADMIN net_admin cap_net_admin", "capabilities", ("cap_sys_admin", "cap_net_admin")),
    ("capabilities = none", "capabilities", ()),
]


@pytest.mark.parametrize(("text", "field", "value"), CASES)
def test_values(text: str, field: str, value: object) -> None:
    assert getattr(read(text.encode() + b"\n", X), field) == value


def test_every_key_has_a_case() -> None:
    assert {field for _, field, _ in CASES} == set(KEYS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources = stdin", "unknown key 'sources' (did you mean 'source'?)"),
        ("q_depth = 5", "unknown key 'q_depth'"),
        ("runtime_dir = run", "'run' is not the absolute path of a folder"),
        ("runtime_dir = /", "'/' is not the absolute path of a folder"),
        ("drain_timeout = 3601", "'3601' is out of range: 0 to 3600"),
        ("drain_timeout = -1", "'-1' is not a number of seconds"),
        ("spill_min_free = 1T", "'1T' is not a size"),
        ("enrich = containers", "'containers' is not one of container, unit, cgroup, parents, script, labels (did you"),
        ("enrich_env = A=B", "'A=B' is no name of an environment variable"),
        ("label = web", "wants three words"),
        ("label = web exx /a", "did you mean 'exe'?"),
        ("spill_min_free = K", "'K' is not a size"),
        ("spill_min_free = 99999999G", "is out of range: 0 to 1048576G"),
        ("rcvbuf = 1K", "'1K' is out of range: 64K to 1G"),
        ("keep_bad_bytes = 65M", "is out of range: 0 to 64M"),
        ("own_activity_warn = 101", "out of range: 0 to 100"),
        ("control = maybe", "is not one of yes, no"),
        ("capabilities = cap_sys_amdin", "'cap_sys_amdin' is not a capability (did you mean 'cap_sys_admin'?)"),
        ("capabilities = none chown", "'none' is not a capability"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        read(text.encode() + b"\n", X)
    assert str(caught.value).startswith("x:1: ")
    assert message in str(caught.value)


def test_a_missing_file_is_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path / "audispd.conf") == (AudispdConf(), [])


def test_the_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "audispd.conf"
    path.write_text("control = no\n")
    path.chmod(0o620)
    with pytest.raises(ConfigErrors, match="can be written by its group"):
        load(path)
    path.chmod(0o600)
    assert not load(path)[0].control
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(ConfigErrors, match="is a symbolic link"):
        load(tmp_path / "link")
    assert not load(tmp_path / "link", allow_links=True)[0].control
