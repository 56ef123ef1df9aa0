"""Dialing: resolve, connect with alternates and a deadline, and find a node by its join string.

What is said on the connection is left to the protocol that the caller brings.
"""

import asyncio
import errno
import hashlib
import re
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import TypeVar, cast

from moongate.errors import (
    ReachError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnresolved,
    WrongAuthority,
)
from moongate.net.addresses import OWN_AUTHORITY_ALPN, NodeAddress, host_port, is_loopback, make_join

__all__ = ["NodeAddress", "connect_udp", "dial_tcp", "make_join", "node_context", "resolve"]

ALTERNATE_AFTER_S = 0.25
"""How long an address may take before the next one is tried beside it (RFC 8305 §8)."""

CA_ANSWER_MAX = 65536
"""The most bytes of an answer to `/moongate/ca.pem` that are read."""

CA_PATH = "/moongate/ca.pem"
CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----\r?\n[A-Za-z0-9+/=\r\n]+-----END CERTIFICATE-----")

CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*(?:\r\n|\Z)", re.IGNORECASE)

P = TypeVar("P", bound=asyncio.BaseProtocol)
Address = tuple[int, str]
"""An address family and an IP address."""


async def dial_tcp(
    host: str,
    port: int,
    protocol_factory: Callable[[], P],
    *,
    timeout_s: float,
    tls: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
) -> tuple[asyncio.Transport, P]:
    """Connect to a host, trying its addresses beside one another when the first ones are slow.

    The protocol is made once, for the connection that is used.

    Raises:
        UpstreamUnresolved: If the name has no address.
        UpstreamRefused: If nobody listens there, the way is closed, or TLS was refused.
        UpstreamTimeout: If it took longer than the timeout.
        WrongAuthority: If the peer's certificate is not one that the TLS settings accept.
    """
    where = host_port(host, port)
    try:
        async with asyncio.timeout(timeout_s):
            return await _dial(host, port, protocol_factory, tls, server_hostname or host)
    except TimeoutError as failure:
        # Also what the kernel says after its own, longer patience (ETIMEDOUT).
        raise UpstreamTimeout(f"no answer from {where} within {timeout_s:g} s") from failure
    except ssl.SSLCertVerificationError as failure:
        raise WrongAuthority(f"the certificate of {where} is not accepted: {failure.verify_message}") from failure
    except ssl.SSLError as failure:
        raise UpstreamRefused(f"{where} did not complete the TLS handshake: {failure.reason or failure}") from failure
    except socket.gaierror as failure:
        raise UpstreamUnresolved(f"{host} has no address: {failure.strerror}") from failure
    except OSError as failure:
        raise _refused(where, failure) from failure


async def _dial(
    host: str, port: int, protocol_factory: Callable[[], P], tls: ssl.SSLContext | None, server_hostname: str
) -> tuple[asyncio.Transport, P]:
    loop = asyncio.get_running_loop()
    addresses = await resolve(host, port)
    name = server_hostname if tls is not None else None
    protocol = protocol_factory()
    if len(addresses) > 1 and not is_loopback(host):
        sock = await _race(addresses, port)
        try:
            return await loop.create_connection(lambda: protocol, sock=sock, ssl=tls, server_hostname=name)
        except BaseException:
            sock.close()
            raise
    # On loopback nobody is slow, only absent: one after the other takes half the time of a race.
    for _, address in addresses[:-1]:
        with suppress(ConnectionRefusedError):
            return await loop.create_connection(lambda: protocol, address, port, ssl=tls, server_hostname=name)
    return await loop.create_connection(lambda: protocol, addresses[-1][1], port, ssl=tls, server_hostname=name)


async def connect_udp(host: str, port: int, *, timeout_s: float) -> socket.socket:
    """Connect a UDP socket to the first address of a host that there is a way to; whether anybody is there, only an
    answer will tell.

    Raises:
        UpstreamUnresolved: If the name has no address.
        UpstreamRefused: If there is no way to any of its addresses.
        UpstreamTimeout: If the name was not found out in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            addresses = await resolve(host, port)
    except TimeoutError as failure:
        raise UpstreamTimeout(f"the address of {host} was not found within {timeout_s:g} s") from failure
    except socket.gaierror as failure:
        raise UpstreamUnresolved(f"{host} has no address: {failure.strerror}") from failure
    for address in addresses[:-1]:
        with suppress(OSError):
            return _udp_socket(address, port)
    try:
        return _udp_socket(addresses[-1], port)
    except OSError as failure:
        raise _refused(host_port(host, port), failure) from failure


def _udp_socket(address: Address, port: int) -> socket.socket:
    sock = socket.socket(address[0], socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.connect((address[1], port))  # sends nothing
    except BaseException:
        sock.close()
        raise
    return sock


async def resolve(host: str, port: int) -> list[Address]:
    """Return the addresses of a host in the order in which to try them, families by turns (RFC 8305 §4)."""
    literal = _literal(host)
    if literal is not None:
        return [literal]
    if host.rstrip(".").lower() == "localhost":
        # RFC 6761 §6.3 lets it mean loopback without asking; IPv4 first, where most local servers listen.
        return [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as failure:
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from failure
    unique = list(dict.fromkeys((int(family), str(address[0])) for family, _, _, _, address in found))
    first = [address for address in unique if address[0] == unique[0][0]]
    second = [address for address in unique if address[0] != unique[0][0]]
    pairs = [pair for both in zip(first, second, strict=False) for pair in both]
    return pairs + first[len(second) :] + second[len(first) :]


async def _race(addresses: list[Address], port: int) -> socket.socket:
    """Return a socket connected to the first address that answers; the others are given up."""
    running: set[asyncio.Task[socket.socket]] = set()
    failures: list[OSError] = []
    waiting = list(addresses)
    try:
        while waiting or running:
            if waiting:
                family, address = waiting.pop(0)
                running.add(asyncio.create_task(_connect(family, address, port), name=f"connect {address}"))
            done, running = await asyncio.wait(
                running, timeout=ALTERNATE_AFTER_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                failure = task.exception()
                if failure is None:
                    _give_up(done - {task})
                    return task.result()
                if not isinstance(failure, OSError):
                    raise failure
                failures.append(failure)
    finally:
        _give_up(running)
    raise failures[0]


def _give_up(tasks: set[asyncio.Task[socket.socket]]) -> None:
    for task in tasks:
        task.cancel()
        task.add_done_callback(_close_result)


def _close_result(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _connect(family: int, address: str, port: int) -> socket.socket:
    # asyncio turns Nagle's algorithm off only where the protocol is named.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _refused(where: str, failure: OSError) -> ReachError:
    if failure.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EADDRNOTAVAIL):
        return ReachError(
            f"cannot open a connection to {where}: {failure.strerror}", hint="raise the limit of open files"
        )
    if isinstance(failure, ConnectionRefusedError):
        return UpstreamRefused(f"{where} refused the connection: nothing listens there")
    return UpstreamRefused(f"{where} cannot be reached: {failure.strerror or failure}")


def _literal(host: str) -> Address | None:
    try:
        parsed = ip_address(host)
    except ValueError:
        return None
    return (socket.AF_INET if parsed.version == 4 else socket.AF_INET6), host


async def node_context(address: NodeAddress, *, timeout_s: float = 10.0) -> ssl.SSLContext | None:
    """Return the TLS settings that accept this node and nobody else; None where no TLS is spoken.

    With a fingerprint the node's authority is fetched without being believed, and only then used when it is
    exactly the pinned one.

    Raises:
        WrongAuthority: If the node shows another authority than the one pinned.
        ReachError: If the node cannot be reached.
    """
    if not address.tls:
        return None
    if address.fingerprint is None:
        context = ssl.create_default_context()
    else:
        pem = await _fetch_authority(address, timeout_s)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=pem)
        # Strict is what newer Pythons ask by themselves; our certificates pass it on all of them.
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(_alpn(address))
    return context


def _alpn(address: NodeAddress) -> list[str]:
    return ["http/1.1"] if address.fingerprint is None else [OWN_AUTHORITY_ALPN, "http/1.1"]


async def _fetch_authority(address: NodeAddress, timeout_s: float) -> str:
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    unverified.set_alpn_protocols(_alpn(address))
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()
    request = f"GET {CA_PATH} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode()
    transport, _ = await dial_tcp(
        address.host, address.port, lambda: _Fetch(request, answer), timeout_s=timeout_s, tls=unverified
    )
    try:
        async with asyncio.timeout(timeout_s):
            found = CERTIFICATE.search(await answer)
    except TimeoutError as failure:
        raise UpstreamTimeout(f"{address} did not show its certificate authority within {timeout_s:g} s") from failure
    finally:
        transport.abort()
    if found is None:
        raise ReachError(f"{address} is not a Moongate node: it has no {CA_PATH}")
    return _check_authority(address, found[0].decode())


def _check_authority(address: NodeAddress, pem: str) -> str:
    shown = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    if shown != address.fingerprint:
        raise WrongAuthority(
            f"{address} shows the certificate authority {shown}, but the join string pins {address.fingerprint}",
            hint="get a new join string from the node, or find out who answers there",
        )
    return pem


class _Fetch(asyncio.Protocol):
    """Sends one request and keeps the answer, up to its end or the limit."""

    def __init__(self, request: bytes, answer: asyncio.Future[bytes]) -> None:
        self._request = request
        self._answer = answer
        self._data = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > CA_ANSWER_MAX or _is_whole(self._data):
            self._finish()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._finish()

    def _finish(self) -> None:
        if not self._answer.done():
            self._answer.set_result(bytes(self._data[:CA_ANSWER_MAX]))


def _is_whole(answer: bytearray) -> bool:
    """Whether the answer has as many bytes as it says; where it does not say, the end of the connection tells."""
    head, _, body = answer.partition(b"\r\n\r\n")
    length = CONTENT_LENGTH.search(head)
    return length is not None and len(body) >= int(length[1])
