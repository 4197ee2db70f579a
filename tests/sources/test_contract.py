from __future__ import annotations

import pytest

from audisp.errors import ConfigError
from audisp.sources.contract import SourceBooks, SourceSpec, parse_source


@pytest.mark.parametrize(
    "text", ["netlink", "multicast", "stdin", "internal", "unix:/run/a b", "file:x.log", "file:a:b", "follow:/v/a.log"]
)
def test_a_source_is_read_and_written_alike(text: str) -> None:
    assert str(parse_source(text)) == text


def test_type_and_path_are_told_apart() -> None:
    assert parse_source(" unix:/run/audit/audispd_events ") == SourceSpec("unix", "/run/audit/audispd_events")
    assert parse_source("netlink") == SourceSpec("netlink")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("netlnk", "did you mean netlink?"),
        ("unx:/run/x", "did you mean unix:PATH?"),
        ("Stdin", "did you mean stdin?"),
        ("/v/audit.log", "follow:/v/audit.log, file:/v/audit.log or unix:/v/audit.log"),
        ("folow:/x", "did you mean follow:PATH?"),
        ("zzz", "use one of netlink, multicast, stdin, internal, unix:PATH, file:PATH, follow:PATH"),
        ("", "use one of"),
        ("stdin:/x", "stdin takes no path"),
        ("netlink:", "netlink takes no path"),
        ("unix", "write unix:PATH"),
        ("file:", "write file:PATH"),
        ("file:-", "write stdin"),
        ("follow:", "write follow:PATH"),
        ("follow:audit.log", "must be absolute"),
        ("follow:/var/log/audit/", "and a file's"),
        ("file:a\0b", "not printable"),
        ("file:a\nb", "not printable"),
        ("file:\udcff", "not printable"),
        ("unix:/run/\u202eb", "not printable"),
        ("unix:run/x", "must be absolute"),
        ("unix:/" + "é" * 54, "longer than 107 bytes"),
    ],
)
def test_what_is_no_source_is_answered_with_the_nearest_that_is(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"^source: ") as caught:
        parse_source(text)
    assert said in str(caught.value)


def test_books_balance_by_construction() -> None:
    books = SourceBooks("stdin", "live")
    books.count_routed(10, 1000)
    books.count_rejected(3)
    books.count("unterminated")
    books.count("unterminated", 2)
    assert (books.received, books.routed, books.rejected, books.bytes) == (13, 10, 3, 1000)
    assert books.counters == {"unterminated": 3}
