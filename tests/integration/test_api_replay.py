"""Sending a recorded request again: what is sent, what is refused, and how the two answers are compared."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from api_bed import ApiBed, Sent, api_bed, make_capture
from moongate.audit.exchanges import Capture
from moongate.audit.ids import Ids, id_text
from moongate.errors import LimitExceeded, MoongateError, ProtocolError, RoutingError, UpstreamRefused, UpstreamTimeout

SECRET = b"Bearer of-the-visitor"


class Upstream:
    """What a resending brings; a test sets it."""

    def __init__(self) -> None:
        self.answer: dict[str, Any] = {}
        self.failure: MoongateError | None = None
        self.ids = Ids()

    def __call__(self, sent: Sent) -> Capture:
        if self.failure is not None:
            raise self.failure
        return make_capture(self.ids, sent.tunnel.id, method=sent.method, path=sent.path, **self.answer)


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
async def bed(home: Path, upstream: Upstream) -> AsyncIterator[ApiBed]:
    async with api_bed(home, resend=upstream) as made:
        yield made


async def recorded(bed: ApiBed, **members: Any) -> str:
    """Record a request of a live tunnel; returns the path of its replay."""
    tunnel = await bed.open_tunnel()
    capture = bed.capture(tunnel.id, **members)
    return f"/api/tunnels/{tunnel.id}/replay/{id_text(capture.id)}"


async def test_a_request_is_sent_again_as_it_was_with_its_secrets(bed: ApiBed, upstream: Upstream) -> None:
    upstream.answer = {"status": 202, "response_body": b"ok"}
    headers = [(b"authorization", SECRET), (b"content-type", b"text/plain")]
    path = await recorded(
        bed,
        method="POST",
        path="/hook?x=1",
        status=202,
        request_headers=headers,
        request_body=b"hi",
        response_body=b"ok",
    )
    answer = await bed.client.post(f"{path}?send=true")
    assert answer.status_code == 200
    (sent,) = bed.sent
    assert (sent.method, sent.path, sent.headers, sent.body) == ("POST", "/hook?x=1", headers, b"hi")
    assert sent.remote_address == "127.0.0.1:50000"
    shown = answer.json()
    replay = shown.pop("replay")
    assert shown == (await bed.client.post(path)).json()
    assert (replay["status"], replay["response_bytes"]) == (202, 2)
    assert replay["diff"] == {
        "status": {"recorded": 202, "new": 202, "equal": True},
        "headers": {"added": {}, "removed": {}, "changed": {}},
        "body": {"recorded_bytes": 2, "new_bytes": 2, "equal": True},
    }
    assert SECRET.decode() not in answer.text


async def test_the_difference_names_headers_and_masks_secrets(bed: ApiBed, upstream: Upstream) -> None:
    upstream.answer = {
        "status": 500,
        "response_headers": [(b"Server", b"b"), (b"Set-Cookie", b"session=new"), (b"X-New", b"1"), (b"X-New", b"2")],
        "response_body": b"oh no",
    }
    path = await recorded(
        bed,
        response_headers=[(b"server", b"a"), (b"set-cookie", b"session=old"), (b"etag", b'"1"')],
        response_body=b"fine",
    )
    answer = await bed.client.post(f"{path}?send=true")
    assert answer.json()["replay"]["diff"] == {
        "status": {"recorded": 200, "new": 500, "equal": False},
        "headers": {
            "added": {"x-new": ["1", "2"]},
            "removed": {"etag": ['"1"']},
            "changed": {
                "server": {"recorded": ["a"], "new": ["b"]},
                "set-cookie": {"recorded": ["***"], "new": ["***"]},
            },
        },
        "body": {"recorded_bytes": 4, "new_bytes": 5, "equal": False},
    }
    assert "session=" not in answer.text


@pytest.mark.parametrize(
    ("before", "after", "equal"),
    [
        ({"response_body": b"same"}, {"response_body": b"same"}, True),
        ({"response_body": b"same"}, {"response_body": b"else"}, False),
        (
            {"response_body": b"same", "response_bytes": 9, "response_truncated": True},
            {"response_body": b"same long", "response_bytes": 9},
            None,
        ),
        (
            {"response_body": b"some", "response_bytes": 9, "response_truncated": True},
            {"response_body": b"same long", "response_bytes": 9},
            False,
        ),
        ({"response_body": None, "response_bytes": 4}, {"response_body": None, "response_bytes": 4}, None),
        ({"response_body": None, "response_bytes": 0}, {"response_body": b"", "response_bytes": 0}, True),
    ],
)
async def test_bodies_are_equal_only_where_both_are_known(
    bed: ApiBed, upstream: Upstream, before: dict[str, Any], after: dict[str, Any], equal: bool | None
) -> None:
    upstream.answer = after
    answer = await bed.client.post(f"{await recorded(bed, **before)}?send=true")
    assert answer.json()["replay"]["diff"]["body"]["equal"] is equal


async def test_method_path_headers_and_body_can_be_edited(bed: ApiBed) -> None:
    headers = [(b"Accept", b"a"), (b"Accept", b"b"), (b"X-Drop", b"1"), (b"X-Keep", b"1")]
    path = await recorded(bed, method="GET", path="/old", request_headers=headers)
    edit = {
        "method": "PUT",
        "path": "/new?y=2",
        "headers": {"accept": ["c", "d"], "x-drop": None, "X-Add": " ü "},
        "body": "häm",
    }
    answer = await bed.client.post(f"{path}?send=true", json=edit)
    assert answer.status_code == 200, answer.text
    (sent,) = bed.sent
    assert (sent.method, sent.path, sent.body) == ("PUT", "/new?y=2", "häm".encode())
    assert sent.headers == [(b"X-Keep", b"1"), (b"accept", b"c"), (b"accept", b"d"), (b"X-Add", b"\xfc")]


async def test_a_binary_body_is_given_in_base64(bed: ApiBed) -> None:
    path = await recorded(bed)
    edit = {"body": base64.b64encode(b"\x00\xff").decode(), "encoding": "base64"}
    assert (await bed.client.post(f"{path}?send=true", json=edit)).status_code == 200
    assert bed.sent[0].body == b"\x00\xff"


@pytest.mark.parametrize(
    "members",
    [
        {"request_body": b"begin", "request_bytes": 100_000, "request_truncated": True},
        {"request_body": None, "request_bytes": 5, "request_truncated": True},
        {"request_body": None, "request_bytes": 5},
    ],
)
async def test_a_body_that_was_cut_is_not_sent_unless_the_whole_one_is_given(
    bed: ApiBed, members: dict[str, Any]
) -> None:
    path = await recorded(bed, method="POST", **members)
    refused = await bed.client.post(f"{path}?send=true")
    assert (refused.status_code, list(refused.json())) == (409, ["error"])
    assert bed.sent == []
    assert (await bed.client.post(f"{path}?send=true", json={"body": ""})).status_code == 200
    assert bed.sent[0].body == b""


async def test_nothing_is_sent_through_a_tunnel_that_is_offline(bed: ApiBed) -> None:
    path = await recorded(bed)
    (tunnel,) = bed.parts.routes.tunnels()
    assert tunnel.session is not None
    bed.parts.routes.lost(0.0, tunnel.session)
    held = await bed.client.post(f"{path}?send=true")
    assert (held.status_code, held.json()) == (409, {"error": "tunnel is offline"})
    bed.parts.routes.close(tunnel.id)
    assert (await bed.client.post(f"{path}?send=true")).status_code == 409
    assert (await bed.client.post(path)).status_code == 200


async def test_a_connection_that_was_upgraded_cannot_be_sent_again(bed: ApiBed) -> None:
    path = await recorded(bed, status=101)
    assert (await bed.client.post(f"{path}?send=true")).status_code == 409


@pytest.mark.parametrize(
    "edit",
    [
        b"{",
        b"[]",
        b'"GET"',
        b'{"method": ""}',
        b'{"method": "GE T"}',
        b'{"method": 5}',
        b'{"path": "relative"}',
        b'{"path": "/a b"}',
        b'{"path": "/\\r\\nX: y"}',
        b'{"path": "/\\u0000"}',
        b'{"path": "/\\u00fc"}',
        b'{"headers": []}',
        b'{"headers": {"a b": "x"}}',
        b'{"headers": {"": "x"}}',
        b'{"headers": {"a": 5}}',
        b'{"headers": {"a": "x\\ny: z"}}',
        b'{"headers": {"a": "\\u20ac"}}',
        b'{"headers": {"Host": "elsewhere"}}',
        b'{"headers": {"transfer-encoding": null}}',
        b'{"body": 5}',
        b'{"body": "\\ud800"}',
        b'{"body": "!", "encoding": "base64"}',
        b'{"body": "x", "encoding": "gzip"}',
    ],
)
async def test_an_edit_that_cannot_be_sent_is_refused(bed: ApiBed, edit: bytes) -> None:
    path = await recorded(bed)
    answer = await bed.client.post(f"{path}?send=true", content=edit, headers={"Content-Type": "application/json"})
    assert (answer.status_code, list(answer.json())) == (400, ["error"])
    assert bed.sent == []


@pytest.mark.parametrize("send", ["yes", "1", "", "%00"])
async def test_send_is_true_or_false(bed: ApiBed, send: str) -> None:
    assert (await bed.client.post(f"{await recorded(bed)}?send={send}")).status_code == 400


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (ProtocolError("a header holds a line end"), 400),
        (RoutingError("the tunnel is gone"), 409),
        (LimitExceeded("too many"), 429),
        (UpstreamRefused("127.0.0.1:3000 refused"), 502),
        (UpstreamTimeout("no answer in time"), 504),
    ],
)
async def test_a_resending_that_fails_says_why(
    bed: ApiBed, upstream: Upstream, failure: MoongateError, status: int
) -> None:
    upstream.failure = failure
    answer = await bed.client.post(f"{await recorded(bed)}?send=true")
    assert (answer.status_code, answer.json()) == (status, {"error": failure.message})
