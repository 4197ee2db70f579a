"""From files to rules: whose files, how many, what the child may do, and what is said of a rule that is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import msgpack  # type: ignore[import-untyped, unused-ignore]
import pytest

from audisp.detect import form
from audisp.errors import ConfigError
from audisp.hids import folder, load, translate
from tests.detect.replaying import rule, rules_of
from tests.needs import needs

PLAIN = rule("s:\n  type: EXECVE\ncondition: s")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that may hold rules."""
    made = tmp_path / "rules"
    made.mkdir(mode=0o755)
    return made


def reasons(place: Path) -> dict[str, str]:
    return {each.where: each.reason for each in load.load([place]).refused}


def test_a_folder_its_folders_and_a_file(place: Path) -> None:
    (place / "deep").mkdir()
    (place / "deep" / "a.yml").write_text(PLAIN)
    (place / "README.md").write_text("no rule")
    (place / ".git").mkdir()
    (place / ".git" / "b.yml").write_text(PLAIN)
    found = load.load([place])
    assert [each.heading.where for each in found.rules] == ["deep/a.yml"]
    assert not found.refused
    assert len(load.load([place / "deep" / "a.yml"]).rules) == 1
    assert len(load.load([place, place / "deep"]).rules) == 1  # the other has the same id


def test_what_is_not_trusted_is_refused(place: Path) -> None:
    for name in ("writable.yml", "target.yml"):
        (place / name).write_text(PLAIN)
    (place / "writable.yml").chmod(0o666)
    (place / "link.yml").symlink_to(place / "target.yml")
    (place / "folder").symlink_to("/etc")
    os.mkfifo(place / "pipe.yml")
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    found = reasons(place)
    assert "can be written by" in found.pop("writable.yml")
    assert found == {
        "link.yml": "is a symbolic link, which is not followed",
        "folder": "is a symbolic link, which is not followed",
        "pipe.yml": "is no regular file",
        "open": "can be written by others (mode 0777): chmod g-w,o-w",
    }
    place.chmod(0o775)
    with pytest.raises(ConfigError, match="can be written by others"):
        load.load([place])


@needs("root")
def test_strangers_files_are_refused(place: Path) -> None:
    (place / "theirs.yml").write_text(PLAIN)
    os.chown(place / "theirs.yml", 4321, 0)
    (place / "folder").mkdir()
    os.chown(place / "folder", 4321, 0)
    assert set(reasons(place).values()) == {"is owned by uid 4321, it must be root"}
    os.chown(place, 4321, 0)
    with pytest.raises(ConfigError, match="is owned by uid 4321"):
        load.load([place])


def test_bounds(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(3):
        (place / f"{at}.yml").write_text(PLAIN)
    for name, says in (("MAX_FILES", "rule files"), ("MAX_ENTRIES", "files"), ("MAX_BYTES", "bytes of rules")):
        with monkeypatch.context() as patch:
            patch.setattr(folder, name, 2)
            with pytest.raises(ConfigError, match=f"more than 2 {says}"):
                load.load([place])
    monkeypatch.setattr(folder, "MAX_DEPTH", 0)
    (place / "deep").mkdir()
    assert reasons(place)["deep"] == "is deeper than 0 folders"
    with pytest.raises(ConfigError, match="No such file"):
        load.load([place / "nosuch.yml"])


@pytest.mark.parametrize("name", load.FORBIDDEN)
def test_the_environment_must_not_open_doors(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "0")
    with pytest.raises(ConfigError, match=name):
        load.load([place])


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(load.EXTRA, "no_such_module", "no-such-package")
    with pytest.raises(load.NoExtra, match=r"^rules need no-such-package: pip install 'audisp\[hids\]'$"):
        load.require_extra()


def test_importing_the_loader_imports_no_pysigma() -> None:
    program = "import sys, audisp.hids.load, audisp.cli.hids; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"sigma", "yaml", "requests", "jinja2", "re2"} & set(loaded)


LOG = "title: t\nlogsource:\n    {}\ndetection:\n    s:\n        {}\n    condition: {}\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "is no YAML"),
        ("- a", "is no map of keys and values"),
        ("\xff", "is no YAML in UTF-8"),
        ("a: 1\na: 2", "Duplicate key 'a'"),
        (LOG.format("service: sshd", "a: b", "s"), "logsource: service sshd: is not in audit records, which have"),
        (LOG.format("product: windows", "a: b", "s"), "logsource: product windows"),
        (
            LOG.format("service: auditd", "a|contain: b", "s"),
            "a|contain: modifier contain is not known here; did you mean contains?",
        ),
        (LOG.format("service: auditd", "a|fieldref: b", "s"), "modifier fieldref is not known here"),
        (LOG.format("service: auditd", "a|expand: '%b%'", "s"), "modifier expand is not known here"),
        (LOG.format("service: auditd", "a|re: '(b)\\1'", "s"), "Regular expression"),
        (LOG.format("service: auditd", "a|cidr: 10.0.0.1/8", "s"), "Invalid CIDR"),
        (LOG.format("service: auditd", "a: b", "s and nosuch"), "'nosuch' not defined"),
        (LOG.format("service: auditd", "a: b", "s | count() > 3"), "pipe syntax"),
        (LOG.format("service: auditd", "a: b\n    timeframe: 1m", "s"), "timeframe: is no part of Sigma 2"),
        ("title: t\naction: global\n", "action: is no part of Sigma 2"),
        ("title: t\nfilter:\n    rules: x\n", "filters for other rules are not applied"),
        ("title: t\nid: none\n" + LOG.format("service: auditd", "a: b", "s").partition("\n")[2], "must be an UUID"),
        ("title: t\nlogsource:\n    service: auditd\n", "must have a detection"),
        (LOG.format("service: auditd", "a: {b: c}", "s"), "Unsupported type"),
        ("&a [*a]", "is no"),
    ],
)
def test_why_a_document_is_refused(text: str, reason: str) -> None:
    data = text.encode("latin-1" if text == "\xff" else "utf-8")
    found = _translated().read_alone(data)
    assert len(found) == 1, found
    assert reason in found[0].reason


class _translated:  # noqa: N801 - reads as what it is
    """The child's work in this process: what is refused does not depend on where."""

    def read_alone(self, data: bytes) -> list[form.Refused]:
        made = translate.Translator()
        made.read("x.yml", data)
        rules = made.finish()
        assert form.decode(form.encode(rules)) == rules
        return list(rules.refused)


def test_lines_and_ids_of_several_documents() -> None:
    (refused,) = rules_of(PLAIN + "---\n" + PLAIN).refused
    assert refused.line == PLAIN.count("\n") + 2
    assert "has the id of 0.yml:1" in refused.reason


def test_laughs_and_depths_end_within_the_limits() -> None:
    laughs = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + at)}: &{chr(98 + at)} [" + f"*{chr(97 + at)}, " * 9 + "x]\n" for at in range(12)
    )
    bomb = LOG.format("service: auditd", "a: b", "s").replace("detection:", laughs + "detection:")
    bomb = bomb.replace("a: b", "a: *m")
    deep = "[" * 5_000
    rules = rules_of(bomb, deep, PLAIN)
    assert len(rules.rules) >= 1
    assert {"1.yml"} <= {each.where for each in rules.refused}


def test_a_child_that_fails_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "CHILD", "audisp.hids.nosuch")
    with pytest.raises(ConfigError, match=r"translating the rules failed .exit status 1.: .*nosuch"):
        rules_of(PLAIN)
    monkeypatch.setattr(load, "CHILD", "base64")
    with pytest.raises(ConfigError, match=r"translating the rules failed|the translation of the rules is no"):
        rules_of(PLAIN)


def test_the_child_is_confined() -> None:
    program = (
        "import os, resource, sys\nfrom audisp.hids import translate\ntranslate.confine()\n"
        "print(os.geteuid(), os.getgroups(), *[resource.getrlimit(each)[1] for each in "
        "(resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_FSIZE)])\n"
        "from audisp.hids.translate import Translator\nt = Translator(); t.read('a.yml', sys.argv[1].encode())\n"
        "print(len(t.finish().rules))"
    )
    done = subprocess.run([sys.executable, "-c", program, PLAIN], capture_output=True, text=True, check=True)
    who, rules = done.stdout.splitlines()
    expected = f"{translate.NOBODY} []" if os.geteuid() == 0 else f"{os.geteuid()} "
    assert who.startswith(expected)
    assert who.endswith(f"{translate.CPU_SECONDS} {translate.MEMORY} 0")
    assert rules == "1"


def test_a_child_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "SECONDS", 0.01)
    started = time.monotonic()
    with pytest.raises(ConfigError, match="took more than"):
        rules_of(PLAIN)
    assert time.monotonic() - started < 30


def test_what_the_child_gets_is_bytes() -> None:
    assert msgpack.unpackb(msgpack.packb([["a", b"\xff"]])) == [["a", b"\xff"]]
    assert load.translate([]) == form.RuleSet()
