"""What a request for a file is answered with."""

import pytest

from moongate.agent.sites.answers import Asked, Decision, content_type, decide, facts_of, file_head

FACTS = facts_of("page.html", 1000, 1_700_000_000_500_000_000)
DATE = b"Tue, 14 Nov 2023 22:13:20 GMT"
EARLIER = b"Tue, 14 Nov 2023 22:13:19 GMT"
LATER = b"Tue, 14 Nov 2023 22:13:21 GMT"
WHOLE = Decision(200, 0, 1000)
UNCHANGED = Decision(304, 0, 0)
FAILED = Decision(412, 0, 0)


@pytest.mark.parametrize(
    ("asked", "decision"),
    [
        (Asked(), WHOLE),
        (Asked(if_none_match=FACTS.etag), UNCHANGED),
        (Asked(if_none_match=b"W/" + FACTS.etag), UNCHANGED),
        (Asked(if_none_match=b'"other", ' + FACTS.etag), UNCHANGED),
        (Asked(if_none_match=b"*"), UNCHANGED),
        (Asked(if_none_match=b'"other"'), WHOLE),
        (Asked(if_none_match=b'"other"', if_modified_since=DATE), WHOLE),
        (Asked(if_modified_since=DATE), UNCHANGED),
        (Asked(if_modified_since=LATER), UNCHANGED),
        (Asked(if_modified_since=EARLIER), WHOLE),
        (Asked(if_modified_since=b"Tuesday, 14-Nov-23 22:13:20 GMT"), UNCHANGED),
        (Asked(if_modified_since=b"Tue Nov 14 22:13:20 2023"), UNCHANGED),
        (Asked(if_modified_since=b"yesterday"), WHOLE),
        (Asked(if_match=FACTS.etag), WHOLE),
        (Asked(if_match=b"*"), WHOLE),
        (Asked(if_match=b'"other"'), FAILED),
        (Asked(if_match=b"W/" + FACTS.etag), FAILED),
        (Asked(if_unmodified_since=DATE), WHOLE),
        (Asked(if_unmodified_since=EARLIER), FAILED),
        (Asked(if_unmodified_since=b"yesterday"), WHOLE),
        (Asked(if_match=FACTS.etag, if_unmodified_since=EARLIER), WHOLE),
    ],
)
def test_conditions_are_judged_in_their_order(asked: Asked, decision: Decision) -> None:
    assert decide(b"GET", asked, FACTS) == decision
    assert decide(b"HEAD", asked, FACTS) == decision


@pytest.mark.parametrize(
    ("asked", "decision"),
    [
        (Asked(range=b"bytes=0-0"), Decision(206, 0, 1)),
        (Asked(range=b"bytes=0-"), Decision(206, 0, 1000)),
        (Asked(range=b"BYTES= 990-2000 "), Decision(206, 990, 1000)),
        (Asked(range=b"bytes=-1"), Decision(206, 999, 1000)),
        (Asked(range=b"bytes=-5000"), Decision(206, 0, 1000)),
        (Asked(range=b"bytes=1000-"), Decision(416, 0, 0)),
        (Asked(range=b"bytes=-0"), Decision(416, 0, 0)),
        (Asked(range=b"bytes=5-1"), WHOLE),
        (Asked(range=b"bytes=-"), WHOLE),
        (Asked(range=b"bytes=0-1,5-6"), WHOLE),
        (Asked(range=b"bytes=+1-2"), WHOLE),
        (Asked(range=b"bytes=1" + b"0" * 30 + b"-"), WHOLE),
        (Asked(range=b"lines=0-1"), WHOLE),
        (Asked(range=b"0-1"), WHOLE),
        (Asked(range=b"bytes=0-1", if_range=FACTS.etag), Decision(206, 0, 2)),
        (Asked(range=b"bytes=0-1", if_range=DATE), Decision(206, 0, 2)),
        (Asked(range=b"bytes=0-1", if_range=LATER), WHOLE),
        (Asked(range=b"bytes=0-1", if_range=b"W/" + FACTS.etag), WHOLE),
        (Asked(range=b"bytes=0-1", if_range=b'"other"'), WHOLE),
        (Asked(range=b"bytes=0-1", if_none_match=FACTS.etag), UNCHANGED),
    ],
)
def test_a_part_is_answered_where_one_part_can_be(asked: Asked, decision: Decision) -> None:
    assert decide(b"GET", asked, FACTS) == decision


def test_only_get_has_parts() -> None:
    assert decide(b"HEAD", Asked(range=b"bytes=0-1"), FACTS) == WHOLE


def test_heads_say_what_their_status_asks_for() -> None:
    assert file_head(Decision(206, 10, 20), FACTS).split(b"\r\n")[:4] == [
        b"HTTP/1.1 206 Partial Content",
        b"Content-Type: text/html; charset=utf-8",
        b"Content-Length: 10",
        b"Content-Range: bytes 10-19/1000",
    ]
    assert b"Content-Range: bytes */1000\r\n" in file_head(Decision(416, 0, 0), FACTS)
    assert b"Content-" not in file_head(UNCHANGED, FACTS)
    assert b"ETag: " + FACTS.etag in file_head(UNCHANGED, FACTS)
    assert b"Last-Modified: " + DATE in file_head(WHOLE, FACTS)


def test_a_file_that_changed_within_a_second_has_another_tag() -> None:
    assert facts_of("a", 1, 1_700_000_000_000_000_001).etag != facts_of("a", 1, 1_700_000_000_000_000_002).etag


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("index.html", b"text/html; charset=utf-8"),
        ("A.CSS", b"text/css; charset=utf-8"),
        ("app.js", b"text/javascript; charset=utf-8"),
        ("module.mjs", b"text/javascript; charset=utf-8"),
        ("data.json", b"application/json"),
        ("app.wasm", b"application/wasm"),
        ("font.woff2", b"font/woff2"),
        ("picture.svg", b"image/svg+xml"),
        ("archive.tar.gz", b"application/gzip"),
        ("archive.tar.xz", b"application/x-xz"),
        ("page.html.br", b"application/octet-stream"),
        ("README", b"application/octet-stream"),
        ("folder.html/README", b"application/octet-stream"),
        ("data:text/html,x", b"application/octet-stream"),
        ("http://x.html/y.txt", b"text/plain; charset=utf-8"),
    ],
)
def test_types_are_told_by_names(name: str, expected: bytes) -> None:
    assert content_type(name) == expected
