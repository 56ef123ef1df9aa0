"""Whatever a directory answers, the order fails with a reason that names it; nothing else comes out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moongate.net.acme.client import AcmeClient, OrderFailed
from moongate.net.acme.store import AcmeStore
from testbed import free_port
from testbed.origin import Origin, Request

NAME = "shop.example.test"
NONCE = {"Replay_Nonce": "oFvnlFP1wIhRlYS2jTaXbA"}
Says = Callable[[Request], None]


def _text(body: bytes, *, status: int = 200, **headers: str) -> Says:
    return lambda request: request.say(body, status=status, **headers)


def _json(document: Any, *, status: int = 200, **headers: str) -> Says:
    return _text(json.dumps(document).encode(), status=status, Content_Type="application/json", **NONCE, **headers)


def _refusal(kind: str, status: int = 400) -> Says:
    return _json({"type": f"urn:ietf:params:acme:error:{kind}", "detail": f"because\n{kind}"}, status=status)


def _order(**members: Any) -> Says:
    members = {
        "status": "pending",
        "identifiers": [],
        "authorizations": ["/authorization"],
        "finalize": "/f",
        **members,
    }
    return _json(members, status=201, Location="/order")


def order_at(home: Path, says: dict[str, Says], kind: Any = "http-01") -> OrderFailed:
    """Order at a directory that answers well except where the test says otherwise."""

    def answer(request: Request) -> None:
        base = f"http://127.0.0.1:{origin.port}"
        names = ("newNonce", "newAccount", "newOrder")
        usual: dict[str, Says] = {
            "/dir": _json({name: f"{base}/{name}" for name in names}),
            "/newNonce": _text(b"", status=204, **NONCE),
            "/newAccount": _json({"status": "valid"}, status=201, Location=f"{base}/account"),
            "/newOrder": _order(authorizations=[f"{base}/authorization"]),
        }
        request.rfile.read(int(request.headers.get("Content-Length", "0")))
        {**usual, **says}.get(request.path, _text(b"", status=404))(request)

    with Origin(answer) as origin:
        directory = f"http://127.0.0.1:{origin.port}/dir"
        client = AcmeClient(directory, AcmeStore(home, directory), email=None, ca_file=None, user_agent="test")
        try:
            with pytest.raises(OrderFailed) as failed:
                client.begin(NAME, kind)
        finally:
            client.close()
    assert directory in failed.value.message
    assert "\n" not in failed.value.message
    return failed.value


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"7", b'{"newNonce": 1}', b'{"meta": 1}', b"\xff\xfe"])
def test_what_is_no_directory_is_said_to_be_none(home: Path, body: bytes) -> None:
    failure = order_at(home, {"/dir": _text(body, Content_Type="application/json")})
    assert "did not answer as RFC 8555 says" in failure.message
    assert "acme.directory" in failure.hint


@pytest.mark.parametrize(
    "says",
    [
        {"/newNonce": _text(b"", status=204)},
        {"/newNonce": _text(b"", status=204, Replay_Nonce="*")},
        {"/newNonce": _text(b"", status=500)},
        {"/newAccount": _text(b"<html>", status=201)},
        {"/newAccount": _json([], status=201, Location="/account")},
        {"/newOrder": _text(b"", status=201)},
        {"/newOrder": _json(None, status=201)},
        {"/newOrder": _json({"status": "strange"}, status=201)},
        {"/newOrder": _order(authorizations=[])},
        {"/newOrder": _order(authorizations=None)},
        {"/newOrder": _order(authorizations=[7])},
        {"/authorization": _json([])},
        {"/authorization": _json({"identifier": {"type": "dns", "value": NAME}, "challenges": 1})},
        {"/authorization": _json({"identifier": {"type": "dns", "value": NAME}, "challenges": [{}]})},
    ],
)
def test_answers_that_make_no_sense_fail_the_order(home: Path, says: dict[str, Says]) -> None:
    assert order_at(home, says).message


@pytest.mark.parametrize("token", [None, 7, "", "../../etc/passwd", "a b", "x" * 600, "Ü"])
def test_a_token_that_could_be_a_path_is_not_taken(home: Path, token: object) -> None:
    challenge = {"type": "tls-alpn-01", "url": "/challenge", "token": token}
    body = {"identifier": {"type": "dns", "value": NAME}, "status": "pending", "challenges": [challenge]}
    assert order_at(home, {"/authorization": _json(body)}, "tls-alpn-01").message


@pytest.mark.parametrize(
    "kind", ["rejectedIdentifier", "malformed", "serverInternal", "badNonce", "accountDoesNotExist"]
)
def test_a_refusal_is_told_in_the_authoritys_words(home: Path, kind: str) -> None:
    failure = order_at(home, {"/newOrder": _refusal(kind)})
    assert failure.message.endswith(f"refused: because {kind}")
    assert not failure.limited


def test_an_authority_that_was_asked_too_often_is_told_apart(home: Path) -> None:
    assert order_at(home, {"/newOrder": _refusal("rateLimited", 429)}).limited


def test_a_directory_for_known_customers_only_is_told_apart(home: Path) -> None:
    document = {"newNonce": "/n", "newAccount": "/a", "newOrder": "/o", "meta": {"externalAccountRequired": True}}
    assert "external account binding" in order_at(home, {"/dir": _json(document)}).message


def test_a_directory_that_is_not_there_is_named(home: Path) -> None:
    directory = f"http://127.0.0.1:{free_port()}/dir"
    client = AcmeClient(directory, AcmeStore(home, directory), email=None, ca_file=None, user_agent="test")
    with pytest.raises(OrderFailed, match=f"{directory} cannot be reached: .*refused"):
        client.begin(NAME, "http-01")
