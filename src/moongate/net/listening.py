"""Listening: bind, accept, look at the first bytes, end TLS, and hand the connection to who speaks what is inside.

What the bytes then mean is left to the protocols that the caller's factories make.
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, cast

from moongate.errors import ConfigurationError, PortInUse, ProtocolError
from moongate.net.addresses import OWN_AUTHORITY_ALPN, Peer, host_port, parse_ip, plain
from moongate.net.certificates import PROOF_ALPN, Certificates
from moongate.net.memory import tune_allocator
from moongate.tasks import TaskSet
from moongate.telemetry import get_logger
from moongate.wire.hello import ClientHello, ProxyHeader, may_be_proxy, parse_client_hello, parse_proxy

__all__ = ["HttpFactory", "Listener", "ListenerCounts", "PassThrough", "Peer", "RawFactory", "bind", "bind_udp", "feed"]

log = get_logger(__name__)

BACKLOG = 1024
"""Connections that the kernel completes for us while the loop is busy; a node's agents all come back at once."""

ACCEPT_BURST = 16
"""Connections that asyncio accepts in one turn of its loop. It calls this its backlog, too, and when descriptors run
out it reports that many failures a second."""

MAX_UNDECIDED = 4096
"""Connections whose first bytes are not all there yet; beyond it the one that has waited longest is dropped."""

SHUTDOWN_TIMEOUT_S = 2.0
"""How long a closing TLS connection waits for the peer's close_notify."""

TLS_HANDSHAKE = 0x16
"""The content type of a TLS record that carries a handshake (RFC 8446 §5.1); no HTTP method begins with it."""

DECODE_ERROR = bytes((0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x32))
"""A fatal decode_error alert (RFC 8446 §6.2), for those whose ClientHello cannot be read."""

Network = IPv4Network | IPv6Network
HttpFactory = Callable[[Peer], asyncio.Protocol]
RawFactory = Callable[[Peer, bytes], asyncio.Protocol]
"""Is given the first bytes, the whole ClientHello among them; they do not come again."""
PassThrough = Callable[[str], RawFactory | None]
"""Is asked with the TLS server name; None when TLS ends here."""


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
        self.http = http
        self.pass_through = pass_through
        self.handshake_timeout_s = handshake_timeout_s
        self.first_byte_timeout_s = first_byte_timeout_s
        self.counts = ListenerCounts()
        self._certificates = certificates
        self._trusted = tuple(ip_network(network) for network in trusted_proxies)
        self._reuse_port = reuse_port
        self._servers: list[asyncio.Server] = []
        # A dict because it keeps the order of arrival.
        self._undecided: dict[_Sniffer, None] = {}
        self._handshakes = TaskSet("listener")

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen on one more address, and return it with the port that it really has.

        Raises:
            PortInUse: If another program listens there.
            ConfigurationError: If the address is none of this machine's, or not ours to take.
        """
        tune_allocator()
        sockets = await bind(host, port, reuse_port=self._reuse_port)
        loop = asyncio.get_running_loop()
        bound = sockets[0].getsockname()
        for sock in sockets:
            self._servers.append(await loop.create_server(lambda: _Sniffer(self), sock=sock, backlog=ACCEPT_BURST))
            sock.listen(BACKLOG)
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
        await self._handshakes.aclose()

    def trusts(self, address: str) -> bool:
        """Whether a PROXY header from this address is believed."""
        if not self._trusted:
            return False
        parsed = parse_ip(address)
        return parsed is not None and any(parsed in network for network in self._trusted)

    def awaits_proof(self, hello: ClientHello) -> bool:
        """Whether this peer comes for a proof that a name is ours."""
        return self._certificates.proof_for(hello.server_name, hello.alpn) is not None

    def remember(self, sniffer: "_Sniffer") -> None:
        """Count a new connection among the undecided ones, at the cost of the oldest when they are too many."""
        self.counts.accepted += 1
        if len(self._undecided) >= MAX_UNDECIDED:
            self.counts.evicted += 1
            next(iter(self._undecided)).abort()
        self._undecided[sniffer] = None

    def forget(self, sniffer: "_Sniffer") -> None:
        """Take a connection off the undecided ones."""
        self._undecided.pop(sniffer, None)

    def secure(self, sniffer: "_Sniffer", hello: ClientHello, peer: Peer) -> None:
        """Begin the TLS handshake of a connection whose ClientHello is there, in a task of its own."""
        self.forget(sniffer)
        self._handshakes.start(f"handshake with {peer.text}", self._secure(sniffer, hello, peer))

    async def _secure(self, sniffer: "_Sniffer", hello: ClientHello, peer: Peer) -> None:
        pending = _Pending()
        try:
            secured, chosen = await self._shake_hands(sniffer, hello, peer, pending)
        except OSError as failure:
            self.counts.handshakes_failed += 1
            reason = str(failure) or type(failure).__name__
            log.debug("a TLS handshake failed", peer=peer.text, server_name=hello.server_name, reason=reason)
            sniffer.abort()
            return
        except BaseException:
            # Cancelled, or a mistake of ours, which the set of tasks reports.
            sniffer.abort()
            raise
        sniffer.settle()
        if chosen == PROOF_ALPN:
            secured.close()  # the handshake was all there is to see (RFC 8737 §3)
            return
        try:
            protocol = self.http(replace(peer, tls=True, server_name=hello.server_name, alpn=chosen))
            pending.give_way(secured, protocol)
        except Exception:
            secured.abort()
            raise

    async def _shake_hands(
        self, sniffer: "_Sniffer", hello: ClientHello, peer: Peer, pending: "_Pending"
    ) -> tuple[asyncio.Transport, str | None]:
        """Return the transport inside TLS, and the application protocol that was chosen.

        Raises:
            OSError: If the peer broke the handshake off, or broke its rules.
        """
        certificates = self._certificates
        context = certificates.proof_for(hello.server_name, hello.alpn) or certificates.context_for(
            hello.server_name, own=OWN_AUTHORITY_ALPN in hello.alpn, local_address=peer.local_address
        )
        loop = asyncio.get_running_loop()
        # start_tls runs up to its first wait at once, and by then the TLS protocol owns the transport. This callback is
        # queued before that protocol's connection_made and before reading resumes, so that the bytes we have already
        # read come first whatever the peer sends next.
        loop.call_soon(sniffer.give_back)
        secured = await loop.start_tls(
            sniffer.transport,
            pending,
            context,
            server_side=True,
            # The sniffer's own timer is the deadline; this one must only not come first.
            ssl_handshake_timeout=self.handshake_timeout_s + 60,
            ssl_shutdown_timeout=SHUTDOWN_TIMEOUT_S,
        )
        # When the peer leaves in the middle asyncio answers None, and uvloop a transport with nothing inside.
        tls = secured.get_extra_info("ssl_object") if secured is not None else None
        if secured is None or tls is None or pending.lost:
            raise ConnectionResetError("the peer left during the handshake")
        return secured, tls.selected_alpn_protocol()


class _Sniffer(asyncio.Protocol):
    """Gathers a new connection's first bytes until they tell who must have it."""

    __slots__ = ("_data", "_listener", "_may_be_proxy", "_peer", "_secured", "_timer", "transport")

    transport: asyncio.Transport

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._data = b""
        self._may_be_proxy = False
        self._secured = False
        self._peer: Peer | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._listener.remember(self)
        self._peer = _peer_of(self.transport)
        if self._peer is None:
            # It left before it was accepted.
            self.abort()
            return
        self._may_be_proxy = self._listener.trusts(self._peer.address)
        self._set_deadline(self._listener.first_byte_timeout_s)

    def data_received(self, data: bytes) -> None:
        if self._peer is None:
            return
        if not self._data and not self._secured:
            self._set_deadline(self._listener.handshake_timeout_s)
        self._data += data
        if self._secured:
            return
        try:
            self._decide(self._peer)
        except ProtocolError as refusal:
            self._refuse(self._peer, refusal)
        except Exception:
            # One connection's failure must not reach the loop, and must not go unnoticed.
            log.exception("a connection failed while it was being set up", peer=self._peer.text)
            self.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.settle()

    def abort(self) -> None:
        """Drop the connection at once."""
        self.settle()
        self.transport.abort()

    def settle(self) -> None:
        """Stop watching the connection: it is gone, or somebody else's."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._listener.forget(self)

    def give_back(self) -> None:
        """Feed the TLS protocol, which has our place now, with the bytes that we have read."""
        protocol = self.transport.get_protocol()
        if protocol is not self:
            data, self._data = self._data, b""
            feed(protocol, data)

    def _set_deadline(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._expire)

    def _expire(self) -> None:
        self._listener.counts.timed_out += 1
        log.debug("a connection took too long to say what it is", peer=self._peer.text if self._peer else "")
        self.abort()

    def _refuse(self, peer: Peer, refusal: ProtocolError) -> None:
        self._listener.counts.refused += 1
        log.debug("a connection's first bytes were refused", peer=peer.text, reason=refusal.message)
        if self._data[0] == TLS_HANDSHAKE:
            self.transport.write(DECODE_ERROR)
        self.settle()
        self.transport.close()

    def _decide(self, peer: Peer) -> None:
        if self._may_be_proxy:
            named = self._read_proxy_header(peer)
            if named is None:
                return
            self._peer = peer = named
        if not self._data:
            return
        if self._data[0] != TLS_HANDSHAKE:
            self._hand_over(self._listener.http(peer), self._data)
            return
        hello = parse_client_hello(self._data)
        if hello is None:
            return
        raw = self._pass_through(hello)
        if raw is not None:
            self._hand_over(raw(replace(peer, tls=True, server_name=hello.server_name), self._data), b"")
            return
        self._secured = True
        self._listener.secure(self, hello, peer)

    def _pass_through(self, hello: ClientHello) -> RawFactory | None:
        # A proof that we await is ours to give, also for a name whose TLS ends elsewhere.
        if not hello.server_name or self._listener.awaits_proof(hello):
            return None
        return self._listener.pass_through(hello.server_name)

    def _read_proxy_header(self, peer: Peer) -> Peer | None:
        """Return whom the connection is from as far as a trusted proxy says; None until that is known."""
        if may_be_proxy(self._data):
            header, consumed = parse_proxy(self._data)
            if header is None:
                return None
            self._data = self._data[consumed:]
            peer = _proxied(peer, header)
        self._may_be_proxy = False
        return peer

    def _hand_over(self, protocol: asyncio.Protocol, data: bytes) -> None:
        self.settle()
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        if data:
            feed(protocol, data)


class _Pending(asyncio.Protocol):
    """Keeps what arrives between the end of a handshake and the arrival of the protocol that wants it."""

    __slots__ = ("_data", "_eof", "lost")

    def __init__(self) -> None:
        self._data = b""
        self._eof = False
        self.lost = False

    def data_received(self, data: bytes) -> None:
        self._data += data

    def eof_received(self) -> None:
        self._eof = True  # inside TLS there is no staying half open

    def connection_lost(self, _exc: Exception | None) -> None:
        self.lost = True

    def give_way(self, transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        """Hand the connection, and what was kept, to the protocol that wants it."""
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if self._data:
            feed(protocol, self._data)
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
            # Asked for any port, all addresses share the one that the first was given.
            chosen = port or (sockets[0].getsockname()[1] if sockets else 0)
            sockets.append(_bind_one(family, (address[0], chosen, *address[2:]), reuse_port=reuse_port))
    except OSError as failure:
        for sock in sockets:
            sock.close()
        raise _bind_failure(host_port(host, port), failure) from failure
    return sockets


async def bind_udp(host: str, port: int) -> list[socket.socket]:
    """Bind a UDP socket to every address that a host name stands for.

    Raises:
        OSError: If the name has no address, or another program has the port.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            sockets.append(_bind_udp_one(family, address))
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bind_udp_one(family: int, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _bind_one(family: int, address: tuple[str | int, ...], *, reuse_port: bool) -> socket.socket:
    # asyncio turns Nagle's algorithm off only where the protocol is named.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # "::" means everybody; any other IPv6 address means itself.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
        sock.bind(address)
        # Bound twice with SO_REUSEADDR is possible until one of them listens, so that "in use" shows only here.
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _bind_failure(wanted: str, failure: OSError) -> PortInUse | ConfigurationError:
    if failure.errno == errno.EADDRINUSE:
        return PortInUse(f"{wanted} is in use by another program", hint="stop that program, or listen on another port")
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


def _peer_of(transport: asyncio.Transport) -> Peer | None:
    remote = transport.get_extra_info("peername")
    local = transport.get_extra_info("sockname")
    if not remote or not local:
        return None
    return Peer(plain(remote[0]), remote[1], plain(local[0]), local[1])


def _proxied(peer: Peer, header: ProxyHeader) -> Peer:
    if header.source is None:
        # The proxy speaks for itself, as in its health checks.
        return peer
    address, port = header.source
    return replace(peer, address=plain(address), port=port, via=peer.text)
