"""Whatever leaves for an upstream or a visitor, every reader cuts it in the same places."""

import h11
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from compat.smuggling import CASES, HOSTILE_ANSWERS
from moongate.errors import BadRequest, ProtocolError
from moongate.wire.http1 import Headers, check_request, last_chunk, upstream_head, visitor_framing
from testbed.heads import AnswerCutter, Request, RequestCutter, cut_requests

TOKENS = st.text("abcXYZ019-_.!", min_size=1, max_size=12).map(str.encode)
VALUES = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=20).map(
    lambda text: text.strip(" \t\xa0").encode("latin-1")
)
SPECIAL: st.SearchStrategy[bytes] = st.sampled_from(
    b"Connection Keep-Alive Proxy-Connection TE Trailer Upgrade Expect X-Forwarded-For X-Forwarded-Proto Forwarded "
    b"X-Real-IP x-forwarded_for Content_Length Transfer_Encoding HTTP2-Settings Accept Cookie".split()
)
SPECIAL_VALUES: st.SearchStrategy[bytes] = st.sampled_from(
    [
        b"close",
        b"keep-alive",
        b"Upgrade",
        b"Upgrade, HTTP2-Settings",
        b"host, content-length, x-forwarded-for",
        b"transfer-encoding",
        b"websocket",
        b"h2c",
        b"trailers",
        b"100-continue",
        b"6.6.6.6",
        b"for=6.6.6.6",
        b"5",
        b"chunked",
    ]
)
FIELDS = st.one_of(st.tuples(TOKENS, VALUES), st.tuples(SPECIAL, st.one_of(VALUES, SPECIAL_VALUES)))
METHODS = st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"PROPFIND"])
TARGETS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"), max_size=20).map(
    lambda text: b"/" + text.encode()
)
HOSTS: st.SearchStrategy[bytes] = st.sampled_from([b"app.example", b"App.Example:7171", b"[::1]:80", b"127.0.0.1"])
BODIES = st.one_of(st.binary(max_size=40), st.just(b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"))


@st.composite
def raw_requests(draw: st.DrawFn) -> bytes:
    """One request, well-formed as a whole, whose fields may say anything."""
    body = draw(BODIES)
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    fields = draw(st.lists(FIELDS, max_size=6))
    if framing == "length":
        fields.append((draw(st.sampled_from([b"Content-Length", b"content-LENGTH"])), b"%d" % len(body)))
    elif framing == "chunked":
        fields.append((b"Transfer-Encoding", draw(st.sampled_from([b"chunked", b"CHUNKED"]))))
        cut = draw(st.integers(0, len(body)))
        pieces = [piece for piece in (body[:cut], body[cut:]) if piece]
        body = b"".join(b"%X\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        body += b"0\r\n" + b"".join(b"%b: %b\r\n" % pair for pair in draw(st.lists(FIELDS, max_size=2))) + b"\r\n"
    else:
        body = b""
    fields.insert(draw(st.integers(0, len(fields))), (b"Host", draw(HOSTS)))
    lines = b"".join(b"%b: %b\r\n" % pair for pair in fields)
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.1", b"1.0"]))
    return b"%b %b HTTP/%b\r\n%b\r\n%b" % (draw(METHODS), draw(TARGETS), version, lines, body)


def read_with_h11(raw: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """Return method, target and body of each request, as a strict reader of another make sees them."""
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    reader.receive_data(raw)
    seen: list[tuple[bytes, bytes, bytes]] = []
    while True:
        event = reader.next_event()
        if isinstance(event, h11.Request):
            seen.append((event.method, event.target, b""))
        elif isinstance(event, h11.Data):
            method, target, body = seen[-1]
            seen[-1] = (method, target, body + bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            assert not reader.trailing_data[0], "something is left behind the request"
            return seen
        else:
            raise AssertionError(f"the request does not end: {event}")


@settings(max_examples=150)
@given(raw_requests())
def test_what_leaves_for_an_upstream_is_one_request_to_every_reader(raw: bytes) -> None:
    came = cut_requests(raw)
    assume(came.refused is None)
    (request,) = came.requests
    assume(request.whole)
    sent = request.serialize()
    assert read_with_h11(sent) == [(request.method, request.facts.target, request.body)]
    again = cut_requests(sent)
    assert again.refused is None
    assert [(one.method, one.facts.target, one.body, one.whole) for one in again.requests] == [
        (request.method, request.facts.target, request.body, True)
    ]
    assert again.requests[0].facts.chunked == request.facts.chunked
    assert again.requests[0].facts.content_length == request.facts.content_length
    assert again.requests[0].facts.upgrade == request.facts.upgrade
    assert not again.switched


@settings(max_examples=150)
@given(raw_requests(), st.booleans())
def test_nothing_that_a_stranger_says_of_addresses_gets_through(raw: bytes, upgrade: bool) -> None:
    came = cut_requests(raw)
    assume(came.refused is None)
    (request,) = came.requests
    head = upstream_head(
        request.method, request.facts, request.headers, peer_ip="192.0.2.7", proto="http", upgrade=upgrade
    )
    lines = head.split(b"\r\n")
    names = [line.partition(b":")[0].lower().replace(b"_", b"-") for line in lines]
    for name in (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded", b"host"):
        assert names.count(name) == 1
    assert b"x-real-ip" not in names
    assert b"X-Forwarded-For: 192.0.2.7" in lines
    assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
    assert not {b"keep-alive", b"proxy-connection", b"http2-settings"} & set(names)


@settings(max_examples=100)
@given(raw_requests(), st.integers(1, 7))
def test_a_request_is_judged_the_same_however_the_network_cuts_it(raw: bytes, size: int) -> None:
    whole, cut = cut_requests(raw), RequestCutter()
    for at in range(0, len(raw), size):
        cut.feed(raw[at : at + size])
    assert (whole.refused is None) == (cut.refused is None)
    assert [(one.facts, one.body, one.whole) for one in whole.requests] == [
        (one.facts, one.body, one.whole) for one in cut.requests
    ]


ANY_FIELDS = st.lists(
    st.tuples(
        st.one_of(SPECIAL, TOKENS, st.binary(max_size=6), st.sampled_from([b"Host", b"Content-Length", b"Transfer-Encoding"])),
        st.one_of(SPECIAL_VALUES, st.binary(max_size=12), HOSTS),
    ),
    max_size=6,
)  # fmt: skip


@settings(max_examples=250)
@given(
    st.one_of(METHODS, st.binary(max_size=5)),
    st.one_of(TARGETS, st.binary(max_size=12), st.sampled_from([b"*", b"http://app.example/a", b"http://a?b"])),
    st.sampled_from(["1.1", "1.0", "2.0"]),
    ANY_FIELDS,
)
@example(b"GET", b"/", "1.1", [(b"Host", b"a\r\nX: y")])
@example(b"GET", b"/ HTTP/1.1\r\nX: y\r\n\r\nGET /smuggled", "1.1", [(b"Host", b"a")])
@example(b"GET", b"/", "1.0", [(b"Connection", b"host")])
def test_a_judged_head_is_one_head_to_every_reader_even_if_the_parser_saw_nothing(
    method: bytes, target: bytes, version: str, headers: Headers
) -> None:
    try:
        facts = check_request(method, target, version, headers)
    except BadRequest:
        return
    if facts.has_body or not facts.host:
        return
    head = upstream_head(method, facts, headers, peer_ip="::1", proto="http")
    assert read_with_h11(head) == [(method, facts.target, b"")]
    assert head.count(b"\r\n\r\n") == 1


STATUSES = st.one_of(st.sampled_from([100, 103, 200, 204, 304, 404, 426, 500]), st.integers(100, 999))


@st.composite
def raw_answers(draw: st.DrawFn) -> tuple[int, bytes, bytes]:
    """One answer to GET with its status, and its body."""
    status = draw(STATUSES.filter(lambda status: status != 101))
    body = b"" if status < 200 or status in (204, 304) else draw(BODIES)
    fields = draw(st.lists(FIELDS, max_size=6))
    wire_body = body
    if body and draw(st.booleans()):
        fields.append((b"Transfer-Encoding", b"chunked"))
        wire_body = b"%x;a=b\r\n%b\r\n0\r\nX-Sum: 1\r\n\r\n" % (len(body), body)
    else:
        fields.append((b"Content-Length", b"%d" % len(body)))
    lines = b"".join(b"%b: %b\r\n" % pair for pair in fields)
    return status, body, b"HTTP/1.1 %d Fine\r\n%b\r\n%b" % (status, lines, wire_body)


@settings(max_examples=150)
@given(raw_answers(), st.sampled_from(["1.1", "1.0"]))
def test_what_leaves_for_a_visitor_is_one_answer_to_every_reader(
    answer: tuple[int, bytes, bytes], version: str
) -> None:
    status, body, raw = answer
    cutter = AnswerCutter(version=version)
    cutter.feed(raw)
    assume(cutter.refused is None)
    assert cutter.complete == 1
    assert cutter.bodies == [body]
    if status < 200 and version == "1.0":
        assert not cutter.out
        return
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(cutter.out)
    if status < 200:
        event = reader.next_event()
        assert isinstance(event, h11.InformationalResponse)
        assert event.status_code == status
        assert reader.next_event() is h11.NEED_DATA
        return
    if not cutter.delimited:
        reader.receive_data(b"")
    assert _read_answer(reader) == (status, body)
    assert not reader.trailing_data[0]


def _read_answer(reader: h11.Connection) -> tuple[int, bytes]:
    head = reader.next_event()
    assert isinstance(head, h11.Response)
    body = b""
    while isinstance(event := reader.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    return head.status_code, body


@settings(max_examples=150)
@given(st.one_of(st.binary(max_size=120), st.sampled_from(CASES).map(lambda case: case.raw)), st.data())
def test_no_bytes_of_a_visitor_do_more_than_be_refused(raw: bytes, data: st.DataObject) -> None:
    cutter = RequestCutter()
    cutter.feed(_with_a_wound(raw, data))
    for request in cutter.requests:
        if request.whole:
            _judge_again(request)


def _judge_again(request: Request) -> None:
    try:
        sent = request.serialize()
    except ProtocolError:
        return  # a trailer field
    if request.facts.host:
        assert len(read_with_h11(sent)) == 1


@settings(max_examples=150)
@given(st.one_of(st.binary(max_size=120), st.sampled_from(HOSTILE_ANSWERS).map(lambda answer: answer.raw)), st.data())
def test_no_bytes_of_an_upstream_do_more_than_be_refused(raw: bytes, data: st.DataObject) -> None:
    cutter = AnswerCutter()
    cutter.feed(_with_a_wound(raw, data))
    head = cutter.out.partition(b"\r\n\r\n")[0]
    assert not set(head.replace(b"\r\n", b"")) & (set(range(32)) - {9} | {127})


def _with_a_wound(raw: bytes, data: st.DataObject) -> bytes:
    """Change one place, so that what is almost right is tried as well."""
    at = data.draw(st.integers(0, len(raw)))
    return raw[:at] + data.draw(st.binary(max_size=3)) + raw[at + data.draw(st.integers(0, 3)) :]


@given(st.lists(st.tuples(st.one_of(TOKENS, st.binary(max_size=4), SPECIAL), st.binary(max_size=8)), max_size=4))
def test_trailers_end_the_body_or_are_refused(trailers: Headers) -> None:
    try:
        end = last_chunk(trailers)
    except ProtocolError:
        return
    assert end.startswith(b"0\r\n")
    assert end.index(b"\r\n\r\n") == len(end) - 4


@given(st.integers(-3, 1 << 40), st.sampled_from(["1.0", "1.1"]))
def test_a_known_length_is_never_hidden(framing: int, version: str) -> None:
    assert framing < 0 or visitor_framing(framing, version) == framing


def test_h11_is_strict_enough_to_be_a_judge() -> None:
    with pytest.raises(h11.RemoteProtocolError):
        read_with_h11(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")
