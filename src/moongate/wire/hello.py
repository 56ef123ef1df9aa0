"""The first bytes of a connection: a TLS ClientHello, or a PROXY protocol header.

Both are read before anyone is trusted, so every length is checked before it is used, and
nothing is held beyond a bound.
"""

import re
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from moongate.errors import ProtocolError

# A hello with post-quantum key shares measures about 2 KiB; a session ticket may add some more.
MAX_CLIENT_HELLO: Final = 16_384
# Each read walks all records again: this bounds what a hello that trickles in can cost.
MAX_HELLO_RECORDS: Final = 64

_HANDSHAKE_RECORD: Final = 22
_CLIENT_HELLO: Final = 1
_MAX_RECORD: Final = 16_384
_SERVER_NAME: Final = 0
_ALPN: Final = 16
_HOST_NAME: Final = 0
_DNS_NAME: Final = re.compile(rb"[0-9A-Za-z_-][0-9A-Za-z._-]{0,253}")

PROXY_V1_MAX: Final = 107
PROXY_V2_MAX: Final = 4096
_PROXY_V1: Final = b"PROXY "
_PROXY_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_PROXY_V2_HEAD: Final = struct.Struct("!12sBBH")
_PROXY_V2_INET: Final = struct.Struct("!4s4sHH")
_PROXY_V2_INET6: Final = struct.Struct("!16s16sHH")
_PORT: Final = re.compile(r"0|[1-9][0-9]{0,4}")

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a TLS client says before anything is encrypted."""

    server_name: str | None
    """Lower-case, without trailing dot."""
    alpn: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """Who really connected, as a proxy before us says; both None when it speaks for itself."""

    source: Address | None
    destination: Address | None


class _Reader:
    """Takes fields off a message whose whole length is known."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        """Raises ProtocolError if the message ends before."""
        end = self._at + count
        if end > len(self._data):
            raise ProtocolError("the client hello is cut short inside")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def number(self, size: int) -> int:
        """Return an unsigned number in network byte order."""
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """Return what follows a length of `size` bytes (RFC 8446 §3.4)."""
        return self.take(self.number(size))


def parse_client_hello(data: bytes) -> ClientHello | None:
    """Read the ClientHello that a connection begins with; None until all of it is there.

    It may be spread over several TLS records (RFC 8446 §5.1).

    Raises:
        ProtocolError: If it is none, is malformed, or is larger than MAX_CLIENT_HELLO.
    """
    message = _handshake_bytes(data)
    if message[:1] not in (b"", b"\x01"):
        raise ProtocolError(f"tls handshake begins with message {message[0]}, not with a client hello")
    if len(message) < 4:
        return None
    end = 4 + int.from_bytes(message[1:4], "big")
    if end > MAX_CLIENT_HELLO:
        raise ProtocolError(f"client hello of {end} bytes; the limit is {MAX_CLIENT_HELLO}")
    return _parse_hello_body(message[4:end]) if len(message) >= end else None


def _handshake_bytes(data: bytes) -> bytes:
    """Return the handshake bytes in the records so far, the last one perhaps incomplete."""
    pieces = []
    at = 0
    while at < len(data):
        head = data[at : at + 5]
        if head[0] != _HANDSHAKE_RECORD or head[1:2] not in (b"", b"\x03"):
            raise ProtocolError("these bytes are not a tls handshake")
        if len(head) < 5:
            break
        length = int.from_bytes(head[3:5], "big")
        if not 0 < length <= _MAX_RECORD:
            raise ProtocolError(f"tls record of {length} bytes; allowed are 1 to {_MAX_RECORD}")
        pieces.append(data[at + 5 : at + 5 + length])
        if len(pieces) > MAX_HELLO_RECORDS:
            raise ProtocolError(f"the client hello is spread over more than {MAX_HELLO_RECORDS} tls records")
        at += 5 + length
        if _is_whole(pieces):
            # What follows the hello may already be encrypted, and is not ours to judge.
            break
    return b"".join(pieces)


def _is_whole(pieces: list[bytes]) -> bool:
    start = pieces[0] if len(pieces[0]) >= 4 else b"".join(pieces)[:4]
    return len(start) >= 4 and sum(map(len, pieces)) >= 4 + int.from_bytes(start[1:4], "big")


def _parse_hello_body(body: bytes) -> ClientHello:
    """Read the fields of RFC 8446 §4.1.2."""
    fields = _Reader(body)
    fields.take(2 + 32)  # legacy_version, random
    fields.vector(1)  # legacy_session_id
    fields.vector(2)  # cipher_suites
    fields.vector(1)  # legacy_compression_methods
    extensions = _parse_extensions(fields.vector(2)) if fields else {}
    if fields:
        raise ProtocolError("bytes are left over after the client hello")
    return ClientHello(
        _parse_server_name(extensions[_SERVER_NAME]) if _SERVER_NAME in extensions else None,
        _parse_alpn(extensions[_ALPN]) if _ALPN in extensions else (),
    )


def _parse_extensions(data: bytes) -> dict[int, bytes]:
    fields = _Reader(data)
    extensions: dict[int, bytes] = {}
    while fields:
        kind = fields.number(2)
        if kind in extensions:
            # RFC 8446 §4.2; two names would be two opinions on where this goes.
            raise ProtocolError(f"the client hello holds extension {kind} twice")
        extensions[kind] = fields.vector(2)
    return extensions


def _parse_server_name(data: bytes) -> str:
    """Read the extension of RFC 6066 §3."""
    outer = _Reader(data)
    names = _Reader(outer.vector(2))
    found: list[bytes] = []
    while names:
        kind = names.number(1)
        name = names.vector(2)
        if kind == _HOST_NAME:
            found.append(name)
    if outer or len(found) != 1 or not _DNS_NAME.fullmatch(found[0]):
        raise ProtocolError("the server name is not exactly one host name")
    return found[0].decode("ascii").lower().removesuffix(".")


def _parse_alpn(data: bytes) -> tuple[str, ...]:
    """Read the extension of RFC 7301 §3.1; names are bytes, shown here one to one as latin-1."""
    outer = _Reader(data)
    names = _Reader(outer.vector(2))
    found: list[str] = []
    while names:
        found.append(names.vector(1).decode("latin-1"))
    if outer or not found or "" in found:
        raise ProtocolError("the list of application protocols is empty or holds an empty name")
    return tuple(found)


def may_be_proxy(data: bytes) -> bool:
    """Say whether these first bytes are, or could still become, a PROXY protocol header."""
    return any(data[: len(start)] == start[: len(data)] for start in (_PROXY_V1, _PROXY_V2))


def parse_proxy(data: bytes) -> tuple[ProxyHeader | None, int]:
    """Read the PROXY protocol header (v1 or v2) that a connection begins with.

    Returns the header and the count of its bytes, or (None, 0) until all of it is there.

    Raises:
        ProtocolError: If it is none, is malformed, or is too large.
    """
    if not may_be_proxy(data):
        raise ProtocolError("these bytes are not a proxy protocol header")
    if data.startswith(_PROXY_V2):
        return _parse_v2(data)
    return _parse_v1(data)


def _parse_v1(data: bytes) -> tuple[ProxyHeader | None, int]:
    end = data.find(b"\r\n", 0, PROXY_V1_MAX)
    if end < 0 or not data.startswith(_PROXY_V1):
        if len(data) >= PROXY_V1_MAX:
            raise ProtocolError(f"proxy header that does not end within {PROXY_V1_MAX} bytes")
        return None, 0
    words = data[:end].decode("latin-1").split(" ")
    if words[1] == "UNKNOWN":
        return ProxyHeader(None, None), end + 2
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise ProtocolError("proxy header without a family, two addresses and two ports")
    _, family, source, destination, source_port, destination_port = words
    return ProxyHeader(
        (_read_address(source, family), _read_port(source_port)),
        (_read_address(destination, family), _read_port(destination_port)),
    ), end + 2


def _read_address(text: str, family: str) -> str:
    try:
        # A zone ("%eth0") means nothing on another machine, and Python lets any text stand in one.
        return str(IPv4Address(text) if family == "TCP4" else IPv6Address(text.replace("%", " ")))
    except ValueError:
        raise ProtocolError(f"proxy header with an address that is not {family}") from None


def _read_port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise ProtocolError("proxy header with a port that is not a number up to 65535")
    return int(text)


def _parse_v2(data: bytes) -> tuple[ProxyHeader | None, int]:
    if len(data) < _PROXY_V2_HEAD.size:
        return None, 0
    _, command, family, length = _PROXY_V2_HEAD.unpack_from(data)
    end = _PROXY_V2_HEAD.size + length
    if command not in (0x20, 0x21):
        raise ProtocolError(f"proxy header with version and command {command:#04x}")
    if end > PROXY_V2_MAX:
        raise ProtocolError(f"proxy header of {end} bytes; the limit is {PROXY_V2_MAX}")
    if len(data) < end:
        return None, 0
    # LOCAL is the proxy's own health check; UNSPEC and UNIX name no address that we could use.
    if command == 0x20 or family in (0x00, 0x31):
        return ProxyHeader(None, None), end
    layout = {0x11: _PROXY_V2_INET, 0x21: _PROXY_V2_INET6}.get(family)
    if layout is None or length < layout.size:
        raise ProtocolError(f"proxy header of family {family:#04x} with {length} bytes")
    source, destination, source_port, destination_port = layout.unpack_from(data, _PROXY_V2_HEAD.size)
    return ProxyHeader((str(ip_address(source)), source_port), (str(ip_address(destination)), destination_port)), end


def serialize_proxy_v1(source: Address | None, destination: Address | None) -> bytes:
    """Write a version 1 header; UNKNOWN when either address is not known."""
    if source is None or destination is None:
        return b"PROXY UNKNOWN\r\n"
    from_ip, to_ip = _same_family(source[0], destination[0])
    return f"PROXY TCP{from_ip.version} {from_ip} {to_ip} {source[1]} {destination[1]}\r\n".encode("ascii")


def serialize_proxy_v2(source: Address | None, destination: Address | None) -> bytes:
    """Write a version 2 header; LOCAL when either address is not known."""
    if source is None or destination is None:
        return _PROXY_V2_HEAD.pack(_PROXY_V2, 0x20, 0, 0)
    from_ip, to_ip = _same_family(source[0], destination[0])
    layout, family = (_PROXY_V2_INET, 0x11) if from_ip.version == 4 else (_PROXY_V2_INET6, 0x21)
    head = _PROXY_V2_HEAD.pack(_PROXY_V2, 0x21, family, layout.size)
    return head + layout.pack(from_ip.packed, to_ip.packed, source[1], destination[1])


def _same_family(source: str, destination: str) -> tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address]:
    """Return both addresses, as IPv6 when only one of them is."""
    one, other = (ip_address(text.partition("%")[0]) for text in (source, destination))
    if one.version == other.version:
        return one, other
    return _as_ipv6(one), _as_ipv6(other)


def _as_ipv6(address: IPv4Address | IPv6Address) -> IPv6Address:
    # Spelled ::ffff:a.b.c.d by every stack (RFC 4291 §2.5.5.2).
    return address if isinstance(address, IPv6Address) else IPv6Address(f"::ffff:{address}")
