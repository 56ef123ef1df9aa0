"""Listening: bind, accept, look at the first bytes, end TLS, and hand the connection to who speaks what is inside.

What the bytes then mean is left to the protocols that the caller's factories make.
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import cast

import structlog

from moongate.errors import ConfigurationError, PortInUse, ProtocolError
from moongate.net.certificates import OWN_AUTHORITY_ALPN, Certificates
from moongate.wire.hello import ClientHello, ProxyHeader, parse_client_hello, parse_proxy

log = structlog.get_logger("moongate.net.listening")

BACKLOG = 1024
"""Connections that the kernel completes for us while the loop is busy; a node's agents all come back at once."""

MAX_UNDECIDED = 4096
"""Connections whose first bytes are not all there yet; beyond it the one that has waited longest is dropped."""

SHUTDOWN_TIMEOUT_S = 2.0
"""How long a closing TLS connection waits for the peer's close_notify."""

TLS_HANDSHAKE = 0x16
"""The content type of a TLS record that carries a handshake (RFC 8446 §5.1); no HTTP method begins with it."""

DECODE_ERROR = bytes((0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x32))
"""A fatal decode_error alert (RFC 8446 §6.2), for those whose ClientHello cannot be read."""

PROXY_PREFIXES = (b"PROXY ", b"\r\n\r\n\x00\r\nQUIT\n")
"""How versions 1 and 2 of the PROXY protocol begin."""

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of an accepted connection, and how it came in."""

    address: str
    port: int
    local_address: str
    local_port: int
    tls: bool = False
    server_name: str | None = None
    alpn: str | None = None
    via: str | None = None
    """The address of the trusted proxy that named the peer, when one did."""

    @property
    def text(self) -> str:
        """The address as people write it: `ip:port`, with brackets around IPv6."""
        return host_port(self.address, self.port)

    @property
    def is_loopback(self) -> bool:
        """Whether the peer is on this machine; never so when a proxy spoke for it."""
        return self.via is None and _is_loopback(self.address)

    @property
    def came_to_loopback(self) -> bool:
        """Whether the connection was accepted on a loopback address."""
        return _is_loopback(self.local_address)


HttpFactory = Callable[[Peer], asyncio.Protocol]
RawFactory = Callable[[Peer, bytes], asyncio.Protocol]
PassThrough = Callable[[str], RawFactory | None]


@dataclass(slots=True)
class ListenerCounts:
    """What happened to connections before anybody owned them."""

    accepted: int = 0
    timed_out: int = 0
    refused: int = 0
    handshakes_failed: int = 0
    evicted: int = 0


class Listener:
    """Accepts connections on any number of addresses and tells by the first bytes whose they are."""

    def __init__(
        self,
        *,
        http: HttpFactory,
        pass_through: PassThrough,
        certificates: Certificates,
        trusted_proxies: Iterable[str | Network] = (),
        handshake_timeout_s: float = 10.0,
        first_byte_timeout_s: float = 30.0,
        reuse_port: bool = False,
    ) -> None:
        self.counts = ListenerCounts()
        self._http = http
        self._pass_through = pass_through
        self._certificates = certificates
        self._trusted = tuple(ip_network(network) for network in trusted_proxies)
        self._handshake_timeout_s = handshake_timeout_s
        self._first_byte_timeout_s = first_byte_timeout_s
        self._reuse_port = reuse_port
        self._servers: list[asyncio.Server] = []
        # Both are dicts because they keep the order of arrival.
        self._undecided: dict[_Sniffer, None] = {}
        self._handshakes: dict[asyncio.Task[None], _Sniffer] = {}

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen on one more address, and return it with the port that it really has.

        Raises:
            PortInUse: If another program listens there.
            ConfigurationError: If the address is none of this machine's, or not ours to take.
        """
        sockets = await bind(host, port, reuse_port=self._reuse_port)
        loop = asyncio.get_running_loop()
        bound = sockets[0].getsockname()
        for sock in sockets:
            self._servers.append(await loop.create_server(self._accept, sock=sock, backlog=BACKLOG))
        return bound[0], bound[1]

    def stop_accepting(self) -> None:
        """Close the listening sockets; connections that were accepted go on."""
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def aclose(self) -> None:
        """Stop accepting, and abort the connections that are still being looked at.

        Those handed over belong to their protocols' owner.
        """
        self.stop_accepting()
        for sniffer in list(self._undecided):
            sniffer.abort()
        tasks = list(self._handshakes)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def trusts(self, address: str) -> bool:
        """Whether a PROXY header from this address is believed."""
        if not self._trusted:
            return False
        parsed = _parse_ip(address)
        return parsed is not None and any(parsed in network for network in self._trusted)

    def _accept(self) -> "_Sniffer":
        self.counts.accepted += 1
        if len(self._undecided) >= MAX_UNDECIDED:
            self.counts.evicted += 1
            next(iter(self._undecided)).abort()
        sniffer = _Sniffer(self)
        self._undecided[sniffer] = None
        return sniffer

    def _forget(self, sniffer: "_Sniffer") -> None:
        self._undecided.pop(sniffer, None)

    def _secure(self, sniffer: "_Sniffer", hello: ClientHello, peer: Peer) -> None:
        self._forget(sniffer)
        task = asyncio.get_running_loop().create_task(self._shake_hands(sniffer, hello, peer), name=f"tls {peer.text}")
        self._handshakes[task] = sniffer
        task.add_done_callback(self._handshake_ended)

    def _handshake_ended(self, task: asyncio.Task[None]) -> None:
        sniffer = self._handshakes.pop(task)
        if task.cancelled():
            sniffer.abort()
        elif (failure := task.exception()) is not None:
            sniffer.abort()
            log.error("a connection failed while it was being set up", peer=sniffer.peer_text, exc_info=failure)

    async def _shake_hands(self, sniffer: "_Sniffer", hello: ClientHello, peer: Peer) -> None:
        context = self._certificates.context_for(
            hello.server_name, own=OWN_AUTHORITY_ALPN in hello.alpn, local_address=peer.local_address
        )
        loop = asyncio.get_running_loop()
        pending = _Pending()
        transport = sniffer.transport
        # start_tls runs up to its first wait at once, and by then the TLS protocol owns the transport. The callback
        # below is queued before that protocol's connection_made and before reading resumes, so that the bytes we have
        # already read come first whatever the peer sends next.
        loop.call_soon(sniffer.give_back)
        try:
            secured = await loop.start_tls(
                transport,
                pending,
                context,
                server_side=True,
                # The sniffer's own timer is the deadline; this one must only not come first.
                ssl_handshake_timeout=self._handshake_timeout_s + 60,
                ssl_shutdown_timeout=SHUTDOWN_TIMEOUT_S,
            )
        except OSError as failure:
            self.counts.handshakes_failed += 1
            log.debug("a TLS handshake failed", peer=peer.text, server_name=hello.server_name, reason=str(failure))
            sniffer.abort()
            return
        # When the peer leaves in the middle asyncio answers None, and uvloop a transport with nothing inside.
        tls = secured.get_extra_info("ssl_object") if secured is not None else None
        if secured is None or tls is None or pending.lost:
            self.counts.handshakes_failed += 1
            sniffer.abort()
            return
        sniffer.settle()
        chosen = tls.selected_alpn_protocol()
        protocol = self._http(replace(peer, tls=True, server_name=hello.server_name, alpn=chosen))
        pending.give_way(secured, protocol)


class _Sniffer(asyncio.Protocol):
    """Gathers a new connection's first bytes until they tell who must have it."""

    __slots__ = ("_data", "_listener", "_peer", "_secured", "_timer", "_transport", "_trusted", "peer_text")

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._data = b""
        self._secured = False
        self._trusted = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._peer: Peer | None = None
        self.peer_text = "?"

    @property
    def transport(self) -> asyncio.Transport:
        """The connection."""
        assert self._transport is not None
        return self._transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = _peer_of(self._transport)
        if peer is None:
            # It left before it was accepted.
            self.abort()
            return
        self._peer = peer
        self.peer_text = peer.text
        self._trusted = self._listener.trusts(peer.address)
        self._set_deadline(self._listener._first_byte_timeout_s)

    def data_received(self, data: bytes) -> None:
        if self._peer is None:
            return
        if not self._data and not self._secured:
            self._set_deadline(self._listener._handshake_timeout_s)
        self._data += data
        if self._secured:
            return
        try:
            self._decide(self._peer)
        except ProtocolError as refusal:
            self._refuse(refusal)
        except Exception:
            # One connection's failure must not reach the loop, and must not go unnoticed.
            log.exception("a connection failed while it was being set up", peer=self.peer_text)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.settle()

    def abort(self) -> None:
        """Drop the connection at once."""
        self.settle()
        if self._transport is not None:
            self._transport.abort()

    def settle(self) -> None:
        """Stop watching the connection: it is gone, or somebody else's."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._listener._forget(self)

    def give_back(self) -> None:
        """Feed the TLS protocol, which has our place now, with the bytes that we have read."""
        protocol = self.transport.get_protocol()
        if protocol is self:
            return
        data, self._data = self._data, b""
        feed(protocol, data)

    def _set_deadline(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._expire)

    def _expire(self) -> None:
        self._listener.counts.timed_out += 1
        log.debug("a connection took too long to say what it is", peer=self.peer_text)
        self.abort()

    def _refuse(self, refusal: ProtocolError) -> None:
        self._listener.counts.refused += 1
        log.debug("a connection's first bytes were refused", peer=self.peer_text, reason=refusal.message)
        if self._data[:1] == bytes((TLS_HANDSHAKE,)):
            self.transport.write(DECODE_ERROR)
        self.settle()
        self.transport.close()

    def _decide(self, peer: Peer) -> None:
        if self._trusted and not self._take_proxy_header(peer):
            return
        peer = cast(Peer, self._peer)
        if not self._data:
            return
        if self._data[0] != TLS_HANDSHAKE:
            self._hand_over(self._listener._http(peer), self._data)
            return
        hello = parse_client_hello(self._data)
        if hello is None:
            return
        raw = self._listener._pass_through(hello.server_name) if hello.server_name else None
        if raw is not None:
            self._hand_over(raw(replace(peer, tls=True, server_name=hello.server_name), self._data), b"")
            return
        self._secured = True
        self._listener._secure(self, hello, peer)

    def _take_proxy_header(self, peer: Peer) -> bool:
        """Read the PROXY header of a trusted peer; return whether what follows may be looked at."""
        if any(prefix.startswith(self._data[: len(prefix)]) for prefix in PROXY_PREFIXES):
            header, consumed = parse_proxy(self._data)
            if header is None:
                return False
            self._data = self._data[consumed:]
            self._peer = _proxied(peer, header)
            self.peer_text = self._peer.text
        self._trusted = False
        return True

    def _hand_over(self, protocol: asyncio.Protocol, data: bytes) -> None:
        self.settle()
        transport = self.transport
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if data:
            protocol.data_received(data)


class _Pending(asyncio.Protocol):
    """Keeps what arrives between the end of a handshake and the arrival of the protocol that wants it."""

    __slots__ = ("_data", "_eof", "lost")

    def __init__(self) -> None:
        self._data = b""
        self._eof = False
        self.lost = False

    def data_received(self, data: bytes) -> None:
        self._data += data

    def eof_received(self) -> bool:
        self._eof = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def give_way(self, transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        """Hand the connection, and what was kept, to the protocol that wants it."""
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if self._data:
            protocol.data_received(self._data)
        if self._eof and not protocol.eof_received():
            transport.close()


def feed(protocol: asyncio.BaseProtocol, data: bytes) -> None:
    """Give bytes to a protocol of either kind as if they had just been read."""
    if not hasattr(protocol, "get_buffer"):
        cast(asyncio.Protocol, protocol).data_received(data)
        return
    # Asked by its methods: uvloop's TLS protocol is a buffered one without being a BufferedProtocol.
    buffered = cast(asyncio.BufferedProtocol, protocol)
    rest = memoryview(data)
    while rest:
        buffer = memoryview(buffered.get_buffer(len(rest)))
        size = min(len(buffer), len(rest))
        buffer[:size] = rest[:size]
        buffered.buffer_updated(size)
        rest = rest[size:]


async def bind(host: str, port: int, *, reuse_port: bool = False) -> list[socket.socket]:
    """Bind every address that a host name stands for, all of them to one port.

    Raises:
        PortInUse: If another program listens there.
        ConfigurationError: If the address is none of this machine's, or not ours to take.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as failure:
        raise ConfigurationError(f"cannot listen on {host_port(host, port)}: {failure.strerror}") from failure
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            wanted = (address[0], port or (sockets[0].getsockname()[1] if sockets else 0), *address[2:])
            sockets.append(_bind_one(family, wanted, reuse_port=reuse_port))
    except OSError as failure:
        for sock in sockets:
            sock.close()
        raise _bind_failure(host_port(host, port), failure) from failure
    return sockets


def _bind_one(family: int, address: tuple[str | int, ...], *, reuse_port: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # "::" means everybody; any other IPv6 address means itself.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _bind_failure(wanted: str, failure: OSError) -> PortInUse | ConfigurationError:
    if failure.errno == errno.EADDRINUSE:
        return PortInUse(
            f"{wanted} is in use by another program", hint="stop that program, or listen on another port"
        )
    if failure.errno in (errno.EACCES, errno.EPERM):
        return ConfigurationError(
            f"not allowed to listen on {wanted}", hint="ports below 1024 need root or CAP_NET_BIND_SERVICE"
        )
    if failure.errno == errno.EADDRNOTAVAIL:
        return ConfigurationError(
            f"cannot listen on {wanted}: no interface of this machine has that address",
            hint="listen on 0.0.0.0 or [::] to accept on every interface",
        )
    return ConfigurationError(f"cannot listen on {wanted}: {failure.strerror or failure}")


def host_port(host: str, port: int) -> str:
    """Write a host and a port as people do, with brackets around IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _peer_of(transport: asyncio.Transport) -> Peer | None:
    remote = transport.get_extra_info("peername")
    local = transport.get_extra_info("sockname")
    if not remote or not local:
        return None
    return Peer(_plain(remote[0]), remote[1], _plain(local[0]), local[1])


def _plain(address: str) -> str:
    """Write an IPv4 address that came in on an IPv6 socket as IPv4."""
    return address[7:] if address.startswith("::ffff:") and "." in address else address


def _proxied(peer: Peer, header: ProxyHeader) -> Peer:
    if header.source is None:
        # LOCAL or UNKNOWN: the proxy speaks for itself, as in its health checks.
        return peer
    address, port = header.source
    return replace(peer, address=_plain(address), port=port, via=peer.text)


def _parse_ip(address: str) -> IPv4Address | IPv6Address | None:
    with suppress(ValueError):
        return ip_address(address.partition("%")[0])
    return None


def _is_loopback(address: str) -> bool:
    parsed = _parse_ip(address)
    return parsed is not None and parsed.is_loopback
