import pytest

from moongate.errors import BadRequest, ProtocolError
from moongate.wire.http1 import (
    CHUNKED,
    LAST_CHUNK,
    NO_BODY,
    UNTIL_EOF,
    Framing,
    Headers,
    chunk,
    last_chunk,
    response_framing,
    visitor_framing,
    visitor_head,
)

LENGTH_5 = (b"Content-Length", b"5")
TE_CHUNKED = (b"Transfer-Encoding", b"chunked")


@pytest.mark.parametrize(
    ("method", "status", "headers", "framing"),
    [
        (b"GET", 200, [LENGTH_5], 5),
        (b"GET", 200, [(b"content-LENGTH", b" 5\t")], 5),
        (b"GET", 200, [(b"Content-Length", b"0")], 0),
        (b"GET", 200, [LENGTH_5, LENGTH_5], 5),
        (b"GET", 200, [(b"Content-Length", b"5, 5")], 5),
        (b"GET", 200, [TE_CHUNKED], CHUNKED),
        (b"GET", 200, [(b"transfer-encoding", b"Chunked ")], CHUNKED),
        (b"GET", 200, [], UNTIL_EOF),
        (b"POST", 500, [], UNTIL_EOF),
        (b"HEAD", 200, [LENGTH_5], NO_BODY),
        (b"HEAD", 200, [TE_CHUNKED], NO_BODY),
        (b"HEAD", 200, [], NO_BODY),
        (b"GET", 204, [LENGTH_5], NO_BODY),
        (b"GET", 304, [LENGTH_5], NO_BODY),
        (b"GET", 100, [], NO_BODY),
        (b"GET", 101, [], NO_BODY),
        (b"GET", 103, [], NO_BODY),
    ],
)
def test_how_an_answers_body_is_delimited(method: bytes, status: int, headers: Headers, framing: Framing) -> None:
    assert response_framing(method, status, headers) == framing


@pytest.mark.parametrize(
    "headers",
    [
        [LENGTH_5, (b"content-length", b"6")],
        [(b"Content-Length", b"5, 6")],
        [(b"Content-Length", b"5,")],
        [(b"Content-Length", b"")],
        [(b"Content-Length", b"+5")],
        [(b"Content-Length", b"0x5")],
        [(b"Content-Length", b"9" * 19)],
        [TE_CHUNKED, LENGTH_5],
        [LENGTH_5, TE_CHUNKED],
        [TE_CHUNKED, TE_CHUNKED],
        [(b"Transfer-Encoding", b"gzip, chunked")],
        [(b"Transfer-Encoding", b"gzip")],
        [(b"Transfer-Encoding", b"identity")],
        [(b"Transfer-Encoding", b"")],
        [(b"tRANSFER-eNCODING", b"xchunked")],
    ],
)
@pytest.mark.parametrize(("method", "status"), [(b"GET", 200), (b"HEAD", 200), (b"GET", 304)])
def test_an_answer_that_two_could_cut_differently_is_refused(method: bytes, status: int, headers: Headers) -> None:
    with pytest.raises(ProtocolError) as refused:
        response_framing(method, status, headers)
    assert not isinstance(refused.value, BadRequest)  # it is not the visitor who sent it


@pytest.mark.parametrize(("version", "headers"), [("1.0", [TE_CHUNKED]), ("2.0", []), ("0.9", [])])
def test_an_answer_in_a_version_that_cannot_say_this_is_refused(version: str, headers: Headers) -> None:
    with pytest.raises(ProtocolError):
        response_framing(b"GET", 200, headers, version)


def test_each_visitor_is_told_the_end_of_a_body_in_words_it_knows() -> None:
    assert visitor_framing(CHUNKED, "1.1") == CHUNKED
    assert visitor_framing(CHUNKED, "1.0") == UNTIL_EOF
    assert visitor_framing(UNTIL_EOF, "1.1") == CHUNKED
    assert visitor_framing(UNTIL_EOF, "1.0") == UNTIL_EOF
    assert [visitor_framing(5, "1.0"), visitor_framing(NO_BODY, "1.0"), visitor_framing(0, "1.1")] == [5, NO_BODY, 0]


def answer(
    *headers: tuple[bytes, bytes],
    status: int = 200,
    reason: bytes = b"OK",
    version: str = "1.1",
    framing: Framing = 5,
    close: bool = False,
    upgrade: bool = False,
) -> list[bytes]:
    """Return the lines of the head that the visitor gets."""
    head = visitor_head(status, reason, list(headers), version=version, framing=framing, close=close, upgrade=upgrade)
    assert head.endswith(b"\r\n\r\n")
    return head.removesuffix(b"\r\n\r\n").split(b"\r\n")


def test_an_answers_end_to_end_fields_keep_case_order_and_bytes() -> None:
    lines = answer((b"x-LOWER", b"\xff 1 "), LENGTH_5, (b"Set-Cookie", b"a"), (b"Set-Cookie", b"b"), (b"host", b"x"))
    assert lines == [
        b"HTTP/1.1 200 OK",
        b"x-LOWER: \xff 1 ",
        b"Content-Length: 5",
        b"Set-Cookie: a",
        b"Set-Cookie: b",
        b"host: x",
    ]


@pytest.mark.parametrize(
    "name",
    [
        b"Connection",
        b"Keep-Alive",
        b"Proxy-Connection",
        b"Proxy-Authenticate",
        b"TE",
        b"Trailer",
        b"Transfer-Encoding",
        b"Upgrade",
        b"kEEP-aLIVE",
    ],
)
def test_an_answers_hop_by_hop_fields_stay_behind(name: bytes) -> None:
    assert answer((name, b"x"), LENGTH_5) == [b"HTTP/1.1 200 OK", b"Content-Length: 5"]


@pytest.mark.parametrize("name", [b"Connection", b"cONNECTION"])
def test_an_answers_nominated_fields_stay_behind_wherever_they_stand(name: bytes) -> None:
    lines = answer((b"X-Hop", b"1"), LENGTH_5, (name, b"x-hop, content-length"), (b"x-hop", b"2"))
    assert lines == [b"HTTP/1.1 200 OK", b"Content-Length: 5"]


def test_a_length_is_said_once_and_in_plain_digits() -> None:
    assert answer((b"content-length", b" 005"), LENGTH_5) == [b"HTTP/1.1 200 OK", b"content-length: 5"]
    assert answer() == [b"HTTP/1.1 200 OK", b"Content-Length: 5"]


def test_chunks_are_announced_and_a_length_is_not() -> None:
    assert answer(TE_CHUNKED, framing=CHUNKED) == [b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked"]
    assert answer((b"Trailer", b"X-Sum"), framing=CHUNKED)[1] == b"Trailer: X-Sum"
    assert answer(LENGTH_5, framing=CHUNKED) == [b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked"]


def test_a_body_until_the_end_names_no_framing() -> None:
    assert answer(TE_CHUNKED, framing=UNTIL_EOF, close=True) == [b"HTTP/1.1 200 OK", b"Connection: close"]


@pytest.mark.parametrize(
    ("status", "lines"),
    [(200, [b"Content-Length: 5"]), (304, [b"Content-Length: 5"]), (204, []), (103, [])],
)
def test_who_may_name_a_length_without_a_body(status: int, lines: list[bytes]) -> None:
    assert answer(LENGTH_5, status=status, framing=NO_BODY)[1:] == lines


@pytest.mark.parametrize(
    ("version", "close", "last"),
    [
        ("1.1", True, b"Connection: close"),
        ("1.0", True, b"Connection: close"),
        ("1.0", False, b"Connection: keep-alive"),
        ("1.1", False, b"Content-Length: 5"),
    ],
)
def test_a_visitor_is_told_whether_its_connection_lives_on(version: str, close: bool, last: bytes) -> None:
    assert answer(LENGTH_5, version=version, close=close)[-1] == last


def test_an_interim_answer_says_nothing_about_the_connection() -> None:
    assert answer(status=100, reason=b"Continue", framing=NO_BODY, close=True) == [b"HTTP/1.1 100 Continue"]


def test_http_1_0_gets_no_interim_answer() -> None:
    assert visitor_head(103, b"Early Hints", [], version="1.0", framing=NO_BODY, close=True) == b""


def test_a_reason_may_be_missing_or_in_any_letters() -> None:
    assert answer(reason=b"")[0] == b"HTTP/1.1 200 "
    assert answer(reason=b"\xe9t\xe9 9")[0] == b"HTTP/1.1 200 \xe9t\xe9 9"


SWITCH: Headers = [(b"Connection", b"upgrade"), (b"Upgrade", b"websocket"), (b"Sec-WebSocket-Accept", b"abc=")]


def test_a_switch_passes_with_its_fields() -> None:
    lines = answer(*SWITCH, status=101, reason=b"Switching Protocols", framing=NO_BODY, upgrade=True)
    assert lines[1:] == [b"Upgrade: websocket", b"Sec-WebSocket-Accept: abc=", b"Connection: Upgrade"]


def test_a_switch_that_nobody_asked_for_is_refused() -> None:
    with pytest.raises(ProtocolError):
        answer(*SWITCH, status=101, framing=NO_BODY)


def test_an_answer_that_requires_an_upgrade_names_it() -> None:
    assert answer(*SWITCH, LENGTH_5, status=426)[1] == b"Upgrade: websocket"
    assert answer(*SWITCH, LENGTH_5, status=426)[-1] == b"Connection: Upgrade"
    assert b"Upgrade: websocket" not in answer(*SWITCH, LENGTH_5)


@pytest.mark.parametrize("code", [*(code for code in range(32) if code != 9), 127])
def test_a_control_byte_in_a_reason_or_value_of_an_answer_is_refused(code: int) -> None:
    with pytest.raises(ProtocolError):
        answer(reason=b"O%cK" % code)
    with pytest.raises(ProtocolError):
        answer((b"X", b"a%cb" % code))


@pytest.mark.parametrize("name", [b"", b"X Y", b"X\r\nY", b"X:", b"X\x80"])
def test_an_answers_field_name_that_is_no_token_is_refused(name: bytes) -> None:
    with pytest.raises(ProtocolError):
        answer((name, b"1"))


@pytest.mark.parametrize("status", [-1, 0, 99, 1000])
def test_a_number_that_is_no_status_is_refused(status: int) -> None:
    with pytest.raises(ProtocolError):
        answer(status=status)


def test_chunks_carry_their_length() -> None:
    assert chunk(b"hello world, 17 b") == b"11\r\nhello world, 17 b\r\n"


def test_the_last_chunk_carries_the_trailers_that_may_come_late() -> None:
    assert last_chunk([]) == LAST_CHUNK == b"0\r\n\r\n"
    assert last_chunk([(b"X-Sum", b"1"), (b"grpc-status", b"0")]) == b"0\r\nX-Sum: 1\r\ngrpc-status: 0\r\n\r\n"


@pytest.mark.parametrize(
    "name",
    [
        b"Host",
        b"Content-Length",
        b"Transfer-Encoding",
        b"Connection",
        b"Trailer",
        b"Authorization",
        b"Cookie",
        b"Set-Cookie",
        b"Content-Type",
        b"Content-Encoding",
        b"X-Forwarded-For",
        b"Content_Length",
        b"sET-cOOKIE",
    ],
)
def test_a_trailer_that_would_change_the_head_is_left_out(name: bytes) -> None:
    assert last_chunk([(name, b"1")]) == b"0\r\n\r\n"


@pytest.mark.parametrize("trailer", [(b"X Y", b"1"), (b"X", b"a\r\nb"), (b"", b"1"), (b"X", b"\x00")])
def test_a_malformed_trailer_is_refused(trailer: tuple[bytes, bytes]) -> None:
    with pytest.raises(ProtocolError):
        last_chunk([trailer])
