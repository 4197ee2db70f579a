"""What adds up, where, and what comes of it: upstream's models, rules, decay, links."""

from __future__ import annotations

from typing import Any

import pytest

from audisp.detect.actors import account, address, call_of
from audisp.detect.scores import Scores
from audisp.detect.weights import ScoreSettings
from tests.detect.replaying import rule, rules_of
from tests.detect.scoring import Scoring, Stream, fired

HOUR = 3600


# ---- upstream's model of logins ----


@pytest.mark.parametrize(
    ("acct", "res", "extra", "score"),
    [
        ('"bob"', "failed", "", 1),
        ('"bob"', "success", "", 0),
        ('"root"', "success", "", 5),  # upstream: also when it succeeds
        ('"root"', "failed", "", 6),
        ("726F6F74", "failed", "", 6),
        ('"www-data"', "success", "", 5),
        ('"www-data"', "failed", "", 6),
        ("?", "failed", "id=0 ", 6),
        ("?", "success", "id=33 ", 5),
        ('"bob"', "success", "id=33 ", 5),
        ("?", "success", "id=1000 ", 0),
    ],
)
def test_logins_weigh_as_upstream_has_them(acct: str, res: str, extra: str, score: float) -> None:
    scoring = Scoring()
    scoring.feed(Stream().user(0, acct=acct, res=res, extra=extra))
    assert scoring.score("address", "192.0.2.1") == score


def test_what_ids_conf_allows_weighs_nothing() -> None:
    settings = ScoreSettings(root_login_allowed=True, service_login_allowed=True, bad_login_weight=3)
    scoring, stream = Scoring(Scores(settings)), Stream()
    scoring.feed(stream.user(0, acct='"root"', res="success"), stream.user(0, acct='"daemon"', res="success"))
    assert scoring.score("address", "192.0.2.1") == 0
    scoring.feed(stream.user(1, acct='"root"'))
    assert scoring.score("address", "192.0.2.1") == 3


def test_eight_failures_reach_the_threshold_once() -> None:
    scoring, stream = Scoring(), Stream()
    assert scoring.feed(*[stream.user(0) for _ in range(7)]) == []
    (found,) = scoring.feed(stream.user(0), stream.user(0), stream.user(0))
    assert (found.kind, found.key, found.score, found.threshold, found.sure) == ("address", "192.0.2.1", 8, 8, True)
    assert found.event.id.serial == 8
    assert [each.reason for each in found.contributions] == ["login failed"] * 8
    assert [each.event.partition(":")[2] for each in found.contributions] == [str(at) for at in range(1, 9)]


def test_eight_are_eight_if_they_take_ten_minutes_and_not_if_they_take_an_hour() -> None:
    scoring, stream = Scoring(), Stream()
    assert fired(scoring.feed(*[stream.user(at * 75) for at in range(8)])) == [("address", "192.0.2.1")]
    assert not scoring.feed(*[stream.user(at * 500, addr="192.0.2.2") for at in range(8)])


def test_failures_far_apart_do_not() -> None:
    scoring, stream = Scoring(), Stream()
    assert scoring.feed(*[stream.user(at * 8 * HOUR) for at in range(60)]) == []
    assert scoring.score("address", "192.0.2.1") < 2


# ---- upstream's model of behaviour ----


@pytest.mark.parametrize(
    ("key", "score"),
    [
        ('"ids-recon"', 2),
        ('"ids-archive"', 5),
        ('"ids-mkexec"', 4),
        ('"ids-connections"', 6),
        ('"ids-recon-2"', 0),
        ('"my-ids-recon"', 0),
        (b"other\x01ids-recon".hex().upper(), 2),
        (b"ids-archive\x01ids-recon".hex().upper(), 7),
        ("(null)", 0),
    ],
)
def test_exactly_these_keys_weigh(key: str, score: float) -> None:
    scoring = Scoring()
    scoring.feed(Stream().call(0, key=key, ses=5, auid=1000))
    assert scoring.score("session", "5") == score
    assert scoring.score("account", "#1000") == score


@pytest.mark.parametrize(
    ("type_", "body", "score"),
    [
        ("AVC", 'avc:  denied  { read } for  pid=1 comm="x" tclass=file', 2),
        ("AVC", 'avc:  granted  { read } for  pid=1 comm="x" tclass=file', 0),
        ("AVC", 'apparmor="DENIED" operation="open" profile="x" name="/etc/shadow"', 2),
        ("AVC", 'apparmor="STATUS" operation="profile_load" profile="x"', 0),
        ("AVC", 'apparmor="ALLOWED" operation="open" profile="x" name="apparmor="DENIED""', 0),
        ("FANOTIFY", "resp=2 fan_type=1 fan_info=3137 subj_trust=3 obj_trust=5", 12),
        ("FANOTIFY", "resp=1 fan_type=1 fan_info=3137 subj_trust=3 obj_trust=5", 0),
        ("ANOM_LINK", "op=linkat ppid=1 pid=2 res=0", 2),
        ("ANOM_CREAT", "op=sticky_create_fifo res=0", 2),
    ],
)
def test_what_the_kernel_refused_weighs(type_: str, body: str, score: float) -> None:
    scoring = Scoring()
    scoring.feed(Stream().call(0, ses=5, more=f"type={type_} BODY{body}"))
    assert scoring.score("session", "5") == score


@pytest.mark.parametrize("type_", ["ANOM_ABEND", "ANOM_PROMISCUOUS"])
def test_a_crash_counts_for_its_session_without_a_call(type_: str) -> None:
    scoring = Scoring()
    scoring.feed(Stream().record(type_, 'auid=1000 uid=1000 gid=1000 ses=3 pid=9 comm="x" sig=11 res=1', 0))
    assert scoring.score("session", "3") == 2
    # What user space sends under such a name is something else.
    scoring.feed(Stream().record("ANOM_LOGIN_FAILURES", "pid=1 uid=0 auid=1000 ses=3 msg='acct=\"x\" res=failed'", 1))
    assert scoring.score("session", "3") == pytest.approx(2, abs=0.01)


def test_archive_and_mkexec_are_a_threshold_and_reach_the_address() -> None:
    scoring, stream = Scoring(), Stream()
    login = stream.user(0, "USER_START", res="success", ses=5, auid=1000)
    assert scoring.feed(login, stream.call(1, key='"ids-archive"', ses=5, auid=1000)) == []
    assert scoring.score("address", "192.0.2.1") == 0
    found = scoring.feed(stream.call(60, key='"ids-mkexec"', ses=5, auid=1000))
    assert fired(found) == [("session", "5")]
    assert found[0].sure
    assert [each.reason for each in found[0].contributions] == ["audit key ids-archive", "audit key ids-mkexec"]
    assert scoring.score("address", "192.0.2.1") == 2
    # Upstream fires again at each event from then on, and adds each time.
    assert scoring.feed(*[stream.call(61, key='"ids-recon"', ses=5, auid=1000) for _ in range(5)]) == []
    assert scoring.score("address", "192.0.2.1") == 2
    # The account is the session's, by name.
    assert scoring.score("account", "bob") > 8
    assert scoring.score("account", "#1000") == 0


def test_sessions_carry_their_address_over_the_threshold() -> None:
    scoring, stream = Scoring(), Stream()
    for ses in range(1, 5):
        scoring.feed(stream.user(0, "USER_START", res="success", ses=ses, auid=1000))
    found = []
    for ses in range(1, 5):
        found += scoring.feed(*[stream.call(1, key='"ids-recon"', ses=ses, auid=1000) for _ in range(4)])
    assert [each.key for each in found if each.kind == "session"] == ["1", "2", "3", "4"]
    assert fired(found)[-1] == ("address", "192.0.2.1")
    assert found[-1].contributions[-1].reason == "session 4 reached 8"


def test_a_session_and_the_tree_in_it_are_one_matter_to_the_address() -> None:
    scoring, stream = Scoring(), Stream()
    work: dict[str, Any] = {"ses": 5, "auid": 1000, "pid": 7, "ppid": 1}
    scoring.feed(stream.user(0, "USER_START", res="success", ses=5, auid=1000))
    scoring.feed(stream.call(1, argv=["x"], **work))
    found = scoring.feed(*[stream.call(2, key='"ids-archive"', **work) for _ in range(2)])
    assert [kind for kind, _ in fired(found)] == ["session", "tree"]
    assert scoring.score("address", "192.0.2.1") == 2
    # Another tree of the same session neither.
    scoring.feed(stream.call(3, argv=["x"], **work | {"pid": 8}))
    again = [stream.call(4, key='"ids-archive"', **work | {"pid": 8}) for _ in range(2)]
    assert [kind for kind, _ in fired(scoring.feed(*again))] == ["tree"]
    assert scoring.score("address", "192.0.2.1") == 2


# ---- decay, caps, once ----


def test_a_score_halves_in_its_half_life() -> None:
    scoring, stream = Scoring(), Stream()
    scoring.feed(*[stream.user(0) for _ in range(4)])
    for hours, score in ((0, 4), (6, 2), (12, 1), (24, 0.25)):
        assert scoring.score("address", "192.0.2.1", at=hours * HOUR) == score
    scoring.feed(stream.call(0, key='"ids-mkexec"', ses=5))
    assert scoring.score("session", "5", at=HOUR) == 2


def test_it_fires_again_only_after_it_has_been_below_half() -> None:
    scoring, stream = Scoring(), Stream()
    assert len(scoring.feed(*[stream.user(0) for _ in range(8)])) == 1
    # 8 -> 5.6 after three hours; back above 8.
    assert scoring.feed(*[stream.user(3 * HOUR) for _ in range(5)]) == []
    # Two half-lives later it was below 4.
    found = scoring.feed(*[stream.user(16 * HOUR) for _ in range(8)])
    assert fired(found) == [("address", "192.0.2.1")]


def test_a_score_is_capped_so_that_it_can_be_forgotten() -> None:
    scoring, stream = Scoring(), Stream()
    scoring.feed(*[stream.user(0) for _ in range(1000)])
    assert scoring.score("address", "192.0.2.1") == 32
    assert scoring.score("address", "192.0.2.1", at=24 * HOUR) == 2


def test_a_clock_that_was_set_back_does_not_keep_a_score_for_ever() -> None:
    scoring, stream = Scoring(), Stream()
    scoring.feed(*[stream.user(400 * 24 * HOUR) for _ in range(4)])
    scoring.feed(stream.user(0))
    assert scoring.score("address", "192.0.2.1", at=6 * HOUR) == 2.5


def test_events_out_of_order_count_in_full() -> None:
    scoring, stream = Scoring(), Stream()
    scoring.feed(stream.user(30), stream.user(10), stream.user(20))
    assert scoring.score("address", "192.0.2.1") == 3


# ---- rules ----

ID = "s:\n  type: SYSCALL\n  exe|endswith: /{}\ncondition: s"


def rules(*which: tuple[str, str, str]) -> Scoring:
    """Name of a program, level, tags."""
    texts = []
    for name, level, tags in which:
        text = rule(ID.format(name), name=name, level=level)
        if tags:
            text += "tags:\n" + "".join(f"    - {each}\n" for each in tags.split())
        texts.append(text)
    found = rules_of(*texts)
    assert not found.refused, found.refused
    return Scoring(rules=found)


@pytest.mark.parametrize(
    ("level", "score"), [("informational", 0), ("low", 1), ("medium", 2), ("high", 4), ("critical", 8)]
)
def test_a_finding_weighs_by_its_level(level: str, score: float) -> None:
    scoring, stream = rules(("id", level, "")), Stream()
    found = scoring.feed(stream.call(0, ses=5))
    assert scoring.score("session", "5") == score
    assert fired(found) == ([("session", "5")] if level == "critical" else [])


def test_one_rule_is_at_most_twice_its_weight() -> None:
    scoring, stream = rules(("id", "medium", "")), Stream()
    assert scoring.feed(*[stream.call(at, ses=5) for at in range(1000)]) == []
    assert scoring.score("session", "5") == pytest.approx(4, abs=0.25)
    scoring = rules(("id", "high", ""))
    assert len(scoring.feed(*[stream.call(0, ses=5) for _ in range(1000)])) == 1
    assert scoring.score("session", "5") == 8


def test_another_tactic_is_a_bonus_and_two_of_one_rule_are_none() -> None:
    tags = "attack.persistence attack.privilege-escalation attack.t1053"
    scoring, stream = (
        rules(("id", "low", tags), ("ls", "low", "attack.discovery"), ("ps", "low", "attack.discovery")),
        Stream(),
    )
    scoring.feed(stream.call(0, ses=5))
    assert scoring.score("session", "5") == 1
    scoring.feed(stream.call(0, ses=5, exe="/bin/ls"))
    assert scoring.score("session", "5") == 4
    scoring.feed(stream.call(0, ses=5, exe="/bin/ps"))
    assert scoring.score("session", "5") == 5
    (standing,) = [each for each in scoring.scores.standing(scoring.events[0]) if each.kind == "session"]
    assert standing.tactics == ("discovery", "persistence", "privilege-escalation")
    assert "another tactic, discovery" in [each.reason for each in standing.contributions]


def test_trifles_never_make_a_score_sure_and_what_does_is_said_by_itself() -> None:
    names = [f"t{at}" for at in range(8)]
    scoring, stream = rules(*((each, "low", "") for each in names), ("bad", "critical", "")), Stream()
    found = scoring.feed(*[stream.call(0, ses=5, exe=f"/bin/{each}") for each in names])
    assert [(each.kind, each.sure, each.firm) for each in found] == [("session", False, 0)]
    found = scoring.feed(stream.call(0, ses=5, exe="/bin/bad"))
    assert [(each.kind, each.sure, each.firm, each.score) for each in found] == [("session", True, 8, 16)]


def test_keywords_and_medium_rules_are_not_firm() -> None:
    keyword = rules_of(rule("keywords:\n  - /bin/id\ncondition: keywords", name="k", level="critical"))
    assert not keyword.refused
    scoring, stream = Scoring(rules=keyword), Stream()
    (found,) = scoring.feed(stream.call(0, ses=5))
    assert (found.sure, found.firm, found.score) == (False, 0, 8)
    scoring = rules(("id", "medium", ""))
    scoring.feed(stream.call(0, ses=5))
    assert [each.firm for each in scoring.scores.standing(scoring.events[0])] == [0]


def test_the_matchers_scan_and_an_own_one_find_the_same() -> None:
    text = rule(ID.format("id"), name="id", level="high")
    stream = Stream()
    records = [
        stream.user(0, "USER_START", res="success", ses=5, auid=1000),
        *[stream.user(1) for _ in range(8)],
        stream.call(2, key='"ids-archive"', ses=5, auid=1000, argv=["id"]),
        stream.call(3, ses=5, auid=1000, exe="/bin/id"),
    ]
    shared, own = Scoring(rules=rules_of(text)), Scoring(rules=rules_of(text), shared=False)
    found = fired(shared.feed(*records))
    assert [kind for kind, _ in found] == ["address", "session", "tree"]
    assert found == fired(own.feed(*records))
    assert own.detector is not None
    assert own.detector.scan is not None
    assert own.detector.scan.watched is None
    assert shared.scores.save() == own.scores.save()


# ---- whose it is ----


def test_standing_says_whose_an_event_is_and_why() -> None:
    scoring, stream = Scoring(), Stream()
    scoring.feed(
        stream.user(0, "USER_START", res="success", ses=5, auid=1000),
        stream.user(0),
        stream.call(0, key='"ids-archive"', ses=5, auid=1000, argv=["tar"], pid=7, ppid=6),
    )
    found = {each.kind: each for each in scoring.scores.standing(scoring.events[2])}
    assert {kind: each.score for kind, each in found.items()} == {"session": 5, "account": 6, "tree": 5, "address": 1}
    assert found["session"].contributions[0].reason == "audit key ids-archive"
    assert found["session"].id.key == "5"
    assert [each.kind for each in scoring.scores.standing(scoring.events[1])] == ["address"]


def test_two_nodes_and_two_origins_share_no_session_and_one_address() -> None:
    scoring, stream = Scoring(), Stream()
    for node in ("a", "b"):
        scoring.feed(stream.call(0, key='"ids-archive"', ses=5, node=node), *[stream.user(0, node=node)] * 1)
    assert scoring.score("session", "5", node="a") == scoring.score("session", "5", node="b") == 5
    assert scoring.score("address", "192.0.2.1") == 2
    scoring.feed(stream.user(0), origin="other")
    assert scoring.score("address", "192.0.2.1") == 2
    assert scoring.score("address", "192.0.2.1", origin="other") == 1


@pytest.mark.parametrize(
    ("written", "is_"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:201", "192.0.2.1"),
        ("2001:DB8::0:1", "2001:db8::1"),
        (";reboot", None),
        ("192.0.2.1;reboot", None),
        ("fe80::1%;reboot", None),
        ("fe80::1%eth0", None),
        ("3232235777", None),
        ("192.0.2.01", None),
        ("?", None),
        ("", None),
        ("host.example", None),
        ("::", None),
        ("0." * 3 + "0", None),
        ("1" * 5000, None),
    ],
)
def test_an_address_is_what_ipaddress_reads(written: str, is_: str | None) -> None:
    assert address(written) == is_
    scoring = Scoring()
    scoring.feed(Stream().user(0, addr=written or "?"))
    assert [each.id.key for each in scoring.scores.tables["address"]] == ([] if is_ is None else [is_])


@pytest.mark.parametrize(
    ("name", "is_"),
    [
        ("bob", "bob"),
        ("DOM\\bob", "DOM\\bob"),
        ("bob@example.org", "bob@example.org"),
        ("müller", "müller"),
        ("-rf", None),
        ("--help", None),
        ("root --help", None),
        ("(unknown user)", None),
        ("#0", None),
        ("", None),
        ("a\x1b[2J", None),
        ("\udcff", None),
        ("b" * 65, None),
        ("a;reboot,b", None),
    ],
)
def test_an_account_is_what_can_be_one(name: str, is_: str | None) -> None:
    assert account(name) == is_
    scoring = Scoring()
    written = name.encode("utf-8", "surrogateescape").hex().upper() or "?"
    scoring.feed(Stream().user(0, acct=written))
    assert [each.id.key for each in scoring.scores.tables["account"]] == ([] if is_ is None else [is_])
    assert scoring.score("address", "192.0.2.1") == 1


# ---- who may speak for others ----


@pytest.mark.parametrize(
    "head",
    [
        "pid=77 uid=1000 auid=1000 ses=3 msg='",
        "pid=77 uid=1000 uid=0 auid=1000 ses=3 msg='",
        "pid=77 uid=1000 auid=1000 ses=3 subj=a uid=0 msg='",
        "uid=0 pid=77 auid=1000 ses=3 msg='",
        "msg='pid=77 uid=0 auid=1000 ses=3 ",
        "pid=77 uid=0 auid=1000 ses=3 ",
        "",
    ],
)
def test_a_sender_that_is_not_root_speaks_for_nobody_else(head: str) -> None:
    scoring, stream = Scoring(), Stream()
    body = head + 'op=login acct="root" exe="/usr/sbin/sshd" hostname=? addr=192.0.2.1 terminal=ssh res=failed\''
    for type_ in ("USER_LOGIN", "USER_AUTH", "USER_START", "USER_END", "USER_LOGOUT", "SYSTEM_BOOT"):
        scoring.feed(*[stream.record(type_, body, 0) for _ in range(20)])
    assert not list(scoring.scores.tables["address"])
    assert scoring.score("account", "root") == 0
    assert scoring.scores.counts.forged == 120


def test_a_finding_in_a_forged_record_is_its_senders_own() -> None:
    found = rules_of(rule("s:\n  type: USER_LOGIN\n  res: failed\ncondition: s", name="l", level="critical"))
    scoring, stream = Scoring(rules=found), Stream()
    assert fired(scoring.feed(stream.user(0, uid=1000, auid=1000, ses=3, acct='"root"'))) == [("session", "3")]
    assert not list(scoring.scores.tables["address"])
    assert [each.id.key for each in scoring.scores.tables["account"]] == ["#1000"]
    # Root may: the address is to blame, and no account that somebody else was called by.
    assert fired(scoring.feed(stream.user(0, acct='"alice"'))) == [("address", "192.0.2.1")]
    assert scoring.score("account", "alice") == 1


def test_names_inside_the_message_are_not_the_senders() -> None:
    scoring, stream = Scoring(), Stream()
    body = "pid=77 uid=0 auid=1000 ses=3 msg='op=x ses=9 auid=0 acct=\"bob\" addr=192.0.2.1 res=success'"
    scoring.feed(stream.record("USER_START", body, 0), stream.call(1, ses=9, key='"ids-archive"'))
    assert scoring.score("address", "192.0.2.1") == 0
    assert not [each for each in scoring.scores.tables["session"] if each.id.key == "9" and each.address]


def test_what_we_emit_ourselves_does_not_count() -> None:
    found = rules_of(rule("keywords:\n  - reverse\ncondition: keywords", name="k", level="critical"))
    scoring, stream = Scoring(rules=found), Stream()
    body = "text=reverse auid=1000 ses=5 addr=192.0.2.1"
    assert scoring.feed(stream.record("ANOM_ABEND", f"emitter=hids {body}", 0)) == []
    assert [len(table) for table in scoring.scores.tables.values()] == [0, 0, 0, 0]
    # Nobody else can begin so: what does not is counted.
    assert fired(scoring.feed(stream.record("ANOM_ABEND", f"{body} emitter=hids", 0)))


# ---- sessions come and go ----


def opened(stream: Stream) -> list[str]:
    return [
        stream.user(0, "USER_START", res="success", auid=1000, ses=5, pid=70),
        stream.call(1, key='"ids-archive"', ses=5, auid=1000),
    ]


@pytest.mark.parametrize("type_", ["USER_END", "USER_LOGOUT"])
def test_a_session_ends_when_who_opened_it_says_so(type_: str) -> None:
    scoring, stream = Scoring(), Stream()
    scoring.feed(*opened(stream))
    # sudo in the session opens and ends one of the same number.
    sudo: dict[str, Any] = {"acct": '"root"', "res": "success", "ses": 5, "auid": 1000, "pid": 71}
    scoring.feed(stream.user(2, "USER_START", **sudo), stream.user(2, type_, **sudo))
    assert scoring.score("session", "5") == 5
    scoring.feed(stream.user(3, type_, res="success", ses=5, pid=70))
    assert scoring.score("session", "5") == 0
    assert scoring.scores.counts.cleared == 1


@pytest.mark.parametrize("type_", ["SYSTEM_BOOT", "SYSTEM_SHUTDOWN"])
def test_the_systems_start_and_end_clear_its_sessions(type_: str) -> None:
    scoring, stream = Scoring(), Stream()
    scoring.feed(*opened(stream), stream.call(1, key='"ids-archive"', ses=5, node="other"), stream.user(0))
    scoring.feed(
        stream.record(type_, "pid=9 uid=0 auid=4294967295 ses=4294967295 msg=' comm=\"systemd-update-utmp\"'", 2)
    )
    assert scoring.score("session", "5") == 0
    assert scoring.score("session", "5", node="other") == 5
    assert scoring.score("address", "192.0.2.1") == 1


def test_a_number_that_the_kernel_gives_out_anew_is_another_session() -> None:
    scoring, stream = Scoring(), Stream()
    scoring.feed(*opened(stream))
    scoring.feed(
        stream.record("LOGIN", "pid=9 uid=0 old-auid=4294967295 auid=1001 tty=(none) old-ses=4294967295 ses=5 res=1", 2)
    )
    assert scoring.score("session", "5") == 0
    scoring.feed(stream.call(3, key='"ids-connections"', ses=5, auid=1001))
    assert scoring.score("account", "#1001") == 6


def test_a_held_session_is_not_forgotten() -> None:
    scoring, stream = Scoring(), Stream()
    scoring.feed(*opened(stream))
    (session,) = scoring.scores.tables["session"]
    assert scoring.scores.hold(session.id, 1_700_000_000 + 100)
    end: dict[str, Any] = {"res": "success", "ses": 5, "pid": 70}
    scoring.feed(
        stream.user(3, "USER_END", **end),
        stream.record("SYSTEM_BOOT", "pid=9 uid=0 auid=4294967295 ses=4294967295 msg='x'", 4),
        stream.record("LOGIN", "pid=9 uid=0 auid=1001 ses=5 res=1", 5),
    )
    assert scoring.score("session", "5") == 5
    scoring.feed(stream.user(101, "USER_END", **end))
    assert scoring.score("session", "5") == 0


def test_failures_of_su_count_for_the_session_and_the_account_and_are_never_sure() -> None:
    scoring, stream = Scoring(), Stream()
    su = [stream.user(0, "USER_AUTH", addr="?", acct='"root"', ses=5, auid=1000) for _ in range(30)]
    found = scoring.feed(*su)
    assert [(each.kind, each.key, each.sure) for each in found] == [("session", "5", False), ("account", "root", False)]
    # With an address, USER_LOGIN says it again.
    scoring.feed(stream.user(0, "USER_AUTH"))
    assert scoring.score("address", "192.0.2.1") == 0


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in (
        {"origin_threshold": 0},
        {"cap": float("inf")},
        {"max_entities": 1},
        {"max_pairs": 1 << 20},
        {"half_lives": {"address": 1}},
        {"half_lives": {"address": 1, "account": 1, "session": 0, "tree": 1}},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ScoreSettings(**wrong)


# ---- reading ----


@pytest.mark.parametrize(
    ("before", "between"),
    [
        ("success=yes exit=0 a0=3 a1=7f a2=10 a3=0 items=0", "tty=(none)"),
        ("per=400000 success=no exit=-13 a0=3 a1=7f a2=10 a3=0 items=0", "tty=pts0"),
        ("a0=3 a1=7f a2=10 a3=0 items=0", "tty=(none)"),
        ("success=yes exit=0 a0=3 a1=7f a2=10 a3=0 items=0", "tty=(none) new=1"),
    ],
)
@pytest.mark.parametrize("node", ["", "node=web-1 "])
def test_a_call_is_read_in_every_form(before: str, between: str, node: str) -> None:
    line = (
        f"{node}type=SYSCALL msg=audit(1.000:1): arch=c000003e syscall=59 {before} ppid=1 pid=2 auid=3 uid=4 gid=5 "
        f'euid=5 suid=5 fsuid=5 egid=5 sgid=5 fsgid=5 {between} ses=6 comm="x" exe="/bin/x" key=(null)\n'
    )
    forged = f"{node}type=USER msg=audit(1.000:1): pid=9 uid=9 auid=9 ses=9 msg='type=SYSCALL msg={line[:-1]}'\n"
    for raw in (line, forged + line):
        found = call_of(raw.encode())
        assert found == (b"c000003e", b"59", b"1", b"2", b"3", b"4", b"6", b'"/bin/x"')
    assert call_of(forged.encode()) is None


def test_an_account_cannot_talk_its_failures_away() -> None:
    scoring, stream = Scoring(), Stream()
    for acct in ('"res=success\'"', '"bob"'):
        scoring.feed(stream.user(0, "USER_AUTH", addr="?", acct=acct, ses=5, auid=1000))
    assert scoring.score("session", "5") == 2


def test_enriched_format_names_accounts() -> None:
    scoring, stream = Scoring(), Stream()
    login = stream.user(0, acct="?", extra="id=1000 ", res="failed").replace("acct=? ", "")
    scoring.feed(login.replace("\n", '\x1dUID="root" ID="carol"\n'))
    call = stream.call(1, key='"ids-recon"', ses=5, auid=1000)
    scoring.feed(call.replace("\n", '\x1dARCH=x86_64 SYSCALL=execve AUID="carol" UID="www-data"\n'))
    assert scoring.score("account", "carol") == pytest.approx(3, abs=0.01)
    # What a program is called is no enrichment.
    scoring.feed(stream.call(2, key='"ids-recon"', ses=6, auid=1001, exe="/tmp/AUID="))
    assert scoring.score("account", "#1001") == 2
