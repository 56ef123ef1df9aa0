import pytest

from moongate.wire.http1 import Headers, check_request, upstream_head

HOST = (b"Host", b"app.example:7171")


def send(
    *headers: tuple[bytes, bytes],
    method: bytes = b"POST",
    version: str = "1.1",
    peer_ip: str = "192.0.2.7",
    proto: str = "https",
    host_header: bytes | None = None,
    trusted_peer: bool = False,
    upgrade: bool = False,
    host: bool = True,
) -> list[bytes]:
    """Return the lines of the head that the upstream gets."""
    given = [HOST, *headers] if host else list(headers)
    facts = check_request(method, b"/a?b", version, given)
    head = upstream_head(
        method,
        facts,
        given,
        peer_ip=peer_ip,
        proto=proto,
        host_header=host_header,
        trusted_peer=trusted_peer,
        upgrade=upgrade,
    )
    assert head.endswith(b"\r\n\r\n")
    return head.removesuffix(b"\r\n\r\n").split(b"\r\n")


OURS = [
    b"X-Forwarded-For: 192.0.2.7",
    b"X-Forwarded-Proto: https",
    b"X-Forwarded-Host: app.example:7171",
    b'Forwarded: for=192.0.2.7;host="app.example:7171";proto=https',
]


def test_end_to_end_fields_keep_case_order_and_bytes() -> None:
    lines = send((b"x-LOWER", b"1"), (b"Accept", b"*/*"), (b"X-Lower", b"\xff  2 "), (b"accept", b""))
    assert lines == [
        b"POST /a?b HTTP/1.1",
        b"Host: app.example:7171",
        b"x-LOWER: 1",
        b"Accept: */*",
        b"X-Lower: \xff  2 ",
        b"accept: ",
        *OURS,
    ]


@pytest.mark.parametrize(
    "name",
    [
        b"Connection",
        b"Keep-Alive",
        b"Proxy-Connection",
        b"Proxy-Authenticate",
        b"Proxy-Authorization",
        b"Proxy-Authentication-Info",
        b"TE",
        b"Trailer",
        b"Upgrade",
        b"HTTP2-Settings",
        b"kEEP-aLIVE",
        b"te",
        b"uPGRADE",
    ],
)
def test_hop_by_hop_fields_stay_behind(name: bytes) -> None:
    assert send((name, b"x")) == [b"POST /a?b HTTP/1.1", b"Host: app.example:7171", *OURS]


def test_fields_that_connection_nominates_stay_behind() -> None:
    lines = send((b"X-Hop", b"1"), (b"Connection", b"close, x-hop"), (b"x-HOP", b"2"), (b"X-Stays", b"3"))
    assert lines == [b"POST /a?b HTTP/1.1", b"Host: app.example:7171", b"X-Stays: 3", *OURS]


def test_connection_cannot_take_away_what_the_upstream_relies_on() -> None:
    names = b"Host, Content-Length, X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto, Forwarded, X-Real-IP, Expect"
    lines = send((b"Connection", names), (b"Content-Length", b"5"), (b"Expect", b"100-continue"))
    assert lines == [
        b"POST /a?b HTTP/1.1",
        b"Host: app.example:7171",
        b"Content-Length: 5",
        b"Expect: 100-continue",
        *OURS,
    ]


def test_a_trusted_proxys_word_is_not_taken_away_either() -> None:
    lines = send((b"X-Real-IP", b"198.51.100.1"), (b"Connection", b"x-real-ip"), trusted_peer=True)
    assert b"X-Real-IP: 198.51.100.1" in lines


@pytest.mark.parametrize(
    "name",
    [
        b"X-Forwarded-For",
        b"x-forwarded-for",
        b"X-FORWARDED-FOR",
        b"x-Forwarded-foR",
        b"X-Forwarded-Proto",
        b"X-Forwarded-Host",
        b"X-Forwarded-Port",
        b"X-Forwarded-Prefix",
        b"x-forwarded-anything",
        b"Forwarded",
        b"fORWARDED",
        b"X-Real-IP",
        b"X-Client-IP",
        b"X-Cluster-Client-IP",
        b"True-Client-IP",
        b"X_Forwarded_For",
        b"x-forwarded_for",
        b"X_Real_IP",
        b"Content_Length",
        b"Transfer_Encoding",
    ],
)
def test_a_strangers_word_on_who_asks_is_dropped(name: bytes) -> None:
    assert send((name, b"6.6.6.6")) == [b"POST /a?b HTTP/1.1", b"Host: app.example:7171", *OURS]


def test_underscores_in_other_names_are_fine() -> None:
    assert b"my_token: 1" in send((b"my_token", b"1"))


def test_a_trusted_proxys_word_is_continued() -> None:
    lines = send(
        (b"X-Forwarded-For", b"198.51.100.1"),
        (b"x-forwarded-for", b"198.51.100.2"),
        (b"X-Forwarded-Proto", b"http"),
        (b"X-Forwarded-Host", b"public.example"),
        (b"Forwarded", b"for=198.51.100.1"),
        (b"X-Real-IP", b"198.51.100.1"),
        (b"X-Forwarded-Port", b"80"),
        trusted_peer=True,
    )
    assert lines[2:] == [
        b"X-Real-IP: 198.51.100.1",
        b"X-Forwarded-Port: 80",
        b"X-Forwarded-For: 198.51.100.1, 198.51.100.2, 192.0.2.7",
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: public.example",
        b'Forwarded: for=198.51.100.1, for=192.0.2.7;host="app.example:7171";proto=https',
    ]


def test_a_trusted_proxy_that_says_nothing_changes_nothing() -> None:
    assert send(trusted_peer=True) == send()
    assert send((b"X-Real-IP", b"198.51.100.1"), trusted_peer=True)[3:] == OURS


def test_an_ipv6_visitor_is_quoted_where_a_colon_would_confuse() -> None:
    lines = send(peer_ip="2001:db8::1%eth0", proto="http")
    assert b"X-Forwarded-For: 2001:db8::1" in lines
    assert b'Forwarded: for="[2001:db8::1]";host="app.example:7171";proto=http' in lines


def test_a_host_without_port_needs_no_quotes() -> None:
    lines = send((b"Host", b"app.example"), host=False)
    assert lines[-1] == b"Forwarded: for=192.0.2.7;host=app.example;proto=https"


def test_a_replaced_host_leaves_the_public_one_to_the_forwarding_fields() -> None:
    lines = send(host_header=b"localhost:3000")
    assert lines[1] == b"Host: localhost:3000"
    assert lines[2:] == OURS


def test_http_1_0_leaves_as_http_1_1_with_a_host() -> None:
    lines = send((b"Accept", b"*/*"), version="1.0", host=False, host_header=b"localhost")
    assert lines[:3] == [b"POST /a?b HTTP/1.1", b"Accept: */*", b"Host: localhost"]


def test_body_framing_is_stated_anew() -> None:
    assert b"content-length: 5" in send((b"content-length", b" 0005"))
    assert b"Transfer-Encoding: chunked" in send((b"transfer-encoding", b" CHUNKED "))


def test_trailer_passes_with_a_chunked_body() -> None:
    assert b"Trailer: X-Sum, X-More" in send(
        (b"Trailer", b"X-Sum"), (b"Transfer-Encoding", b"chunked"), (b"trailer", b"X-More")
    )


def test_te_trailers_is_said_anew() -> None:
    lines = send((b"TE", b"gzip, trailers"), (b"Connection", b"TE"))
    assert lines[2:4] == [b"Connection: TE", b"TE: trailers"]


def test_an_expectation_of_http_1_0_stays_behind() -> None:
    assert not [line for line in send((b"Expect", b"100-continue"), version="1.0") if line.startswith(b"Expect")]


WEBSOCKET: Headers = [
    (b"Upgrade", b"websocket"),
    (b"Connection", b"keep-alive, Upgrade, X-Hop"),
    (b"X-Hop", b"1"),
    (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    (b"Sec-WebSocket-Version", b"13"),
]


def test_an_upgrade_passes_with_its_fields() -> None:
    lines = send(*WEBSOCKET, method=b"GET", upgrade=True)
    assert lines[2:-4] == [
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        b"Sec-WebSocket-Version: 13",
        b"Connection: Upgrade",
        b"Upgrade: websocket",
    ]


def test_an_upgrade_that_is_not_passed_on_leaves_an_ordinary_request() -> None:
    lines = send(*WEBSOCKET, method=b"GET", upgrade=False)
    assert not [line for line in lines if line.lower().startswith((b"upgrade", b"connection"))]


def test_h2c_never_reaches_an_upstream() -> None:
    lines = send(
        (b"Upgrade", b"h2c"), (b"Connection", b"Upgrade, HTTP2-Settings"), (b"HTTP2-Settings", b"AA"), upgrade=True
    )
    assert lines[2:] == OURS
