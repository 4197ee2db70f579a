"""reactions.conf and ids.conf: what is taken, and what is said about the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from audisp.config import ids, reactions
from audisp.config.grammar import ConfigErrors
from audisp.errors import ConfigError
from tests.needs import ROOT

PATH = Path("/etc/audisp/reactions.conf")


def _read(text: str, *, collector: bool = False) -> reactions.ReactionsConf:
    return reactions.from_bytes(text.encode(), PATH, collector=collector)


def test_an_empty_file_does_nothing() -> None:
    conf = _read("")
    assert conf.dry_run
    assert {kind: conf.levels(kind) for kind in reactions.KINDS if conf.levels(kind)} == {
        "notify": ("high", "critical")
    }


def test_the_shipped_file_says_the_defaults() -> None:
    path = ROOT / "conf" / "reactions.conf"
    assert reactions.from_bytes(path.read_bytes(), path) == reactions.ReactionsConf()
    commented = path.read_text().replace("\n#", "\n").replace("/usr/local/sbin/on-alert", "/bin/true")
    lines = [line for line in commented.splitlines(keepends=True) if " = " in line and line[0] not in " #"]
    assert reactions.from_bytes("".join(lines).encode(), path).webhook


def test_all_of_it() -> None:
    conf = _read(
        "dry_run = no\nnotify = low MEDIUM high\nkill_process = critical\nblock_address = high critical\n"
        "end_session = never\nspare_addresses = 10.0.0.0/8\nspare_addresses = 2001:db8::/32\n"
        "spare_addresses = 192.0.2.1\nblock_time = 2h\nlock_time = 90\n"
        "spare_accounts = deploy\nspare_programs = /usr/bin/x\nadmin_groups = ops dba\n"
        "freeze_time = 1d\nmail_to = sec@example.org\nwebhook = https://[2001:db8::1]:8443/a/b?c=d\n"
        "run_command = high\ncommand = /bin/true a b\nundo_command = /bin/true\ncommand_time = 5m\ndeadline = 2.5\n"
    )
    assert (conf.notify, conf.kill_process, conf.end_session) == (("low", "medium", "high"), ("critical",), ())
    assert conf.spare_addresses == ("10.0.0.0/8", "2001:db8::/32", "192.0.2.1/32")
    assert (conf.block_time, conf.lock_time, conf.freeze_time, conf.command_time) == (7200, 90, 86400, 300)
    assert (conf.command, conf.admin_groups, conf.deadline) == (("/bin/true", "a", "b"), ("ops", "dba"), 2.5)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("kill_proces = high", "did you mean 'kill_process'?"),
        ("kill_process = low", "'low' is not one of medium, high, critical, never"),
        ("kill_process = informational", "is not one of"),
        ("kill_process = hihg", "did you mean 'high'?"),
        ("kill_process = high never", "'never' is not one of"),
        ("notify = highest", "did you mean 'high'?"),
        ("spare_addresses = 10.0.0.1/8", "did you mean '10.0.0.0/8'?"),
        ("spare_addresses = 0.0.0.0/0", "is too much"),
        ("spare_addresses = ::ffff:10.0.0.0/104", "write it as IPv4"),
        ("spare_addresses = office", "no address"),
        ("spare_accounts = -rf", "no name"),
        ("spare_programs = sshd", "not an absolute path"),
        ("spare_programs = /usr/../sshd", "not an absolute path"),
        ("block_time = 12x", "not a whole number"),
        ("block_time = 501d", "out of range"),
        ("block_time = 0", "out of range"),
        ("freeze_time = 2d", "out of range"),
        ("max_age = 61", "out of range"),
        ("per_hour = 0", "out of range"),
        ("per_hour = 1001", "out of range"),
        ("mail_to = -froot", "not a user name"),
        ("mail_to = a@b;c", "not a user name"),
        ("webhook = http://example.org/", "must begin with https://"),
        ("webhook = https://u:p@example.org/", "without a user"),
        ("webhook = https://", "HOST"),
        ("webhook = https://example.org/#x", "fragment"),
        ("webhook = https://example.org:0/", "HOST"),
        ("notify_command = true", "not an absolute path"),
        ("command = /etc/passwd", "mode"),
        ("command = /nowhere/x", "No such file"),
        ("run_command = high", "set command"),
        ("undo_command = /bin/true", "there is none"),
        ("command_time = 5m", "there is none"),
        ("webhook_ca = /etc/ca.pem", "there is none"),
        ("deadline = 301", "out of range"),
        ("dry_run = maybe", "not one of yes, no"),
    ],
)
def test_what_is_wrong_is_said_where_it_is(line: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        _read(f"# a comment\n{line}\n")
    assert said in str(raised.value)
    assert str(raised.value).startswith(f"{PATH}:2: ")


def test_a_collector_can_only_tell_and_run() -> None:
    _read("notify = high\nrun_command = high\ncommand = /bin/true\nkill_process = never\n", collector=True)
    kinds = [kind for kind in reactions.KINDS if kind not in reactions.ON_COLLECTOR]
    text = "".join(f"{kind} = high\n" for kind in kinds)
    with pytest.raises(ConfigErrors) as raised:
        _read(text, collector=True)
    assert [error.key for error in raised.value.errors] == kinds
    assert "other hosts'" in str(raised.value)


def test_a_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "reactions.conf"
    path.write_text("dry_run = no\n")
    path.chmod(0o664)
    with pytest.raises(ConfigError, match="can be written by"):
        reactions.read(path)
    path.chmod(0o644)
    assert not reactions.read(path).dry_run


def test_a_kind_has_its_nearest() -> None:
    assert reactions.kind("notify") == "notify"
    with pytest.raises(ValueError, match="did you mean 'kill_process'"):
        reactions.kind("kill_proces")


SHIPPED = """# as audit-userspace 4.2 ships it
option_origin_failed_logins_threshold = 6
option_origin_failed_logins_reaction = block_address
option_session_badness1_threshold = 8
option_session_badness1_reaction = block_address
option_service_login_allowed = 0
option_service_login_weight = 7
option_root_login_allowed = 0
option_root_login_weight = 7
option_bad_login_weight = 1
block_address_time = 12h
lock_account_time = 20m
"""


def test_upstream_s_shipped_file() -> None:
    conf = ids.from_bytes(SHIPPED.encode(), Path("/etc/audit/ids.conf"))
    assert (conf.origin_threshold, conf.session_threshold, conf.root_login_weight) == (6, 8, 7)
    assert (conf.block_address_time, conf.lock_account_time) == (12 * 3600, 20 * 60)
    assert ids.kinds(conf.session_reaction) == ("block_address",)


def test_upstream_s_defaults() -> None:
    conf = ids.from_bytes(b"", Path("ids.conf"))
    assert (conf.origin_threshold, conf.bad_login_weight, conf.session_reaction) == (8, 1, ("term_session",))


def test_every_word_of_upstream_s_is_mapped_or_refused() -> None:
    known = {"ignore", "log", "email", "term_process", "term_session", "restrict_role", "password_reset"}
    known |= {"lock_account_timed", "lock_account", "block_address_timed", "block_address"}
    known |= {"system_reboot", "system_single_user", "system_halt"}
    assert {*ids.REACTIONS, *ids.REFUSED} == known
    assert not ids.REACTIONS.keys() & ids.REFUSED.keys()
    assert {kind for kind in ids.REACTIONS.values() if kind} <= set(reactions.KINDS)
    assert ids.kinds(("log", "email", "lock_account", "lock_account_timed")) == ("notify", "lock_account")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("option_session_badness1_reaction = system_halt", "take the host down"),
        ("option_session_badness1_reaction = log,password_reset", "choose the new password"),
        ("option_session_badness1_reaction = block_adress", "did you mean 'block_address'?"),
        ("option_session_badness1_reaction = ,", "names no reaction"),
        ("option_root_login_allowed = 2", "neither 0 nor 1"),
        ("option_bad_login_wieght = 2", "did you mean 'option_bad_login_weight'?"),
        ("block_address_time = 12x", "not a whole number"),
    ],
)
def test_what_is_wrong_in_ids_conf(line: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        ids.from_bytes(f"{line}\n".encode(), Path("ids.conf"))
    assert said in str(raised.value)
    assert str(raised.value).startswith("ids.conf:1: ")


def test_words_and_commas() -> None:
    assert ids.reactions(("log,", "EMAIL,log")) == ("log", "email")
