import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from moongate.api.answers import timestamp, to_json
from moongate.api.edge.diffs import compare_headers
from moongate.api.edge.events import sse

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
CONTENT = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
)


@given(CONTENT)
def test_whatever_text_strangers_sent_comes_back_from_the_json(content: Any) -> None:
    encoded = to_json(content)
    assert json.loads(encoded.decode("utf-8")) == content


def test_half_a_surrogate_pair_does_not_break_an_answer() -> None:
    assert json.loads(to_json({"path": "/\udc80"}).decode("utf-8")) == {"path": "/\udc80"}


@given(st.dictionaries(TEXT, TEXT))
def test_an_event_is_always_one_line_of_data(data: dict[str, str]) -> None:
    lines = sse("request", data).split(b"\n")
    assert lines[0] == b"event: request"
    assert lines[2:] == [b"", b""]
    assert json.loads(lines[1].removeprefix(b"data: ")) == data


def test_times_are_whole_seconds_in_utc() -> None:
    assert timestamp(1_780_315_200.9) == "2026-06-01T12:00:00Z"


HEADERS = st.lists(st.tuples(st.sampled_from([b"a", b"A", b"b", b"cookie"]), st.sampled_from([b"1", b"2"])))


@given(HEADERS, HEADERS)
def test_headers_compared_with_themselves_are_equal_and_no_secret_is_ever_shown(
    one: list[tuple[bytes, bytes]], two: list[tuple[bytes, bytes]]
) -> None:
    assert compare_headers(one, one) == {"added": {}, "removed": {}, "changed": {}}
    difference = compare_headers(one, two)
    for part in ("added", "removed"):
        assert set(difference[part].get("cookie", [])) <= {"***"}
    changed = difference["changed"].get("cookie", {"recorded": [], "new": []})
    assert set(changed["recorded"] + changed["new"]) <= {"***"}
