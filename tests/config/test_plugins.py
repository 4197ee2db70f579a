"""plugins.d: which files are plugins, what stands in which file, and what each costs when it is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audisp.config.files import check_folders
from audisp.config.grammar import ConfigErrors, Setting
from audisp.config.plugins import AF_UNIX, HOST_KEYS, MAX_FILES, PluginConf, scan, settings_of
from audisp.errors import ConfigError, PluginError
from tests.needs import needs

Put = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "plugins.d"
    path.mkdir()
    return path


@pytest.fixture
def put(folder: Path) -> Put:
    """Write a file of the folder: text, and lines behind it."""

    def write(name: str, text: str = "", mode: int = 0o640) -> Path:
        path = folder / name
        path.write_text(text)
        path.chmod(mode)
        return path

    return write


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program"
    shutil.copy("/usr/bin/true", path)
    path.chmod(0o750)
    return path


def one(folder: Path) -> PluginConf:
    confs, errors = scan(folder)
    assert errors == []
    (conf,) = confs
    return conf


def wrong(folder: Path) -> list[str]:
    confs, errors = scan(folder)
    assert confs == []
    for error in errors:
        assert str(error).isprintable()
    return [str(error) for error in errors]


CHILD = "active = yes\ndirection = out\npath = {program}\ntype = always\n"


def test_a_child(folder: Path, put: Put, program: Path) -> None:
    put("t.conf", CHILD.format(program=program) + "args = a   b #c\nformat = BINARY\n")
    conf = one(folder)
    assert (conf.name, conf.path, conf.active) == ("t", folder / "t.conf", True)
    assert conf.command == (str(program), "a", "b", "#c")
    assert (conf.format, conf.plugin, conf.settings) == ("binary", None, ())


@pytest.mark.parametrize(
    "text", ["", "\n", "# nothing\n", "active = no\n", "format = string\n", "path = /nonexistent/x\n"]
)
def test_inactive(folder: Path, put: Put, text: str) -> None:
    put("t.conf", text)
    assert not one(folder).active


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bogus = 1", "t.conf:5: unknown key 'bogus'"),
        ("foramt = string", "t.conf:5: unknown key 'foramt' (did you mean 'format'?)"),
        ("queue_byte = 1M", "(did you mean 'queue_bytes'?)"),
        ("active = yes # now", "active: takes one value, but there is '# now' behind it: a comment needs a line"),
        ("active = maybe", "t.conf:5: active: 'maybe' is not one of yes, no"),
        ("active=yes", "t.conf:5: spaces are missing around '='"),
        ("type = never", "type: 'never' is not one of always, builtin"),
        ("format = text", "format: 'text' is not one of string, binary"),
        ("direction = out x", "direction: takes one value"),
        ("path = /a/b", "t.conf:5: path: the folder '/a' is shorter than 4 characters"),
        ("path = sbin/audisp-syslog", "'sbin/audisp-syslog' is not an absolute path"),
        ("path = /nonexistent/x", "t.conf:5: path: '/nonexistent/x' cannot be used: No such file"),
        ("path = /usr/bin", "is not a regular file but a folder"),
        ("args =", "t.conf:5: args: there is no value after '='"),
        ("plugin = syslog", "t.conf:5: plugin: belongs into t.audisp alone: auditd would refuse this file"),
    ],
)
def test_a_wrong_line_costs_the_file(folder: Path, put: Put, program: Path, text: str, message: str) -> None:
    put("t.conf", CHILD.format(program=program) + text + "\n")
    assert [message in each for each in wrong(folder)] == [True]


def test_active_without_a_program(folder: Path, put: Put) -> None:
    put("t.conf", "active = yes\n")
    assert "t.conf: path: is missing" in wrong(folder)[0]


def test_the_program_is_checked_when_active(folder: Path, put: Put, program: Path) -> None:
    program.chmod(0o700)
    put("t.conf", CHILD.format(program=program))
    assert "has mode 0700; owner and group must be able to read and execute it" in wrong(folder)[0]
    put("t.conf", CHILD.format(program=program) + "active = no\n")
    assert not one(folder).active


def test_one_bad_file_costs_no_other(folder: Path, put: Put, program: Path) -> None:
    put("a.conf", CHILD.format(program=program))
    put("b.conf", "bogus\n")
    put("c.conf", CHILD.format(program=program), mode=0o666)
    (folder / "d.conf").mkdir()
    put("e.conf", "active = no\n")
    confs, errors = scan(folder)
    assert [conf.name for conf in confs] == ["a", "e"]
    assert [error.path.stem for error in errors if isinstance(error.path, Path)] == ["b", "c", "d"]


@pytest.mark.parametrize(
    ("name", "is_plugin"),
    [
        ("t.conf", True),
        ("t", True),
        ("t-1_x.conf", True),
        ("t~", True),
        (".t.conf", False),
        ("t.b.conf", False),
        ("t.CONF", False),
        ("t.txt", False),
        ("t.conf~", False),
        ("t.", False),
        (".conf", False),
        ("t.conf.audisp", False),
    ],
)
def test_names(folder: Path, put: Put, name: str, is_plugin: bool) -> None:
    put(name, "active = no\n")
    confs, errors = scan(folder)
    assert errors == []
    assert [conf.name for conf in confs] == ([name.partition(".")[0]] if is_plugin else [])


@pytest.mark.parametrize("name", ["t t.conf", "t\n.conf", "-t.conf", "caf\u00e9.conf", "t=x.conf", "\udcff.conf"])
def test_names_that_would_be_no_word_elsewhere(folder: Path, put: Put, name: str) -> None:
    put(name, "active = no\n")
    assert "is no name for a plugin" in wrong(folder)[0]


def test_two_files_of_one_name(folder: Path, put: Put) -> None:
    put("t", "active = no\nformat = binary\n")
    put("t.conf", "active = no\n")
    confs, errors = scan(folder)
    assert [(conf.name, conf.format) for conf in confs] == [("t", "string")]
    assert "t: is left out: t.conf is a plugin of the same name" in str(errors[0])


def test_shipped(folder: Path, put: Put) -> None:
    """A checkout may be writable for its group."""
    put("t.audisp", "active = yes\nplugin = stdout\n", mode=0o664)
    assert scan(folder)[0] == []
    confs, errors = scan(folder, shipped=True)
    assert errors == []
    assert confs[0].active


def test_order_is_by_name(folder: Path, put: Put) -> None:
    for name in ("zz", "b.conf", "a.audisp", "10.conf", "B.conf"):
        put(name, "active = no\n")
    assert [conf.name for conf in scan(folder)[0]] == ["10", "B", "a", "b", "zz"]


def test_a_folder_that_cannot_be_opened(tmp_path: Path) -> None:
    confs, errors = scan(tmp_path / "none")
    assert confs == []
    assert errors[0].path == tmp_path / "none"
    assert "no plugins, the folder cannot be opened: No such file" in str(errors[0])


def test_the_number_of_plugins_is_bounded(folder: Path) -> None:
    for number in range(MAX_FILES + 5):
        (folder / f"p{number:05}").touch(0o600)
    confs, errors = scan(folder)
    assert len(confs) == MAX_FILES
    assert "the rest is left out" in str(errors[0])


def test_links(folder: Path, tmp_path: Path) -> None:
    real = tmp_path / "real.conf"
    real.write_text("active = no\nformat = binary\n")
    real.chmod(0o640)
    (folder / "t.conf").symlink_to(real)
    assert one(folder).format == "binary"
    real.unlink()
    conf = one(folder)
    assert not conf.active
    assert conf.notices == (f"{folder / 't.conf'}: leads to no file, and is taken as inactive",)


def test_builtin(folder: Path, put: Put) -> None:
    put("af.conf", "active = yes\npath = Builtin_AF_unix\ntype = builtin\nargs = 0640 /run/s\nformat = string\n")
    put("af.audisp", "max_clients = 3\nqueue_records = 9\n")
    conf = one(folder)
    assert (conf.plugin, conf.command, conf.active, conf.queue_records) == (AF_UNIX, None, True, 9)
    assert [(setting.key, setting.words) for setting in conf.settings] == [
        ("args", ("0640", "/run/s")),
        ("max_clients", ("3",)),
    ]
    assert len(conf.notices) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", None),
        ("type = builtin\n", None),
        ("args = 0640\nargs = 0600 /run/s\n", ("0600", "/run/s")),
        # As auditd 3 has it.
        ("type = builtin\nformat = binary\n", ("binary",)),
        ("type = builtin\nformat = binary\nargs = 0600\n", ("0600", "binary")),
        ("type = builtin\nformat = binary\nargs = 0600 string\n", ("0600", "string")),
        # As auditd 4 has it: what the program is fed, which is not what clients get.
        ("format = binary\nargs = 0600\n", ("0600",)),
    ],
)
def test_what_builtin_hands_to_clients(folder: Path, put: Put, text: str, words: tuple[str, ...] | None) -> None:
    put("af.conf", f"path = builtin_af_unix\n{text}")
    assert [setting.words for setting in one(folder).settings] == ([] if words is None else [words])


def test_our_keys_stand_in_either_file(folder: Path, put: Put, program: Path) -> None:
    put("t.conf", CHILD.format(program=program) + "nice = 3\n")
    assert one(folder).nice == 3
    put("t.conf", CHILD.format(program=program))
    put("t.audisp", "nice = 4\n")
    conf = one(folder)
    assert (conf.nice, conf.command, conf.path) == (4, (str(program),), folder / "t.conf")
    # The later one wins, and the file beside comes after.
    put("t.conf", CHILD.format(program=program) + "nice = 3\n")
    assert one(folder).nice == 4


def test_auditd_s_keys_stand_in_auditd_s_file(folder: Path, put: Put, program: Path) -> None:
    put("t.conf", CHILD.format(program=program))
    put("t.audisp", "\nactive = no\nplugin = syslog\nargs = x\nbogus = 1\n")
    messages = wrong(folder)
    assert f"{folder / 't.audisp'}:2: active: belongs into t.conf, where auditd sees it too" in messages
    assert f"{folder / 't.audisp'}:3: plugin: belongs into t.conf, where auditd sees it too" in messages
    assert f"{folder / 't.audisp'}:4: args: belongs into t.conf, where auditd sees it too" in messages
    assert any("t.audisp:5: unknown key 'bogus'" in message for message in messages)


def test_a_bad_file_beside_costs_the_plugin(folder: Path, put: Put, program: Path) -> None:
    put("t.conf", CHILD.format(program=program))
    put("t.audisp", "nice = 4\n", mode=0o666)
    assert "t.audisp: can be written by" in wrong(folder)[0]


def test_a_child_in_a_file_of_ours(folder: Path, put: Put, program: Path) -> None:
    put("t.audisp", f"active = yes\npath = {program}\nargs = a b\nformat = binary\nuser = root\n")
    conf = one(folder)
    assert (conf.command, conf.format, conf.user, conf.plugin) == ((str(program), "a", "b"), "binary", "root", None)


def test_inside_this_process(folder: Path, put: Put) -> None:
    put("t.audisp", "active = yes\nplugin = stdout\nrate = 5\nargs = a b\nformat = any\nrequired = yes\n")
    conf = one(folder)
    assert (conf.plugin, conf.command, conf.active, conf.required) == ("stdout", None, True, True)
    assert [(setting.key, setting.line) for setting in conf.settings] == [("rate", 3), ("args", 4), ("format", 5)]
    assert all(setting.file == folder / "t.audisp" for setting in conf.settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plugin = a b", "plugin: takes one value"),
        ("plugin = ../x", "is neither the name of an installed plugin nor /path/to/file.py"),
        ("plugin = /a/b", "is neither the name of an installed plugin nor /path/to/file.py"),
        ("plugin = stdout\npath = /sbin/x", "path: is for a child program, and plugin is not"),
        ("plugin = stdout\nuser = root", "user: is for a process of its own: a child program (path =), or isolation"),
        ("plugin = stdout\nmemory_max = 1G", "memory_max: is for a process of its own"),
        ("plugin = stdout\nnice = 1", "nice: is for a process of its own"),
        ("plugin = stdout\ncapabilities = chown", "capabilities: is for a process of its own"),
        ("plugin = stdout\nactions = halt", "actions: is for a process of its own"),
        ("plugin = stdout\nisolation = process\npath = /sbin/x", "path: is for a child program, and plugin is not"),
        ("plugin = stdout\nisolation = process\nmemory_max = 63M", "memory_max: is below what Python takes: 64M"),
        ("plugin = stdout\nreactions = /etc/x", "reactions: is for a process of its own"),
        ("plugin = stdout\nisolation = process\nuser = nobody\nreactions = x", "reactions: 'x' must be absolute"),
        ("plugin = /nonexistent/x.py", "t.audisp:2: plugin: /nonexistent/x.py: cannot be used: No such file"),
        ("plugin = /tmp/x.py", "/tmp: can be written by"),
        ("nothing = 1", "unknown key 'nothing'"),
    ],
)
def test_inside_errors(folder: Path, put: Put, text: str, message: str) -> None:
    put("t.audisp", f"active = yes\n{text}\n")
    assert message in wrong(folder)[0]


@pytest.fixture
def code() -> Iterator[Path]:
    """A file of code that is safe to load: not below /tmp."""
    home = Path.home().resolve()
    try:
        check_folders(home / "file")
    except ConfigError as problem:
        if "No such file" not in str(problem):
            pytest.skip(f"no safe folder for a test: {problem}")
    where = Path(tempfile.mkdtemp(dir=home, prefix=".audisp-test-"))
    path = where / "mine.py"
    path.write_text("")
    path.chmod(0o644)
    try:
        yield path
    finally:
        shutil.rmtree(where)


def test_code_in_a_file(folder: Path, put: Put, code: Path) -> None:
    put("t.audisp", f"active = yes\nplugin = {code}\n")
    assert one(folder).plugin == str(code)
    code.chmod(0o666)
    assert "mine.py: can be written by" in wrong(folder)[0]
    put("t.audisp", f"active = no\nplugin = {code}\n")
    assert not one(folder).active


HOST = [
    ("required = yes", "required", True),
    ("required = no", "required", False),
    *(
        (f"overflow_action = {word}", "overflow_action", word)
        for word in ("ignore", "syslog", "suspend", "single", "halt")
    ),
    *(
        (f"overflow_action = {word.upper()}", "overflow_action", word)
        for word in ("drop_oldest", "drop_newest", "spill")
    ),
    ("queue_bytes = 64K", "queue_bytes", 65_536),
    ("queue_bytes = 2M", "queue_bytes", 2 << 20),
    ("queue_records = 1", "queue_records", 1),
    ("spill_bytes = 1M", "spill_bytes", 1 << 20),
    ("spill_min_free = 0", "spill_min_free", 0),
    ("filter_keep = uid r= 0", "filter_keep", ("uid r= 0",)),
    ('filter_keep = uid r= 0\nfilter_keep = key r= "a  b"', "filter_keep", ("uid r= 0", 'key r= "a  b"')),
    ("filter_drop = ! (exe r= x || \\record_type == CWD)", "filter_drop", ("! (exe r= x || \\record_type == CWD)",)),
    ("hosts = web1 *.example.com\nhosts = web1 addr:10.*", "hosts", ("web1 *.example.com", "web1 addr:10.*")),
    ("hosts = web1 *.example.com\nhosts = web1 addr:10.*", "patterns", ("web1", "*.example.com", "addr:10.*")),
    ("shape = ECS", "shape", "ecs"),
    ("shape = laurel\nshape_version = 0.8", "shape_version", "0.8"),
    ("isolation = none", "isolation", "none"),
    ("isolation = Process", "isolation", "process"),
    ("actions = syslog HALT", "actions", ("syslog", "halt")),
    ("actions = none", "actions", ()),
    ("user = root", "user", "root"),
    ("user = 0", "user", "0"),
    ("capabilities = AUDIT_READ cap_chown", "capabilities", ("cap_audit_read", "cap_chown")),
    ("capabilities = none", "capabilities", ()),
    ("nice = -20", "nice", -20),
    ("nice = 19", "nice", 19),
    ("memory_max = 1M", "memory_max", 1 << 20),
    ("memory_max = 2G", "memory_max", 2 << 30),
    ("max_restarts = 0", "max_restarts", 0),
    ("restart_delay = 0", "restart_delay", 0.0),
    ("restart_delay = 2.5", "restart_delay", 2.5),
    ("restart_delay_max = 86400", "restart_delay_max", 86_400.0),
    ("deliver_timeout = 0.1", "deliver_timeout", 0.1),
]


@pytest.mark.parametrize(("text", "field", "value"), HOST)
def test_host_keys(folder: Path, put: Put, text: str, field: str, value: object) -> None:
    put("t.conf", text + "\n")
    assert getattr(one(folder), field) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("required = always", "is not one of yes, no"),
        ("overflow_action = drop", "is not one of ignore"),
        ("overflow_action = drop-newest", "(did you mean 'drop_newest'?)"),
        ("queue_bytes = 65535", "is out of range: 64K to 1048576G"),
        ("queue_bytes = lots", "is not a size"),
        ("queue_records = 0", "is out of range: 1 to"),
        ("spill_bytes = 1K", "is out of range: 1M to"),
        ("spill_min_free = -1", "is not a size"),
        ("filter_keep = uid = 0", "filter_keep: column "),
        ("filter_drop = x", "filter_drop: column "),
        ("hosts = wéb", "matches no identity"),
        ("shape = lauerl", "shape: 'lauerl' is not one of raw, enriched, text, csv, laurel, ecs, ocsf, cef"),
        ("shape_version = 0.5", "shape_version: is of no use without shape"),
        ("shape = laurel\nshape_version = 9", "shape_version: '9' is none: laurel has 0.5, 0.8"),
        ("shape = raw\nshape_version = 9", "shape_version: '9' is none: raw has no versions"),
        ("isolation = proces", "isolation: 'proces' is not one of none, process (did you mean 'process'?)"),
        ("actions = reboot", "actions: 'reboot' is not one of syslog, email, exec, single, halt"),
        ("user = nosuchuser", "there is no user 'nosuchuser'"),
        ("user = 4294967295", "is out of range"),
        ("user = 1999999999", "there is no user '1999999999'"),
        ("capabilities = audit_raed", "(did you mean 'cap_audit_read'?)"),
        ("nice = 20", "is out of range: -20 to 19"),
        ("nice = -21", "is out of range: -20 to 19"),
        ("memory_max = 1023K", "is out of range: 1M to"),
        ("max_restarts = -1", "is not a whole number"),
        ("restart_delay = 3601", "is out of range: 0 to 3600"),
        ("restart_delay = 60", "restart_delay_max: 30 is below restart_delay (60)"),
        ("restart_delay_max = 86401", "is out of range"),
        ("deliver_timeout = 0", "is out of range: 0.1 to"),
    ],
)
def test_host_keys_refused(folder: Path, put: Put, text: str, message: str) -> None:
    put("t.conf", text + "\n")
    messages = wrong(folder)
    assert len(messages) == 1
    assert message in messages[0]


def test_every_host_key_has_a_case() -> None:
    alone = {"reactions"}  # test_reactions: only of a plugin that has a process of its own
    assert {field for _, field, _ in HOST} == {*HOST_KEYS, "patterns"} - alone


def test_reactions(folder: Path, put: Put, tmp_path: Path) -> None:
    conf = tmp_path / "reactions.conf"
    text = f"active = yes\nplugin = stdout\nisolation = process\nuser = nobody\nreactions = {conf}\n"
    put("t.audisp", text)
    found = one(folder)
    assert found.reactions == str(conf)
    # What the file says is the plugin's as well: a reload of another starts it anew.
    conf.write_text("dry_run = yes\n")
    assert one(folder).fingerprint != found.fingerprint


def test_fingerprint(folder: Path, put: Put, program: Path) -> None:
    put("t.conf", CHILD.format(program=program))
    seen = {one(folder).fingerprint}
    assert one(folder).fingerprint in seen

    def changed() -> None:
        now = one(folder).fingerprint
        assert now not in seen
        seen.add(now)

    put("t.conf", CHILD.format(program=program) + "args = a\n")
    changed()
    put("t.audisp", "nice = 1\n")
    changed()
    put("t.audisp", "nice = 2\n")
    changed()
    program.write_bytes(program.read_bytes() + b"\0")
    changed()
    fresh = program.with_name("fresh")
    shutil.copy2(program, fresh)
    fresh.replace(program)
    changed()
    # Touching the file itself changes nothing.
    os.utime(folder / "t.conf")
    assert one(folder).fingerprint in seen


@attrs.frozen
class Schema:
    path: Path
    rate: int = 5


def configured(*settings: Setting) -> PluginConf:
    return PluginConf(name="t", path=Path("t.audisp"), plugin="x", settings=settings)


def test_settings_of() -> None:
    path = Setting("path", ("/a",), 2, "/a")
    assert settings_of(configured(path), Schema) == Schema(Path("/a"))
    with pytest.raises(ConfigErrors, match="path: is missing"):
        settings_of(configured(), Schema)
    with pytest.raises(ConfigErrors, match=r"t\.audisp:3: unknown key 'requierd' \(did you mean 'required'\?\)"):
        settings_of(configured(path, Setting("requierd", ("yes",), 3, "yes")), Schema)


def test_a_schema_leaves_the_host_s_keys_alone() -> None:
    @attrs.frozen
    class Greedy:
        nice: int = 0

    with pytest.raises(PluginError, match="nice have names that the host uses"):
        settings_of(configured(), Greedy)
    with pytest.raises(PluginError, match="is no attrs class"):
        settings_of(configured(), str)


@needs("root")
def test_a_stranger_s_file(folder: Path, put: Put) -> None:
    os.chown(put("t.conf", "active = no\n"), 12345, 0)
    assert "t.conf: is owned by uid 12345, it must be root" in wrong(folder)[0]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400), st.binary(max_size=400))
def test_any_content(folder: Path, conf: bytes, ours: bytes) -> None:
    for name, data in (("t.conf", conf), ("t.audisp", ours)):
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o600)
    confs, errors = scan(folder)
    assert bool(confs) != bool(errors)
    for error in errors:
        assert str(error).isprintable()


@needs("root", "auditd")
def test_auditd_takes_the_same_files(tmp_path: Path, program: Path) -> None:
    """Which of a table of files auditd starts a plugin from; with local_events = no, and a private /run."""
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs mount namespaces")
    # What it runs must be a program that reads to the end.
    shutil.copy("/usr/bin/cat", program)
    child = CHILD.format(program=program)
    table = [
        *(
            (text, True)
            for text in ("", "args = a b\n", "Format = BINARY\n", "type = builtin\n", "  # x\n", "args = a\tb\n")
        ),
        *((text, False) for text in ("bogus = 1\n", "type=always\n", "args =\n", "active = no\n", "format = text\n")),
        *((text, False) for text in ("type = never\n", "direction = out x\n", "path = /a/b\n", "path = bin/cat\n")),
        *(
            (text, False)
            for text in ("path = /nonexistent/b\n", "active\t=\tyes\n", "active = yes\t\n", "active = no\r\n")
        ),
        ("active = yes # x\n", False),
    ]
    room = tmp_path / "room"
    (room / "p").mkdir(parents=True)
    (room / "auditd.conf").write_text(
        f"local_events = no\nplugin_dir = {room}/p\nspace_left = 75\nadmin_space_left = 50\n"
    )
    (room / "auditd.conf").chmod(0o640)
    for text, accepted in table:
        path = room / "p" / "t.conf"
        path.write_text(child + text)
        path.chmod(0o640)
        script = f"mount -t tmpfs tmpfs /run && exec /usr/sbin/auditd -f -c {room}"
        with subprocess.Popen(
            ["unshare", "-m", "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as auditd:
            assert auditd.stdout is not None
            said = []
            for line in auditd.stdout:
                said.append(line)
                if line.startswith(b"Init complete"):
                    break
            auditd.terminate()
        assert any(b"1 active plugins" in line for line in said) == accepted, text
        confs, _ = scan(room / "p")
        assert any(conf.active for conf in confs) == accepted, text
