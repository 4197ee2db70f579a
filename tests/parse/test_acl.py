"""The list of clients: lines that are right and wrong, who is known by it, and time that does not grow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.parse.acl import ACL_LINE, MAX_ACL_ERRORS, SEPARATORS, Access, AccessList, parse_acl
from audisp.parse.psk import check_identity

UPSTREAM = b"""\
# who may connect
web1.example.com enabled
web2.example.com  DISABLED\tsince the move
\tdb1 Enabled key=not/a/path is a note
*.example.com enabled
web3 enabled # no comment, a note
web4 enabled key=/etc/audit/keys/web4
"""


def acl(text: bytes) -> AccessList:
    found, errors, _ = parse_acl(text, "acl")
    assert errors == []
    return found


def errors_of(text: bytes) -> list[str]:
    return [str(error) for error in parse_acl(text, "acl")[1]]


def test_upstreams_lines() -> None:
    found = acl(UPSTREAM)
    assert [(entry.name, entry.enabled, entry.key) for entry in found.entries] == [
        (b"web1.example.com", True, None),
        (b"web2.example.com", False, None),
        (b"db1", True, None),
        (b"*.example.com", True, None),
        (b"web3", True, None),
        (b"web4", True, b"/etc/audit/keys/web4"),
    ]
    assert found.suffixes == {}
    assert found.find(b"web9.example.com") is None
    assert found.find(b"*.example.com") == Access(b"*.example.com", 0, True, None)


def test_a_name_that_looks_like_a_suffix_is_told() -> None:
    _, errors, notices = parse_acl(UPSTREAM, "acl")
    assert errors == []
    assert notices == ["acl:5: '*.example.com' is one identity of that name; for all with this ending add match=suffix"]


@pytest.mark.parametrize("text", [b"", b"\n\n", b"# nobody\n", b"a disabled\n", b"  \t \n"])
def test_nobody(text: bytes) -> None:
    found = acl(text)
    assert not any(entry.enabled for entry in found.entries)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a", "acl:1: the status of 'a' is missing: enabled or disabled"),
        (b"a on", "acl:1: 'on' is no status: enabled or disabled"),
        (b"a enabled\nb enabled\r\n", "acl:2: the line ends with CR LF: save with LF line ends"),
        (b" # b", "acl:1: 'b' is no status: enabled or disabled"),
        ("ä enabled".encode(), "acl:1: identity 'ä': character 1 is not a printable ASCII character other than space"),
        (b"a\x1b[2J enabled", "acl:1: identity 'a\\x1b[2J': character 2 is not a printable"),
        (b"a" * 256 + b" enabled", "acl:1: an identity has at most 255 characters, this has 256"),
        (b"a enabled\na disabled", "acl:2: 'a' is in line 1 already; for a second key of the same host write NAME#1"),
        (b"a enabled key=/k\nb enabled key=/k", "acl:2: its key file is that of line 1: each identity needs a key"),
        (b"a enabled key=/k more", "acl:1: nothing may follow 'key=' on the line, but 'more' does"),
        (b"*.b enabled match=suffix more", "acl:1: nothing may follow 'match=suffix' on the line, but 'more' does"),
        (b"a enabled " + b"n" * ACL_LINE, "acl:1: the line is 520 bytes long, 510 at most"),
        (b".b.c enabled match=suffix", "acl:1: '.b.c' has match=suffix, and so must begin with '*'"),
        (b"* enabled match=suffix", "acl:1: '*': behind the '*' there must be one of . - _ : @ / + and then at least"),
        (b"*. enabled match=suffix", "acl:1: '*.': behind the '*' there must be one of"),
        (b"*b.c enabled match=suffix", "acl:1: '*b.c': behind the '*' there must be one of"),
        (b"**.b enabled match=suffix", "acl:1: '**.b': behind the '*' there must be one of"),
        (b"*.b#2 enabled match=suffix", "acl:1: '*.b#2': a suffix stands for hosts, and has no epoch"),
        (b"*.b enabled match=suffix\n*.b disabled match=suffix", "acl:2: '*.b' is in line 1 already"),
    ],
)
def test_what_is_no_line(text: bytes, message: str) -> None:
    (error,) = errors_of(text)
    assert error.startswith(message)


def test_all_that_is_wrong_is_told_up_to_a_bound() -> None:
    assert len(errors_of(b"a\nb on\nc enabled\nc enabled\n")) == 3
    many = errors_of(b"nonsense\n" * 10_000)
    assert len(many) == MAX_ACL_ERRORS + 1
    assert many[-1] == f"acl:{MAX_ACL_ERRORS + 1}: too many errors, the rest is not shown"


HOSTS = b"""\
web1 enabled key=/k/web1
web1#2 enabled key=/k/web1.2
web2 disabled
web2#2 enabled
web3 enabled
web3#1 disabled
rack#2 enabled
*.dmz.example.com enabled match=suffix
*.old.dmz.example.com disabled match=suffix
bad.dmz.example.com disabled
good.old.dmz.example.com enabled
own.dmz.example.com enabled key=/k/own
new.dmz.example.com#3 enabled key=/k/new
*@paris enabled match=suffix
"""


@pytest.mark.parametrize(
    ("identity", "access"),
    [
        (b"web1", Access(b"web1", 0, True, b"/k/web1")),
        (b"web1#2", Access(b"web1", 2, True, b"/k/web1.2")),
        (b"web1#3", Access(b"web1", 3, True, None)),
        (b"web1#02", None),
        (b"web2", Access(b"web2", 0, False, None)),
        (b"web2#1", Access(b"web2", 1, False, None)),
        (b"web2#2", Access(b"web2", 2, False, None)),
        (b"web3#1", Access(b"web3", 1, False, None)),
        (b"web3#2", Access(b"web3", 2, True, None)),
        (b"rack#2", Access(b"rack#2", 0, True, None)),
        (b"rack", None),
        (b"rack#3", None),
        (b"a.dmz.example.com", Access(b"a.dmz.example.com", 0, True, None)),
        (b"a.b.dmz.example.com#7", Access(b"a.b.dmz.example.com", 7, True, None)),
        (b"admz.example.com", None),
        (b"dmz.example.com", None),
        (b".dmz.example.com", None),
        (b"a.DMZ.example.com", None),
        (b"a.dmz.example.com.", None),
        (b"a.old.dmz.example.com", Access(b"a.old.dmz.example.com", 0, False, None)),
        (b"good.old.dmz.example.com", Access(b"good.old.dmz.example.com", 0, False, None)),
        (b"bad.dmz.example.com", Access(b"bad.dmz.example.com", 0, False, None)),
        (b"bad.dmz.example.com#1", Access(b"bad.dmz.example.com", 1, False, None)),
        (b"own.dmz.example.com", Access(b"own.dmz.example.com", 0, True, b"/k/own")),
        (b"own.dmz.example.com#1", Access(b"own.dmz.example.com", 1, True, None)),
        (b"new.dmz.example.com#3", Access(b"new.dmz.example.com", 3, True, b"/k/new")),
        (b"new.dmz.example.com", Access(b"new.dmz.example.com", 0, True, None)),
        (b"17@paris", Access(b"17@paris", 0, True, None)),
        (b"*.dmz.example.com", Access(b"*.dmz.example.com", 0, True, None)),
        (b"", None),
    ],
)
def test_who_is_known(identity: bytes, access: Access | None) -> None:
    assert acl(HOSTS).find(identity) == access


NAMES = st.text(alphabet="ab.@#12*", min_size=1, max_size=8).map(str.encode)
ROWS = st.tuples(NAMES, st.sampled_from(["enabled", "disabled"]), st.sampled_from(["", " match=suffix", " a note"]))


@given(st.lists(ROWS, max_size=8), NAMES)
def test_disabled_wins_and_nobody_is_let_in_by_chance(rows: list[tuple[bytes, str, str]], identity: bytes) -> None:
    found, errors, _ = parse_acl(b"".join(b"%s %s%s\n" % (n, s.encode(), e.encode()) for n, s, e in rows), "acl")
    access = found.find(identity)
    if errors or access is None or not access.enabled:
        return
    hosts = {identity, access.host}
    admitting = [
        entry
        for entry in found.entries
        if (entry.name in hosts and not entry.suffix)
        or (entry.suffix and access.host.endswith(entry.name) and access.host != entry.name)
    ]
    assert admitting
    assert all(entry.enabled for entry in admitting)
    assert identity in (access.host, b"%s#%d" % (access.host, access.epoch))
    check_identity(access.host)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_list_or_errors(data: bytes) -> None:
    found, errors, _ = parse_acl(data, "acl")
    for entry in found.entries:
        check_identity(entry.name)
    assert errors or all(found.find(entry.name) for entry in found.entries if not entry.suffix)


def test_many_suffixes_and_long_identities_are_looked_up_in_few_steps() -> None:
    class Counting(dict[bytes, object]):
        asked = 0

        def get(self, key: bytes, default: object = None) -> object:
            Counting.asked += 1
            return super().get(key, default)

    found = acl(b"".join(b"*.%d.example.com enabled match=suffix\n" % at for at in range(20_000)))
    counted = AccessList(found.exact, Counting(found.suffixes))  # type: ignore[arg-type]
    assert counted.find(b"a.19999.example.com") is not None
    assert counted.find(SEPARATORS * 36) is None
    assert Counting.asked <= 3 + 255
