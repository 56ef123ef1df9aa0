"""Recorded exchanges: what people may see of them."""

import json
from base64 import b64encode
from typing import Any

import pytest

from auditing import make_capture
from moongate.audit.exchanges import MASK, is_secret


def shown(body: str, **members: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(make_capture(**members).public()[body])
    return found


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "Proxy-Authorization",
        "Cookie",
        "Set-Cookie",
        "X-Api-Key",
        "X-Auth-Token",
        "X-Amz-Security-Token",
        "x-csrf-token",
        "Cf-Access-Jwt-Assertion",
    ],
)
def test_headers_that_prove_identity_are_masked_however_they_are_spelled(name: str) -> None:
    for spelling in (name, name.lower(), name.upper()):
        headers = [(spelling.encode(), b"hunter2"), (spelling.encode(), b"hunter3")]
        for side in ("request", "response"):
            assert shown(f"{side}_body", **{f"{side}_headers": headers})["headers"] == {name.lower(): [MASK, MASK]}


@pytest.mark.parametrize("name", [b"Host", b"Accept", b"X-Hub-Signature-256", b"ETag", b"Sec-WebSocket-Key"])
def test_other_headers_are_shown(name: bytes) -> None:
    assert not is_secret(name)


def test_names_are_lower_case_and_values_keep_their_order() -> None:
    headers = [(b"Accept", b"a"), (b"X-Y", b"\xfc"), (b"ACCEPT", b"b")]
    assert shown("request_body", request_headers=headers)["headers"] == {"accept": ["a", "b"], "x-y": ["\xfc"]}


def test_a_text_body_is_text_and_another_is_base64() -> None:
    text = shown("response_body", response_body="grüezi".encode())
    assert (text["body"], "encoding" in text, "truncated" in text) == ("grüezi", False, False)
    binary = shown("response_body", response_body=b"\xff\x00")
    assert (binary["body"], binary["encoding"]) == (b64encode(b"\xff\x00").decode(), "base64")


def test_a_cut_body_says_so_and_may_end_inside_a_character() -> None:
    cut = shown("request_body", request_body="aü".encode()[:-1], request_truncated=True)
    assert (cut["body"], cut["truncated"], "encoding" in cut) == ("a", True, False)


def test_nothing_recorded_is_null() -> None:
    empty = make_capture(request_headers=[], request_body=None, response_headers=[], response_body=None).public()
    assert (empty["request_body"], empty["response_body"]) == (None, None)


def test_the_example_of_the_compatibility_document_is_written_exactly_so() -> None:
    document = '{"headers":{"content-type":["application/json"]},"body":"{\\"event\\":\\"push\\"}"}'
    assert make_capture().public()["request_body"] == document
