"""What is fuzzed: one target for every parser in wire/, each with bytes to begin from.

A target takes any bytes and returns when they were accepted, or refused with ProtocolError;
everything else it lets through is a finding. It also insists on what must hold of accepted
bytes: progress, bounds, and one meaning to two readers.
"""

import contextlib
import json
from collections.abc import Callable
from typing import Final, NamedTuple

import h11
from starlette.exceptions import HTTPException

from compat.smuggling import CASES, HOSTILE_ANSWERS
from moongate.agent.publishing import routes_of
from moongate.agent.rulebook import RuleBook
from moongate.agent.sites.answers import Asked, content_type, decide, facts_of, file_head
from moongate.agent.sites.paths import is_hidden, path_of, with_slash
from moongate.api.agent.requests import decode, traffic_of
from moongate.api.answers import to_json
from moongate.edge.firewall import RULES_MAX, verdict
from moongate.edge.routes import RESERVED, TunnelOptions
from moongate.edge.routes.names import Names, port_of
from moongate.errors import BadRequest, ConfigurationError, NameInvalid, PortUnavailable, ProtocolError
from moongate.net.certificates import HOST_NAME
from moongate.wire import tunnel
from moongate.wire.hello import (
    MAX_CLIENT_HELLO,
    PROXY_V2_MAX,
    ProxyHeader,
    may_be_proxy,
    parse_client_hello,
    parse_proxy,
    serialize_proxy_v1,
    serialize_proxy_v2,
)
from moongate.wire.http1 import Headers, check_request, client_ip, response_framing, upstream_head, visitor_head
from testbed.heads import AnswerCutter, RequestCutter, cut_requests
from testbed.hellos import hello_message, openssl_hello, records, server_name


class Target(NamedTuple):
    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


def requests(data: bytes) -> None:
    """A visitor's bytes, through httptools and the rules, out to an upstream."""
    whole = cut_requests(data)
    halves = RequestCutter()
    halves.feed(data[: len(data) // 2])
    halves.feed(data[len(data) // 2 :])
    assert [request.facts for request in halves.requests] == [request.facts for request in whole.requests]
    for request in whole.requests:
        if request.whole and request.facts.host:
            with contextlib.suppress(ProtocolError):  # a trailer field
                _expect_one_request(request.serialize(), request.method, request.facts.target, request.body)


def _expect_one_request(sent: bytes, method: bytes, target: bytes, body: bytes) -> None:
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 24)
    reader.receive_data(sent)
    head = reader.next_event()
    assert isinstance(head, h11.Request)
    assert (head.method, head.target) == (method, target)
    read = b""
    while isinstance(event := reader.next_event(), h11.Data):
        read += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert read == body
    assert not reader.trailing_data[0]


def answers(data: bytes) -> None:
    """An upstream's bytes, through httptools and the rules, out to a visitor."""
    version = "1.0" if data[-1:] == b"0" else "1.1"
    cutter = AnswerCutter(b"HEAD" if data[-2:-1] == b"H" else b"GET", version)
    cutter.feed(data)


def heads(data: bytes) -> None:
    """The rules alone, on heads that no parser has seen: first line, then names and values by turns."""
    first, *rest = data.split(b"\xfe")
    method, _, target = first.partition(b" ")
    headers: Headers = list(zip(rest[::2], rest[1::2], strict=False))
    with contextlib.suppress(BadRequest):
        facts = check_request(method, target, "1.1", headers)
        head = upstream_head(
            method, facts, headers, peer_ip="192.0.2.7", proto="https", trusted_peer=len(data) % 2 == 1
        )
        assert head.count(b"\r\n\r\n") == 1
        if not facts.has_body:
            _expect_one_request(head, method, facts.target, b"")
    with contextlib.suppress(ProtocolError):
        framing = response_framing(method, 200, headers)
        head = visitor_head(200, target, headers, version="1.1", framing=framing, close=False)
        assert head.count(b"\r\n\r\n") == 1
        assert head.count(b"\n") == head.count(b"\r\n") == head.count(b"\r")
    assert client_ip(headers, "192.0.2.7", lambda address: not address.endswith("1"))


def client_hello(data: bytes) -> None:
    """The first bytes of a TLS connection."""
    try:
        hello = parse_client_hello(data)
    except ProtocolError:
        return
    if hello is None:
        assert len(data) < 2 * MAX_CLIENT_HELLO
    elif hello.server_name is not None:
        assert hello.server_name
        assert hello.server_name.isascii()
        assert hello.server_name.isprintable()


def proxy_header(data: bytes) -> None:
    """The first bytes of a connection from a proxy."""
    try:
        header, consumed = parse_proxy(data)
    except ProtocolError:
        return
    assert may_be_proxy(data)
    if header is None:
        assert consumed == 0
        assert len(data) < PROXY_V2_MAX
        return
    assert 0 < consumed <= len(data)
    for serialize in (serialize_proxy_v1, serialize_proxy_v2):
        again, _ = parse_proxy(serialize(header.source, header.destination))
        assert again == header or header == ProxyHeader(None, None)


_PAYLOADS: Final[dict[int, Callable[[tunnel.Payload], object]]] = {
    tunnel.CONTROL: tunnel.parse_control,
    tunnel.PING: tunnel.parse_ping,
    tunnel.OPEN: tunnel.parse_open,
    tunnel.CREDIT: tunnel.parse_number,
    tunnel.MOVE: tunnel.parse_number,
    tunnel.RESET: tunnel.parse_reset,
    tunnel.DIAL: tunnel.parse_dial,
}


def site_requests(data: bytes) -> None:
    """What a folder is asked for: a target, then the fields that change the answer."""
    target, *fields = data.split(b"\xfe")
    path = path_of(target)
    if path is not None:
        names = path.removesuffix("/").split("/") if path else []
        assert not any(not name or is_hidden(name) or "\\" in name or "\0" in name for name in names)
        assert path_of(with_slash(path.removesuffix("/"), target).partition(b"?")[0]) == ("/".join([*names, ""]))
        content_type(path)
    asked = Asked(*[field or None for field in fields[: len(Asked._fields)]])
    facts = facts_of("file", len(data), 1_700_000_000_000_000_000)
    decision = decide(b"GET", asked, facts)
    assert 0 <= decision.start <= decision.end <= len(data)
    assert file_head(decision, facts).count(b"\n") == file_head(decision, facts).count(b"\r\n")


def frames(data: bytes) -> None:
    """A link's bytes; the first one says how the network cut the others."""
    size, stream = 1 + (data[0] if data else 0), data[1:]
    reader = tunnel.FrameReader()
    taken = 0
    with contextlib.suppress(ProtocolError):
        for at in range(0, len(stream), size):
            for kind, channel, payload in reader.receive_data(stream[at : at + size]):
                taken += len(payload)
                assert kind in tunnel.LIMITS
                assert (channel == 0) == (kind in tunnel.OF_THE_LINK)
                assert len(payload) <= tunnel.LIMITS[kind][1]
                if kind in _PAYLOADS:
                    _PAYLOADS[kind](payload)
    assert taken <= len(stream)


def options(data: bytes) -> None:
    """The options of a claim, and the address of a visitor whom its firewall judges."""
    text, _, address = data.partition(b"\xfe")
    try:
        members = json.loads(text)
    except (ValueError, RecursionError):
        return
    if not isinstance(members, dict):
        return
    with contextlib.suppress(ConfigurationError):
        read = TunnelOptions.parse(members)
        assert len(read.firewall) <= RULES_MAX
        assert verdict(read.firewall, address.decode("latin-1")) in ("allow", "drop")


def names(data: bytes) -> None:
    """What an agent may want to be called: one label under the domain, a whole domain, or a port."""
    wanted = data.decode("utf-8", "replace")
    known = Names("gate.test", ["gate.test"], RESERVED)
    with contextlib.suppress(NameInvalid):
        name = known.check_domain(wanted) if known.is_custom(wanted) else known.full(known.check(wanted))
        assert HOST_NAME.match(name)
        assert name != "gate.test"
        assert known.is_custom(name) != name.endswith(".gate.test")
        assert (known.subdomain(name) is None) == known.is_custom(name)
    with contextlib.suppress(PortUnavailable):
        assert 0 <= port_of(wanted) <= 99_999


_HELLO: Final = openssl_hello("app.example", ["http/1.1", "h2"])
_V4: Final = (("192.0.2.7", 50123), ("198.51.100.1", 443))
_V6: Final = (("2001:db8::7", 50123), ("2001:db8::1", 443))


def rules(data: bytes) -> None:
    """A body that a program sends to the agent's API, and what becomes of the rules in it."""
    try:
        value = decode(data)
        body = traffic_of(value) if isinstance(value, dict) else {}
    except HTTPException:
        return
    book = RuleBook().allocated(22872).book
    for change in (book.create, book.update, book.patch, book.delete):
        edit = change(body)
        assert to_json([result.members() for result in edit.results])
        assert edit.is_valid or edit.book is book
        kept = edit.book.members()
        # What is accepted can be written down, read again, and published.
        assert RuleBook.read(decode(to_json(kept))).members() == kept
        assert all(routes_of(rule) is not None for rule in edit.book.rules())


TARGETS: Final[dict[str, Target]] = {
    "requests": Target(requests, tuple(case.raw for case in CASES)),
    "answers": Target(answers, tuple(answer.raw for answer in HOSTILE_ANSWERS)),
    "heads": Target(
        heads,
        (
            b"GET /\xfeHost\xfea.example\xfeConnection\xfeclose, x-a\xfeX-A\xfe1",
            b"POST http://a.example/b\xfeHost\xfea.example:80\xfeContent-Length\xfe5\xfeX-Forwarded-For\xfe1.2.3.4",
            b"GET /\xfeHost\xfe[::1]\xfeUpgrade\xfewebsocket\xfeConnection\xfeUpgrade\xfeExpect\xfe100-continue",
            b"PUT /\xfeHost\xfea\xfeTransfer-Encoding\xfechunked\xfeTrailer\xfeX\xfeTE\xfetrailers\xfeForwarded\xfefor=x",
        ),
    ),
    "site_requests": Target(
        site_requests,
        (
            b'/a%20b/%2e%2e/c?d=/../e\xfebytes=0-4\xfe"65bb-9"',
            b'//.well-known//x/\xfebytes=-3\xfe\xfe*\xfeW/"a", "b"\xfeTue, 14 Nov 2023 22:13:20 GMT',
            b"/C:%5c..\\%00\xfelines=1-2\xfeSun Nov  6 08:49:37 1994\xfe\xfe\xfe\xfeSunday, 06-Nov-94 08:49:37 GMT",
        ),
    ),
    "options": Target(
        options,
        (
            b'{"keep": true, "firewall": [["allow", "10.0.0.0/8"], ["drop", "::/0"]]}\xfe10.0.0.1',
            b'{"secure": null, "redirect": true, "redirect_url": "https://a.test/", "acme": false}\xfe::ffff:1.2.3.4',
            b'{"page": {"title": "Shop", "logo_url": "", "site_url": "http://a"}, "max_connections": 5}\xfefe80::1%eth0',
            b'{"basic_auth": "scrypt$16384$8$5$AAAA$AAAA", "password": "", "host_header": "a"}\xfe',
        ),
    ),
    "names": Target(
        names, (b"app", b"App.Gate.Test.", b"shop.example.test", b"*.example.test", b"192.0.2.7", b"20001")
    ),
    "rules": Target(
        rules,
        (
            b'{"https":[{"domain":"Shop.example.test","secure":true,"upstreamURL":"http://127.0.0.1:9001","redirect":true}]}',
            b'{"ports":[{"port":22872,"destination":"127.0.0.1","dstPort":2200,"firewall":[{"sequence":1,"action":'
            b'"ALLOW","network":"71.1.2.3/24"}],"transport":null}],"https":null}',
            b'{"portmaps":[{"listenPort":15001,"dstPort":22132,"destination":"","transport":"udp","label":"x","y":[1]}]}',
            b'{"https":[{"domain":"a.b","webRoot":"/srv/../x","authPageOpts":{"title":"t","logoURL":"http://l"},"tls":1}]}',
            b'\xef\xbb\xbf{"https":[{"domain":"a.b","redirectURL":"http://[::1]/","password":"\\ud800"}]}',
        ),
    ),
    "client_hello": Target(client_hello, (_HELLO, records(_HELLO[5:], 40), records(hello_message(server_name(b"a"))))),
    "proxy_header": Target(
        proxy_header,
        (
            serialize_proxy_v1(*_V4),
            serialize_proxy_v1(*_V6),
            serialize_proxy_v2(*_V4),
            serialize_proxy_v2(*_V6),
            serialize_proxy_v1(None, None),
            serialize_proxy_v2(None, None),
        ),
    ),
    "frames": Target(
        frames,
        tuple(
            bytes([size]) + stream
            for size in (1, 7, 255)
            for stream in (
                tunnel.serialize_control({"type": "claim", "wanted": "a"}) + tunnel.serialize_ping(1, 2),
                tunnel.serialize_open(1, 2, bytes(16), "192.0.2.7:1") + tunnel.serialize(tunnel.DATA, 1, b"hello"),
                tunnel.serialize_number(tunnel.CREDIT, 1, 9) + tunnel.serialize_reset(1, 3, "gone"),
                tunnel.serialize_dial(2**31 + 1, 20000, "udp") + tunnel.serialize(tunnel.DATAGRAM, 2**31 + 1, b"hello"),
                tunnel.serialize(tunnel.EOF, 1) + tunnel.serialize_number(tunnel.MOVE, 1, 9),
                tunnel.serialize(tunnel.CONTROL, 0, json.dumps([1, {"type": 1}]).encode()),
            )
        ),
    ),
}
