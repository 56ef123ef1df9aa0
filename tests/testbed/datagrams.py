"""UDP programs of a test: a service that answers, and a visitor that asks."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager

WHOLE = 65_536  # more than any datagram has


class UdpService(asyncio.DatagramProtocol):
    """Answers each datagram with what `answer` makes of it, and remembers who sent it."""

    def __init__(self, sock: socket.socket, answer: Callable[[bytes], bytes | None]) -> None:
        self._socket = sock
        self._answer = answer
        self.sources: list[tuple[str, int]] = []
        self.received: list[bytes] = []

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.received.append(data)
        if addr not in self.sources:
            self.sources.append(addr)
        answer = self._answer(data)
        if answer is not None:
            self._socket.sendto(answer, addr)  # the loop's transport sends nothing that is empty

    def send(self, data: bytes, source: int = 0) -> None:
        """Say something unasked to one of those who have come."""
        self._socket.sendto(data, self.sources[source])


@asynccontextmanager
async def udp_service(answer: Callable[[bytes], bytes | None] = lambda data: data) -> AsyncIterator[UdpService]:
    """Serve on a free port of loopback."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(("127.0.0.1", 0))
    loop = asyncio.get_running_loop()
    transport, service = await loop.create_datagram_endpoint(lambda: UdpService(sock, answer), sock=sock)
    try:
        yield service
    finally:
        transport.close()


class UdpVisitor:
    """A program that talks to one UDP port."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    @property
    def address(self) -> str:
        host, port = self.sock.getsockname()
        return f"{host}:{port}"

    def send(self, data: bytes) -> None:
        self.sock.send(data)

    async def receive(self, timeout_s: float = 10.0) -> bytes:
        async with asyncio.timeout(timeout_s):
            return await self._loop.sock_recv(self.sock, WHOLE)

    async def ask(self, data: bytes) -> bytes:
        self.send(data)
        return await self.receive()

    async def hears_nothing_but(self, port: "UdpVisitor") -> None:
        """Another visitor's question and answer have gone their way since, and nothing has come here."""
        await port.ask(b"are you there")
        try:
            data = self.sock.recv(WHOLE)
        except BlockingIOError:
            return
        raise AssertionError(f"received {data[:40]!r}")


@contextmanager
def udp_visitor(port: int, source: str = "127.0.0.1") -> Iterator[UdpVisitor]:
    """Have a socket connected to a port of loopback."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.setblocking(False)
        sock.bind((source, 0))
        sock.connect(("127.0.0.1", port))
        yield UdpVisitor(sock)
