from collections.abc import Callable

import pytest

from moongate.errors import BadRequest
from moongate.wire.http1 import Headers, RequestFacts, body_head, check_request, client_ip, parse_authority

HOST = (b"Host", b"app.example")


def check(
    *headers: tuple[bytes, bytes],
    method: bytes = b"POST",
    target: bytes = b"/a?b",
    version: str = "1.1",
    host: bool = True,
) -> RequestFacts:
    return check_request(method, target, version, [HOST, *headers] if host else list(headers))


def refusal(check_it: Callable[[], object]) -> int:
    with pytest.raises(BadRequest) as refused:
        check_it()
    return refused.value.status


def test_a_plain_request_says_where_it_goes() -> None:
    facts = check(method=b"GET")
    assert (facts.host, facts.port, facts.authority, facts.target) == ("app.example", None, b"app.example", b"/a?b")
    assert (facts.content_length, facts.chunked, facts.upgrade, facts.close) == (None, False, None, False)
    assert not facts.has_body


@pytest.mark.parametrize(
    ("value", "host", "port"),
    [
        (b"App.Example", "app.example", None),
        (b"app.example.", "app.example", None),
        (b"app.example:7171", "app.example", 7171),
        (b"app.example.:443", "app.example", 443),
        (b"app.example:", "app.example", None),
        (b"127.0.0.1:80", "127.0.0.1", 80),
        (b"[::1]:80", "::1", 80),
        (b"[2001:DB8::1]", "2001:db8::1", None),
        (b"a_b-c.d", "a_b-c.d", None),
    ],
)
def test_a_host_is_read_without_case_port_brackets_and_last_dot(value: bytes, host: str, port: int | None) -> None:
    assert parse_authority(value) == (host, port)
    assert check_request(b"GET", b"/", "1.1", [(b"host", b" " + value + b"\t")]).authority == value


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b".",
        b"a b",
        b"a,b",
        b"a/b",
        b"a@b",
        b"a:b",
        b"a:65536",
        b"a:123456",
        b"a:-1",
        b"::1",
        b"[::1",
        b"[::1]x",
        b"[]",
        b"[a.example]",
        b"a\xff",
        b"a%41",
        b"http://a",
        b"a" * 300,
    ],
)
def test_a_malformed_host_is_refused(value: bytes) -> None:
    assert refusal(lambda: check_request(b"GET", b"/", "1.1", [(b"Host", value)])) == 400


@pytest.mark.parametrize("second", [b"app.example", b"other.example"])
@pytest.mark.parametrize("name", [b"Host", b"host", b"HOST", b"hOsT"])
def test_a_second_host_is_refused_however_it_is_spelled(name: bytes, second: bytes) -> None:
    assert refusal(lambda: check((name, second))) == 400


def test_only_http_1_0_may_come_without_a_host() -> None:
    assert refusal(lambda: check(host=False)) == 400
    assert check(host=False, version="1.0").host == ""


@pytest.mark.parametrize("version", ["0.9", "1.2", "2.0", "3.0", ""])
def test_other_versions_are_refused(version: str) -> None:
    assert refusal(lambda: check(version=version)) == 505


@pytest.mark.parametrize("name", [b"Content-Length", b"content-length", b"CONTENT-LENGTH", b"cOntent-lEngth"])
@pytest.mark.parametrize("value", [b"", b"+1", b"-1", b"0x1", b"1,1", b"1, 1", b"1 1", b"1.0", b"\xb2", b"9" * 19])
def test_a_content_length_that_is_not_one_number_is_refused(name: bytes, value: bytes) -> None:
    assert refusal(lambda: check((name, value))) == 400


@pytest.mark.parametrize("other", [b"5", b"6"])
@pytest.mark.parametrize("name", [b"Content-Length", b"cONTENT-lENGTH"])
def test_two_content_lengths_are_refused_even_if_they_agree(name: bytes, other: bytes) -> None:
    assert refusal(lambda: check((b"Content-Length", b"5"), (name, other))) == 400


def test_a_content_length_is_read_as_a_number() -> None:
    assert check((b"Content-Length", b"\t0042 ")).content_length == 42
    assert check((b"Content-Length", b"0")).content_length == 0
    assert not check((b"Content-Length", b"0")).has_body
    assert check((b"Content-Length", b"1")).has_body


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (b"gzip", 501),
        (b"identity", 501),
        (b"xchunked", 400),
        (b"chunked, chunked", 400),
        (b"gzip, chunked", 400),
        (b"chunked, gzip", 400),
        (b"chunked;a=b", 400),
        (b",chunked", 400),
        (b"chunked,", 400),
        (b'"chunked"', 400),
        (b"", 400),
        (b"chunked\xa0", 400),
    ],
)
def test_a_transfer_encoding_other_than_chunked_is_refused(value: bytes, status: int) -> None:
    assert refusal(lambda: check((b"Transfer-Encoding", value))) == status


@pytest.mark.parametrize("second", [b"chunked", b"gzip", b""])
@pytest.mark.parametrize("name", [b"Transfer-Encoding", b"tRANSFER-eNCODING"])
def test_two_transfer_encodings_are_refused(name: bytes, second: bytes) -> None:
    assert refusal(lambda: check((b"Transfer-Encoding", b"chunked"), (name, second))) == 400


@pytest.mark.parametrize("length", [b"0", b"5"])
def test_transfer_encoding_and_content_length_together_are_refused_in_either_order(length: bytes) -> None:
    both = [(b"Transfer-Encoding", b"chunked"), (b"Content-Length", length)]
    assert refusal(lambda: check(*both)) == 400
    assert refusal(lambda: check(*reversed(both))) == 400


def test_http_1_0_knows_no_transfer_encoding() -> None:
    assert refusal(lambda: check((b"Transfer-Encoding", b"chunked"), version="1.0")) == 400


@pytest.mark.parametrize("value", [b"chunked", b"Chunked", b" CHUNKED\t"])
def test_chunked_is_read_without_case(value: bytes) -> None:
    facts = check((b"Transfer-Encoding", value))
    assert facts.chunked
    assert facts.has_body


@pytest.mark.parametrize("code", [*(code for code in range(32) if code != 9), 127])
def test_a_control_byte_in_any_value_is_refused(code: int) -> None:
    assert refusal(lambda: check((b"X-Plain", b"a%cb" % code))) == 400
    assert refusal(lambda: check((b"Connection", b"a%cb" % code))) == 400


def test_tabs_and_bytes_beyond_ascii_in_values_are_not_ours_to_judge() -> None:
    assert check((b"X-Plain", b"a\tb\xff\x80")).host == "app.example"


@pytest.mark.parametrize("name", [b"", b"X Y", b"X:", b"X\t", b"X\x00", b"X\r\nY", b"X\xe9", b"X(", b'"X"', b"Host "])
def test_a_field_name_that_is_no_token_is_refused(name: bytes) -> None:
    assert refusal(lambda: check((name, b"a"))) == 400


@pytest.mark.parametrize("method", [b"", b"G T", b"GET\r", b"GE\x00", b"G(T"])
def test_a_method_that_is_no_token_is_refused(method: bytes) -> None:
    assert refusal(lambda: check(method=method)) == 400


def test_connect_is_refused() -> None:
    assert refusal(lambda: check(method=b"CONNECT", target=b"app.example:443")) == 405
    assert refusal(lambda: check(method=b"CONNECT", target=b"/")) == 405


@pytest.mark.parametrize(
    "target",
    [
        b"",
        b"a",
        b"app.example:80",
        b"*",
        b"/a b",
        b"/a\r\nX: y",
        b"/a\x00",
        b"/a\x7f",
        b"/\xc3\xa9",
        b"/a#b",
        b"ftp://app.example/",
        b"http:/app.example/",
        b"http://other.example/",
        b"http://app.example:81/",
        b"http://app.example@other.example/",
        b"http://other.example@app.example/",
        b"http://app.example other/",
        b"http://",
        b"http:///a",
        b"http://app.example/#a",
        b"//app.example\\a\n",
    ],
)
def test_a_target_that_is_neither_path_nor_our_url_is_refused(target: bytes) -> None:
    assert refusal(lambda: check(method=b"GET", target=target)) == 400


@pytest.mark.parametrize(
    ("target", "method", "path"),
    [
        (b"http://app.example/a?b", b"GET", b"/a?b"),
        (b"HTTP://APP.example/a", b"GET", b"/a"),
        (b"http://app.example:80/a", b"GET", b"/a"),
        (b"https://app.example:443/a", b"GET", b"/a"),
        (b"http://app.example.?b", b"GET", b"/?b"),
        (b"http://app.example", b"GET", b"/"),
        (b"http://app.example", b"OPTIONS", b"*"),
        (b"*", b"OPTIONS", b"*"),
        (b"//double", b"GET", b"//double"),
        (b"/http://other.example/", b"GET", b"/http://other.example/"),
    ],
)
def test_a_target_is_rewritten_to_a_path(target: bytes, method: bytes, path: bytes) -> None:
    facts = check(method=method, target=target)
    assert facts.target == path
    assert facts.authority == b"app.example"


def test_an_absolute_target_gives_http_1_0_its_host() -> None:
    facts = check(method=b"GET", target=b"http://app.example:8080/a", version="1.0", host=False)
    assert (facts.host, facts.port, facts.authority, facts.target) == ("app.example", 8080, b"app.example:8080", b"/a")


@pytest.mark.parametrize(
    ("value", "version", "close"),
    [
        (None, "1.1", False),
        (None, "1.0", True),
        (b"close", "1.1", True),
        (b"Close", "1.1", True),
        (b"keep-alive", "1.0", False),
        (b"Keep-Alive", "1.0", False),
        (b"keep-alive", "1.1", False),
        (b"keep-alive, close", "1.0", True),
        (b"X-A , CLOSE", "1.1", True),
        (b"", "1.0", True),
    ],
)
def test_when_a_visitors_connection_ends(value: bytes | None, version: str, close: bool) -> None:
    headers = [] if value is None else [(b"Connection", value)]
    assert check(*headers, version=version).close is close


def test_connection_fields_are_read_together() -> None:
    facts = check((b"Connection", b"X-A"), (b"CONNECTION", b"close ,x-B,, "))
    assert facts.close
    assert facts.nominated == {b"x-a", b"x-b"}


@pytest.mark.parametrize(
    ("connection", "value", "version", "kept"),
    [
        (b"Upgrade", b"websocket", "1.1", b"websocket"),
        (b"keep-alive, upgrade", b"WebSocket", "1.1", b"WebSocket"),
        (b"Upgrade", b"tcp", "1.1", b"tcp"),
        (b"Upgrade", b"a/1, b", "1.1", b"a/1, b"),
        (b"Upgrade", b"h2c", "1.1", None),
        (b"Upgrade, HTTP2-Settings", b"H2C, websocket", "1.1", b"websocket"),
        (b"Upgrade", b"websocket", "1.0", None),
        (b"keep-alive", b"websocket", "1.1", None),
        (b"Upgrade", b"", "1.1", None),
        (b"Upgrade", b",", "1.1", None),
    ],
)
def test_which_upgrades_are_real(connection: bytes, value: bytes, version: str, kept: bytes | None) -> None:
    assert check((b"Connection", connection), (b"Upgrade", value), version=version).upgrade == kept


def test_upgrade_without_its_field_is_none() -> None:
    assert check((b"Connection", b"upgrade")).upgrade is None


def test_only_100_continue_can_be_expected() -> None:
    assert check((b"Expect", b"100-Continue")).expect_continue
    assert not check((b"Expect", b"100-continue"), version="1.0").expect_continue
    assert refusal(lambda: check((b"Expect", b"200-ok"))) == 417
    assert refusal(lambda: check((b"Expect", b"100-continue"), (b"expect", b"x"))) == 417


def test_te_says_whether_trailers_are_understood() -> None:
    assert check((b"TE", b"trailers")).accepts_trailers
    assert check((b"TE", b"gzip;q=0.5, Trailers")).accepts_trailers
    assert not check((b"TE", b"gzip")).accepts_trailers


def test_a_trailer_announcement_counts_for_chunked_bodies_only() -> None:
    assert check((b"Trailer", b"X-Sum"), (b"Transfer-Encoding", b"chunked")).trailer == b"X-Sum"
    assert check((b"Trailer", b"X-Sum")).trailer is None


def test_body_head_frames_the_body_that_was_announced() -> None:
    assert b"\r\nContent-Length: 7\r\n" in body_head(check((b"Content-Length", b"7")))
    assert b"\r\nTransfer-Encoding: chunked\r\n" in body_head(check((b"Transfer-Encoding", b"chunked")))


TRUSTED = {"10.0.0.1", "10.0.0.2", "::1"}


@pytest.mark.parametrize(
    ("peer", "said", "client"),
    [
        ("192.0.2.9", [b"198.51.100.1"], "192.0.2.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [b"198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", [b"203.0.113.5, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", [b"203.0.113.5, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", [b"203.0.113.5", b"198.51.100.1"], "198.51.100.1"),
        ("::1", [b"2001:db8::7"], "2001:db8::7"),
        ("10.0.0.1", [b"198.51.100.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", [b"198.51.100.1, \x1b[2J"], "10.0.0.1"),
        ("10.0.0.1", [b"198.51.100.1, ..."], "10.0.0.1"),
        ("10.0.0.1", [b"198.51.100.1, fe80::1%\xff"], "10.0.0.1"),
        ("10.0.0.1", [b"2001:DB8::7"], "2001:db8::7"),
        ("10.0.0.1", [b"10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [b""], "10.0.0.1"),
    ],
)
def test_a_client_is_seen_through_trusted_proxies_and_no_further(peer: str, said: list[bytes], client: str) -> None:
    headers: Headers = [(b"X-Forwarded-For", value) for value in said]
    assert client_ip(headers, peer, TRUSTED.__contains__) == client
