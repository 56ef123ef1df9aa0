"""The rules of HTTP/1.1 for a gateway: what a head may say, and what is passed on of it.

`httptools` cuts messages into heads and bodies. Here heads are judged and rewritten, as
lists of (name, value) pairs of bytes. A request is judged by `check_request` before
anything else looks at it, and leaves through `upstream_head`; an answer is judged by
`response_framing` and leaves through `visitor_head`. Whoever gets an error from a
function of this module closes that connection: its framing can no longer be trusted.

Decided here, once:

- Hop-by-hop fields (RFC 9110 §7.6.1) are Connection, Keep-Alive, Proxy-Connection,
  Proxy-Authenticate, Proxy-Authorization, Proxy-Authentication-Info, TE,
  Transfer-Encoding, Upgrade, HTTP2-Settings, and every field that Connection nominates.
  A nomination removes neither Host, Content-Length, nor any forwarding field: else a
  visitor could take away what the upstream relies on.
- Trailer stays when the body is chunked, since trailer fields are then passed on.
  `TE: trailers` is said anew to the upstream when the visitor said it.
- Upgrade passes with any protocol but h2c, which would carry further requests past the
  edge unseen (RFC 9110 §7.8 lets a server ignore it). HTTP/1.0 cannot upgrade.
- `Expect: 100-continue` is the upstream's to answer and passes; from HTTP/1.0 it does not.
- X-Forwarded-*, Forwarded and the fields that name a client address are ours to say.
  Those of strangers are dropped, those of trusted proxies are continued.
- Names that differ from a field of ours only by `_` for `-` are dropped: CGI-like
  upstreams cannot tell them apart.
- Everything else keeps its spelling, order and bytes.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address
from typing import Final, NamedTuple

from moongate.errors import BadRequest, ProtocolError

Header = tuple[bytes, bytes]
Headers = list[Header]

# Framing of a body: a length in bytes, or one of these.
CHUNKED: Final = -1
UNTIL_EOF: Final = -2
NO_BODY: Final = -3
Framing = int
Found = dict[int, bytes]

LAST_CHUNK: Final = b"0\r\n\r\n"

# 18 digits stay below 2**63, so that no upstream's integer wraps.
_LENGTH_DIGITS_MAX: Final = 18

# What a field is to a gateway. Plain integers, for these are compared for every field.
_PLAIN: Final = 0
_HOP: Final = 1
_HOST: Final = 2
_LENGTH: Final = 3
_CODING: Final = 4
_CONNECTION: Final = 5
_UPGRADE: Final = 6
_EXPECT: Final = 7
_TE: Final = 8
_TRAILER: Final = 9
_FORWARDING: Final = 10
_NOT_A_TOKEN: Final = 11

_SPECIAL: Final[dict[bytes, int]] = {
    b"keep-alive": _HOP,
    b"proxy-connection": _HOP,
    b"proxy-authenticate": _HOP,
    b"proxy-authorization": _HOP,
    b"proxy-authentication-info": _HOP,
    b"http2-settings": _HOP,
    b"host": _HOST,
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"connection": _CONNECTION,
    b"upgrade": _UPGRADE,
    b"expect": _EXPECT,
    b"te": _TE,
    b"trailer": _TRAILER,
    b"forwarded": _FORWARDING,
    b"x-forwarded-for": _FORWARDING,
    b"x-forwarded-proto": _FORWARDING,
    b"x-forwarded-host": _FORWARDING,
    b"x-real-ip": _FORWARDING,
    b"x-client-ip": _FORWARDING,
    b"x-cluster-client-ip": _FORWARDING,
    b"true-client-ip": _FORWARDING,
}
_FORWARDING_PREFIX: Final = b"x-forwarded-"

# Seen in nearly every message: with these in the table, the slow path is for rare names.
_COMMON: Final = (
    b"accept accept-charset accept-encoding accept-language accept-ranges access-control-allow-origin age allow "
    b"authorization cache-control content-disposition content-encoding content-language content-range "
    b"content-security-policy content-type cookie date dnt etag expires if-match if-modified-since if-none-match "
    b"if-range last-modified link location origin pragma priority range referer retry-after sec-ch-ua "
    b"sec-ch-ua-mobile sec-ch-ua-platform sec-fetch-dest sec-fetch-mode sec-fetch-site sec-fetch-user "
    b"sec-websocket-accept sec-websocket-extensions sec-websocket-key sec-websocket-protocol sec-websocket-version "
    b"server set-cookie strict-transport-security traceparent upgrade-insecure-requests user-agent vary via "
    b"www-authenticate x-content-type-options x-frame-options x-powered-by x-request-id x-requested-with"
).split()

_REMEMBERED_NAMES: Final = 4096
_REMEMBERED_NAME_BYTES: Final = 64

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


def _kind_of(name: bytes) -> int:
    if not _TOKEN.fullmatch(name):
        return _NOT_A_TOKEN
    plain = name.lower()
    if b"_" in plain:
        plain = plain.replace(b"_", b"-")
        return _HOP if plain in _SPECIAL or plain.startswith(_FORWARDING_PREFIX) else _PLAIN
    if plain.startswith(_FORWARDING_PREFIX):
        return _FORWARDING
    return _SPECIAL.get(plain, _PLAIN)


class _Kinds(dict[bytes, int]):
    """What each field is, by its name as sent.

    Remembers what it worked out, up to a bound that strangers' names cannot pass; beyond it
    a name is worked out each time, which costs about a microsecond.
    """

    def __missing__(self, name: bytes) -> int:
        kind = _kind_of(name)
        if len(self) < _REMEMBERED_NAMES and len(name) <= _REMEMBERED_NAME_BYTES:
            self[name] = kind
        return kind


_KINDS: Final = _Kinds(
    (spelling, _kind_of(name)) for name in (*_COMMON, *_SPECIAL) for spelling in (name, name.title(), name.upper())
)

_ORIGIN_FORM: Final = re.compile(rb"/[\x21\x22\x24-\x7e]*")
_ABSOLUTE_FORM: Final = re.compile(rb"(https?)://([^/?#]*)([/?][\x21\x22\x24-\x7e]*)?", re.IGNORECASE)
# A DNS name has at most 253 bytes; the dot after it, a colon and a port may follow.
_AUTHORITY_MAX: Final = 260
_AUTHORITY: Final = re.compile(rb"([0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{0,5}))?")

# All of CTL except HTAB (RFC 9110 §5.5).
_CONTROLS: Final = bytes(code for code in (*range(32), 127) if code != 9)

_BODILESS: Final = frozenset({204, 304})
# A 426 must name what it wants (RFC 9110 §15.5.22).
_NAMES_UPGRADE: Final = frozenset({101, 426})

_PASSES_TO_UPSTREAMS: Final = frozenset({_PLAIN})
# What an upstream may tell a visitor without the gateway having a say.
_PASSES_TO_VISITORS: Final = frozenset((_PLAIN, _HOST, _EXPECT, _FORWARDING))

_NOBODY_NAMED: Final[frozenset[bytes]] = frozenset()
# Connection options that are no field names.
_OPTIONS: Final = frozenset({b"close", b"keep-alive", b"upgrade", b""})
_COMMON_CONNECTION: Final[dict[bytes, frozenset[bytes]]] = {
    spelling: frozenset({option})
    for option in (b"close", b"keep-alive", b"upgrade")
    for spelling in (option, option.title(), option.capitalize())
} | {b"": frozenset()}

# Fields that must not arrive after the body: framing, routing, authentication and content
# description (RFC 9110 §6.5.1). Those that `_SPECIAL` names are refused there already.
_NEVER_TRAILING: Final = frozenset(
    b"age authorization cache-control content-encoding content-range content-type cookie date expires location "
    b"max-forwards pragma range retry-after set-cookie set-cookie2 vary warning www-authenticate".split()
)


class RequestFacts(NamedTuple):
    """What the gateway must know of a request, once its head has been judged."""

    host: str
    """Lower-case, without port, brackets or trailing dot; empty only for HTTP/1.0 without Host."""
    port: int | None
    authority: bytes
    """Host and port as the visitor wrote them."""
    target: bytes
    """In origin-form, or `*`."""
    content_length: int | None
    chunked: bool
    expect_continue: bool
    upgrade: bytes | None
    """The protocols asked for, as sent, without h2c."""
    close: bool
    """The visitor's connection ends after this exchange."""
    nominated: frozenset[bytes]
    """Lower-case names of fields that Connection declares hop-by-hop."""
    trailer: bytes | None
    """Names of the trailer fields announced for a chunked body."""
    accepts_trailers: bool

    @property
    def has_body(self) -> bool:
        """Say whether any byte of a body may follow."""
        return self.chunked or bool(self.content_length)


class Authority(NamedTuple):
    """A host and, if it was written, a port."""

    host: str
    port: int | None


# Visitors ask for the same few names again and again; the bound of a key is _AUTHORITY_MAX.
@lru_cache(maxsize=1024)
def parse_authority(value: bytes) -> Authority:
    """Read the value of a Host field (RFC 9110 §7.2).

    Raises:
        BadRequest: If it is not a name or address with an optional port.
    """
    match = _AUTHORITY.fullmatch(value) if len(value) <= _AUTHORITY_MAX else None
    if match is None:
        raise BadRequest(400, "the host is not a name or an address with an optional port")
    host, digits = match.groups()
    port = int(digits) if digits else None
    name = host.decode("ascii").lower().removesuffix(".").strip("[]")
    if not name or (port is not None and port > 65535):
        raise BadRequest(400, "the host is empty, or its port is above 65535")
    return Authority(name, port)


def check_request(method: bytes, target: bytes, version: str, headers: Headers) -> RequestFacts:
    """Judge a request's head, and say what the gateway must know of it.

    Raises:
        BadRequest: If it must not be forwarded (RFC 9112 §3, §6 and §11.2); close the connection.
    """
    if version not in ("1.1", "1.0"):
        raise BadRequest(505, f"http version {version} is not spoken here")
    if method == b"CONNECT":
        raise BadRequest(405, "this is not a forward proxy")
    if not _TOKEN.fullmatch(method):
        raise BadRequest(400, "the method is not a token")
    if _hold_controls(headers):
        raise BadRequest(400, "a field value holds control bytes")
    found = gather(headers)
    if _NOT_A_TOKEN in found:
        raise BadRequest(400, "a field name is not a token")
    length = _parse_length(found[_LENGTH]) if _LENGTH in found else None
    if _CODING in found:
        _check_coding(found[_CODING], version, length)
    authority, path = _check_target(method, target, found.get(_HOST), version)
    host, port = parse_authority(authority) if authority else Authority("", None)
    close, nominated, wants_upgrade = _connection(found.get(_CONNECTION, b""), version)
    # RFC 9110 §10.1.1 and §7.8: from HTTP/1.0, both are ignored.
    expect = found.get(_EXPECT) if version == "1.1" else None
    if expect is not None and expect.lower() != b"100-continue":
        raise BadRequest(417, "the only expectation that can be met is 100-continue")
    upgrade = _real_upgrade(found.get(_UPGRADE, b"")) if wants_upgrade and version == "1.1" else None
    return RequestFacts(
        host,
        port,
        authority,
        path,
        length,
        _CODING in found,
        expect is not None,
        upgrade,
        close,
        nominated,
        found.get(_TRAILER) if _CODING in found else None,
        _TE in found and b"trailers" in _options(found[_TE]),
    )


def judged_again(facts: RequestFacts, target: bytes) -> RequestFacts | None:
    """Return the facts of an HTTP/1.1 request that differs from a judged one in nothing but its target.

    None if this target has to be judged together with the fields.
    """
    if target == facts.target:
        return facts
    if not _ORIGIN_FORM.fullmatch(target):
        return None
    return RequestFacts._make((*facts[:3], target, *facts[4:]))


def request_line(method: bytes, facts: RequestFacts) -> bytes:
    """Write the first line of a judged request."""
    return b"%b %b HTTP/1.1\r\n" % (method, facts.target)


def upstream_head(
    method: bytes,
    facts: RequestFacts,
    headers: Headers,
    *,
    peer_ip: str,
    proto: str,
    host_header: bytes | None = None,
    trusted_peer: bool = False,
    upgrade: bool = False,
) -> bytes:
    """Write the head of a judged request as the upstream gets it, always as HTTP/1.1.

    `host_header` replaces the Host that the upstream sees; X-Forwarded-Host keeps the public
    one. `upgrade` passes `facts.upgrade` on; without it the request is an ordinary one.
    """
    fields = upstream_fields(
        facts,
        headers,
        peer_ip=peer_ip,
        proto=proto,
        host_header=host_header,
        trusted_peer=trusted_peer,
        upgrade=upgrade,
    )
    return request_line(method, facts) + fields


def upstream_fields(
    facts: RequestFacts,
    headers: Headers,
    *,
    peer_ip: str,
    proto: str,
    host_header: bytes | None,
    trusted_peer: bool,
    upgrade: bool,
) -> bytes:
    """Write what follows the request line; it is the same for every target."""
    restated = {_HOST: host_header or facts.authority}
    if facts.content_length is not None:
        restated[_LENGTH] = b"%d" % facts.content_length
    if facts.expect_continue:
        restated[_EXPECT] = b"100-continue"
    if facts.trailer is not None:
        restated[_TRAILER] = facts.trailer
    lines = _lines(headers, _PASSES_TO_UPSTREAMS, facts.nominated, restated)
    if _HOST in restated:
        lines += (b"Host: ", restated[_HOST], b"\r\n")
    if facts.chunked:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    if facts.upgrade is not None and upgrade:
        lines += (b"Connection: Upgrade\r\nUpgrade: ", facts.upgrade, b"\r\n")
    elif facts.accepts_trailers:
        lines.append(b"Connection: TE\r\nTE: trailers\r\n")
    before = [field for field in headers if _KINDS[field[0]] == _FORWARDING] if trusted_peer else []
    if before:
        lines.append(_continue_forwarding(before, peer_ip, proto, facts.authority))
    else:
        lines.append(_forwarding(peer_ip, proto, facts.authority))
    return b"".join(lines)


def body_head(facts: RequestFacts) -> bytes:
    """Write a head that makes a fresh parser read the body that `facts` announce, and nothing else.

    httptools takes whatever follows a head with `Connection: upgrade` for the new protocol's,
    also a body, and also when the upgrade is ignored (Java's client asks for h2c with every
    POST). Read on like that, a body would be taken for the next request.
    """
    if facts.chunked:
        return b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    return b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (facts.content_length or 0)


def response_framing(
    method: bytes, status: int, headers: Headers, version: str = "1.1", found: Found | None = None
) -> Framing:
    """Return how an answer's body is delimited: a length, CHUNKED, UNTIL_EOF or NO_BODY (RFC 9112 §6.3).

    `found` is what `gather` has made of the headers, where that was done already.

    Raises:
        ProtocolError: If the head contradicts itself, so that two readers could cut it differently.
    """
    if version not in ("1.1", "1.0"):
        raise ProtocolError(f"the upstream answered in http version {version}")
    if found is None:
        found = gather(headers)
    length = _one_length(found[_LENGTH]) if _LENGTH in found else None
    if _CODING in found:
        if version == "1.0" or found[_CODING].lower() != b"chunked":
            raise ProtocolError("the upstream's transfer-encoding is not exactly chunked")
        if length is not None:
            raise ProtocolError("the upstream sent both transfer-encoding and content-length")
    if status < 200 or status in _BODILESS or method == b"HEAD":
        return NO_BODY
    if _CODING in found:
        return CHUNKED
    return UNTIL_EOF if length is None else length


def visitor_framing(framing: Framing, version: str) -> Framing:
    """Return how a visitor of this version is told where an answer's body ends.

    HTTP/1.0 knows no chunks. HTTP/1.1 gets chunks instead of an end of file, so that a body
    that was cut short does not look whole.
    """
    if framing == CHUNKED and version == "1.0":
        return UNTIL_EOF
    if framing == UNTIL_EOF and version != "1.0":
        return CHUNKED
    return framing


def visitor_head(
    status: int,
    reason: bytes,
    headers: Headers,
    *,
    version: str,
    framing: Framing,
    close: bool,
    upgrade: bool = False,
    found: Found | None = None,
) -> bytes:
    """Write the head of an answer as the visitor gets it; `found` as for `response_framing`.

    `version` is the visitor's; `framing` is how this side sends the body. An interim answer
    to an HTTP/1.0 visitor is empty: it could not understand one (RFC 9110 §15.2).

    Raises:
        ProtocolError: If the upstream's head holds control bytes, no status, a bad name, or an
            upgrade that nobody asked for.
    """
    if not 100 <= status <= 999:
        raise ProtocolError(f"the upstream sent status {status}")
    if status == 101 and not upgrade:
        raise ProtocolError("the upstream switched protocols without being asked")
    if _hold_controls(headers, reason):
        raise ProtocolError("the upstream's head holds control bytes")
    if status < 200 and version == "1.0":
        return b""
    if found is None:
        found = gather(headers)
    if _NOT_A_TOKEN in found:
        raise ProtocolError("the upstream sent a field name that is not a token")
    restated = _restated_to_visitor(status, framing, found)
    upgrading = _UPGRADE in restated
    nominated = _nominated(found[_CONNECTION]) if _CONNECTION in found else _NOBODY_NAMED
    lines = _lines(headers, _PASSES_TO_VISITORS, nominated, restated)
    if _LENGTH in restated:
        lines.append(b"Content-Length: %d\r\n" % framing)
    elif framing == CHUNKED:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    if upgrading:
        lines.append(b"Connection: Upgrade\r\n")
    if close and status >= 200:
        lines.append(b"Connection: close\r\n")
    elif version == "1.0":
        lines.append(b"Connection: keep-alive\r\n")
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, reason, b"".join(lines))


def chunk(data: bytes) -> bytes:
    """Frame one non-empty piece of a chunked body (RFC 9112 §7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Headers) -> bytes:
    """End a chunked body, passing on those trailer fields that may come after one.

    Fields for framing, routing, authentication or content description are left out, for a
    recipient that merged them into the head would believe them (RFC 9110 §6.5.1).

    Raises:
        ProtocolError: If a field's name is not a token, or its value holds control bytes.
    """
    if not trailers:
        return LAST_CHUNK
    if _hold_controls(trailers):
        raise ProtocolError("a trailer field holds control bytes")
    parts = [b"0\r\n"]
    for name, value in trailers:
        kind = _KINDS[name]
        if kind == _NOT_A_TOKEN:
            raise ProtocolError("a trailer field's name is not a token")
        if kind == _PLAIN and name.lower() not in _NEVER_TRAILING:
            parts += (name, b": ", value, b"\r\n")
    parts.append(b"\r\n")
    return b"".join(parts)


def client_ip(headers: Headers, peer_ip: str, is_trusted: Callable[[str], bool]) -> str:
    """Return the address of who asked, seen through trusted proxies and no further.

    X-Forwarded-For is read from its right end, where the nearest proxy wrote; the first
    address that is not a trusted proxy is the client. A stranger's field changes nothing.
    """
    if not is_trusted(peer_ip):
        return peer_ip
    named = [
        part.strip()
        for name, value in headers
        if name.lower() == b"x-forwarded-for"
        for part in value.decode("latin-1").split(",")
    ]
    client = peer_ip
    for text in reversed(named):
        try:
            client = str(ip_address(text.replace("%", " ")))  # no zones: they are free text
        except ValueError:
            break
        if not is_trusted(client):
            break
    return client


def said_proto(headers: Headers) -> bytes:
    """Return the scheme by which a visitor came to the first proxy, as the proxies say; empty if they do not."""
    said = next((value for name, value in headers if name.lower() == b"x-forwarded-proto"), b"")
    return said.partition(b",")[0].strip().lower()


def gather(headers: Headers) -> Found:
    """Return what the fields that concern a gateway say, by kind.

    Repeated ones are joined as RFC 9110 §5.3 does: where only one is allowed, the comma
    then makes the value malformed.
    """
    found: dict[int, bytes] = {}
    for name, value in headers:
        kind = _KINDS[name]
        if kind:
            found[kind] = found[kind] + b", " + value.strip(b" \t") if kind in found else value.strip(b" \t")
    return found


def _lines(
    headers: Headers, passing: frozenset[int], nominated: frozenset[bytes], restated: dict[int, bytes]
) -> list[bytes]:
    """Return the lines of those fields that are passed on.

    A restated field stands where the first of its kind stood; what was not there stays in
    `restated` for the caller.
    """
    lines: list[bytes] = []
    for name, value in headers:
        kind = _KINDS[name]
        if kind in passing:
            if not nominated or name.lower() not in nominated:
                lines += (name, b": ", value, b"\r\n")
        elif kind in restated:
            lines += (name, b": ", restated.pop(kind), b"\r\n")
    return lines


def _hold_controls(headers: Headers, reason: bytes = b"") -> bool:
    # Joined first, because one call of C over all values costs less than one for each.
    text = reason + b"".join([value for _, value in headers])
    return len(text.translate(None, _CONTROLS)) != len(text)


def _restated_to_visitor(status: int, framing: Framing, found: dict[int, bytes]) -> dict[int, bytes]:
    """Return the gateway's word on those fields of an answer that it does not merely pass on."""
    restated: dict[int, bytes] = {}
    if framing >= 0:
        restated[_LENGTH] = b"%d" % framing
    elif framing == NO_BODY and _LENGTH in found and status >= 200 and status != 204:
        # What GET would have got: HEAD and 304 may say it, 1xx and 204 must not (RFC 9110 §8.6).
        restated[_LENGTH] = b"%d" % _one_length(found[_LENGTH])
    elif framing == CHUNKED and _TRAILER in found:
        restated[_TRAILER] = found[_TRAILER]
    if _UPGRADE in found and status in _NAMES_UPGRADE:
        restated[_UPGRADE] = found[_UPGRADE]
    return restated


def _one_length(value: bytes) -> int:
    """Read an answer's Content-Length, which may say the same number several times (RFC 9110 §8.6)."""
    lengths = {length.strip(b" \t") for length in value.split(b",")} if b"," in value else {value}
    (length, *others) = lengths
    if others:
        raise ProtocolError("the upstream sent different content-lengths")
    if not length.isdigit() or len(length) > _LENGTH_DIGITS_MAX:
        raise ProtocolError("the upstream's content-length is not a number")
    return int(length)


def _parse_length(value: bytes) -> int:
    if not value.isdigit() or len(value) > _LENGTH_DIGITS_MAX:
        raise BadRequest(400, "the content-length is not one number")
    return int(value)


def _check_coding(coding: bytes, version: str, length: int | None) -> None:
    if version == "1.0":
        raise BadRequest(400, "http/1.0 knows no transfer-encoding")
    if length is not None:
        raise BadRequest(400, "there are both transfer-encoding and content-length")
    if coding.lower() != b"chunked":
        # RFC 9112 §6.1 asks for 501 when the coding is unknown.
        known = _TOKEN.fullmatch(coding) and b"chunked" not in coding.lower()
        raise BadRequest(501 if known else 400, "the transfer-encoding is not exactly chunked")


def _check_target(method: bytes, target: bytes, host: bytes | None, version: str) -> tuple[bytes, bytes]:
    """Return the authority that counts, and the target in origin-form (RFC 9112 §3.2)."""
    if host is None:
        if version == "1.1":
            raise BadRequest(400, "there is no host field")
    elif not host:
        raise BadRequest(400, "the host field is empty")
    if _ORIGIN_FORM.fullmatch(target):
        return host or b"", target
    if target == b"*":
        if method != b"OPTIONS":
            raise BadRequest(400, "only options may ask about the server as a whole")
        return host or b"", target
    match = _ABSOLUTE_FORM.fullmatch(target)
    if match is None:
        raise BadRequest(400, "the request target is neither a path nor an http url")
    scheme, authority, path = match.groups()
    if host is not None:
        default = 443 if scheme.lower() == b"https" else 80
        if _with_port(authority, default) != _with_port(host, default):
            raise BadRequest(400, "the request target and the host field name different hosts")
    if path is None:
        path = b"*" if method == b"OPTIONS" else b"/"
    elif path[:1] == b"?":
        path = b"/" + path
    return host or authority, path


def _with_port(value: bytes, default: int) -> tuple[str, int]:
    host, port = parse_authority(value)
    return host, default if port is None else port


def _options(value: bytes) -> list[bytes]:
    return [option.strip(b" \t").lower() for option in value.split(b",")]


def _connection(value: bytes, version: str) -> tuple[bool, frozenset[bytes], bool]:
    """Return whether to close afterwards, the nominated fields, and whether an upgrade is wanted."""
    known = _COMMON_CONNECTION.get(value)
    options = frozenset(_options(value)) if known is None else known
    close = b"close" in options or (version == "1.0" and b"keep-alive" not in options)
    return close, options - _OPTIONS, b"upgrade" in options


def _nominated(value: bytes) -> frozenset[bytes]:
    """Return the fields that the value of a Connection field declares hop-by-hop."""
    return _NOBODY_NAMED if value in _COMMON_CONNECTION else frozenset(_options(value)) - _OPTIONS


def _real_upgrade(value: bytes) -> bytes | None:
    wanted = [option for option in (part.strip(b" \t") for part in value.split(b",")) if option]
    kept = [option for option in wanted if option.lower() not in (b"h2c", b"h2")]
    return b", ".join(kept) or None


@lru_cache(maxsize=4096)
def _forwarding(peer_ip: str, proto: str, authority: bytes) -> bytes:
    """Write the forwarding fields of a visitor who came to us directly, and the end of the head."""
    address, scheme, element = _forwarding_values(peer_ip, proto, authority)
    return b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\nForwarded: %b\r\n\r\n" % (
        address,
        scheme,
        authority,
        element,
    )


def _forwarding_values(peer_ip: str, proto: str, authority: bytes) -> tuple[bytes, bytes, bytes]:
    """Return address, scheme, and the element of Forwarded (RFC 7239 §4)."""
    address = peer_ip.partition("%")[0].encode("ascii")
    scheme = proto.encode("ascii")
    # RFC 7239 §6: an IPv6 address stands in brackets, and whatever holds a colon in quotes.
    node = b'"[%b]"' % address if b":" in address else address
    host = b'"%b"' % authority if b":" in authority else authority
    return address, scheme, b"for=%b;%bproto=%b" % (node, b"host=%b;" % host if host else b"", scheme)


def _continue_forwarding(before: Headers, peer_ip: str, proto: str, authority: bytes) -> bytes:
    """Write the forwarding fields as `before`, the word of a trusted proxy, with this hop added.

    Lists grow by us. Of scheme and host the proxy's word stands: only it saw the visitor.
    """
    address, scheme, element = _forwarding_values(peer_ip, proto, authority)
    said: dict[bytes, bytes] = {}
    others = []
    for name, value in before:
        plain = name.lower()
        if plain in (b"x-forwarded-for", b"forwarded"):
            said[plain] = said[plain] + b", " + value if plain in said else value
        elif plain in (b"x-forwarded-proto", b"x-forwarded-host"):
            said.setdefault(plain, value)
        else:
            others.append(b"%b: %b\r\n" % (name, value))
    chain = said[b"x-forwarded-for"] + b", " + address if b"x-forwarded-for" in said else address
    elements = said[b"forwarded"] + b", " + element if b"forwarded" in said else element
    return b"%bX-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\nForwarded: %b\r\n\r\n" % (
        b"".join(others),
        chain,
        said.get(b"x-forwarded-proto", scheme),
        said.get(b"x-forwarded-host", authority),
        elements,
    )
