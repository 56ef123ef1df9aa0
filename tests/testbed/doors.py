"""A listener with a protocol behind it that says whom it sees, and a TLS client whose every byte a test decides."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from moongate.net.certificates import Certificates
from moongate.net.listening import Listener, Peer, RawFactory

__all__ = ["Answering", "Door", "TlsClient", "open_door", "trusting"]


class Answering(asyncio.Protocol):
    """Answers every request head with the peer that it sees, and keeps all that it received."""

    def __init__(self, peer: Peer, first: bytes = b"") -> None:
        self.peer = peer
        self.received = bytearray(first)
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.eof = False
        self._answered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no asyncio.Transport to isinstance.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        while self._answered < self.received.count(b"\r\n\r\n"):
            self._answered += 1
            body = json.dumps(asdict(self.peer)).encode()
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    def eof_received(self) -> None:
        self.eof = True

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)


@dataclass
class Door:
    """A listener, where it listens, and the connections that it has handed over."""

    listener: Listener
    certificates: Certificates
    host: str
    port: int
    ca: Path
    connections: list[Answering] = field(default_factory=list)

    async def ask(self, *, tls: ssl.SSLContext | None = None, name: str = "a.localhost") -> dict[str, Any]:
        """Send one request and return the peer that the other side saw."""
        reader, writer = await asyncio.open_connection(
            self.host, self.port, ssl=tls, server_hostname=name if tls else None
        )
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n")
            return await read_answer(reader)
        finally:
            writer.transport.abort()


async def read_answer(reader: asyncio.StreamReader) -> dict[str, Any]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
    answer: dict[str, Any] = json.loads(await reader.readexactly(length))
    return answer


@asynccontextmanager
async def open_door(
    home: Path,
    host: str = "127.0.0.1",
    *,
    given: tuple[Path, Path] | None = None,
    pass_through: Callable[[str], RawFactory | None] = lambda name: None,
    http: Callable[[Peer], asyncio.Protocol] | None = None,
    **options: Any,
) -> AsyncIterator[Door]:
    """Listen, and afterwards leave nothing open."""
    certificates = Certificates(home, "localhost", given=given)
    connections: list[Answering] = []

    def answer(peer: Peer) -> asyncio.Protocol:
        connections.append(Answering(peer))
        return connections[-1]

    listener = Listener(http=http or answer, pass_through=pass_through, certificates=certificates, **options)
    try:
        bound, port = await listener.start(host, 0)
        yield Door(listener, certificates, bound, port, home / "ca.pem", connections)
    finally:
        await listener.aclose()
        for connection in connections:
            connection.transport.abort()
        await asyncio.sleep(0)


def trusting(door: Door, *, strict: bool = False) -> ssl.SSLContext:
    """Return TLS settings that believe the door's authority and nobody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=door.certificates.ca_pem.decode())
    if strict:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


class TlsClient:
    """A TLS client without a socket: what it wants to send is taken, what came is fed."""

    def __init__(self, context: ssl.SSLContext, name: str = "a.localhost") -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=name)

    def hello(self) -> bytes:
        """Return the ClientHello."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return self._out.read()
        raise AssertionError("a handshake needs two")

    async def finish(self, reader: asyncio.StreamReader) -> bytes:
        """Go on with what the server says until the handshake is done; return what must be sent for that."""
        while True:
            self._in.write(await reader.read(65536))
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                continue
            return self._out.read()

    def encrypt(self, data: bytes) -> bytes:
        self._tls.write(data)
        return self._out.read()

    async def read(self, reader: asyncio.StreamReader) -> bytes:
        """Return the next decrypted bytes."""
        while True:
            try:
                return self._tls.read(65536)
            except ssl.SSLWantReadError:
                data = await reader.read(65536)
                if not data:
                    return b""
                self._in.write(data)
