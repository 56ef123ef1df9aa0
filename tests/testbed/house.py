"""A node and its agents in this process, on real sockets: what the integration tests walk through."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moongate.agent.reports import AgentEvent, Refused, TunnelReady
from moongate.agent.routes import Route, Upstream
from moongate.agent.service import Agent, ExitReason
from moongate.config import Config, load_config
from moongate.net.dialing import NodeAddress
from moongate.node.server import Node
from testbed import free_port, until_async

__all__ = ["House", "RunningAgent", "Visitor", "http_route", "open_house", "serving", "tcp_route", "udp_route"]

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def http_route(port: int, name: str, **options: Any) -> Route:
    return Route("http", Upstream("http", "127.0.0.1", port), subdomain=name, options=options)


def tcp_route(upstream_port: int, **more: Any) -> Route:
    return Route("tcp", Upstream("tcp", "127.0.0.1", upstream_port), **more)


def udp_route(upstream_port: int, host: str = "127.0.0.1", **more: Any) -> Route:
    return Route("udp", Upstream("udp", host, upstream_port), **more)


@dataclass
class RunningAgent:
    """An agent, what it has said, and the end it came to."""

    agent: Agent
    events: list[AgentEvent]
    task: asyncio.Task[ExitReason]

    @property
    def ready(self) -> list[TunnelReady]:
        return [event for event in self.events if isinstance(event, TunnelReady)]

    @property
    def refused(self) -> list[Refused]:
        return [event for event in self.events if isinstance(event, Refused)]

    def url(self, index: int = 0) -> str:
        return self.ready[index].public_url

    def port(self, index: int = 0) -> int:
        port = self.ready[index].port
        assert port is not None
        return port

    async def stop(self) -> ExitReason:
        self.agent.stop()
        return await self.task

    async def vanish(self) -> None:
        """Cut the link without a word, as a crash would."""
        mux = self.agent._mux
        if mux is not None:
            mux.link.fail("cut by the test")
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


@dataclass
class House:
    """One node, and the agents that a test starts."""

    node: Node
    config: Config
    agents: list[RunningAgent] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.node.addresses[0][1]

    @property
    def join(self) -> str:
        return self.node.join

    async def agent(self, *routes: Route, token: str | None = None, wait: bool = True, **more: Any) -> RunningAgent:
        """Start an agent; with `wait`, until the node has answered each of its claims."""
        events: list[AgentEvent] = []
        agent = Agent(
            NodeAddress.parse(self.join),
            list(routes),
            on_event=events.append,
            token=token,
            **more,
        )
        running = RunningAgent(agent, events, asyncio.create_task(agent.run()))
        self.agents.append(running)
        if wait:
            await until_async(
                lambda: running.task.done() or len(running.ready) + len(running.refused) >= len(routes),
                what=f"answers to {len(routes)} claims; said so far: {events}",
            )
        return running

    async def token(self, scope: str | None = None, label: str = "test") -> str:
        _, raw = await self.node._tokens.create(label, scope)
        return raw

    @asynccontextmanager
    async def visitor(self, port: int | None = None) -> AsyncIterator["Visitor"]:
        """A raw connection to the node's port, or to another."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port or self.port, limit=2**20)
        try:
            yield Visitor(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@dataclass
class Answer:
    """One HTTP/1.1 answer as it came over the wire."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        for line in self.head.split(b"\r\n")[1:]:
            found, _, value = line.partition(b":")
            if found.lower() == name.lower().encode():
                return value.strip().decode("latin-1")
        return None


class Visitor:
    """Sends what it likes and reads answers one by one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def request(self, host: str, path: str = "/", method: str = "GET", headers: str = "", body: bytes = b"") -> None:
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        self.send(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{length}{headers}\r\n".encode() + body)

    async def head(self) -> tuple[int, bytes]:
        async with asyncio.timeout(15):
            head = await self.reader.readuntil(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), head

    async def answer(self, method: str = "GET") -> Answer:
        status, head = await self.head()
        answer = Answer(status, head, b"")
        if method == "HEAD" or status in (204, 304) or status < 200:
            return answer
        async with asyncio.timeout(30):
            if (length := answer.header("content-length")) is not None:
                answer.body = await self.reader.readexactly(int(length))
            elif answer.header("transfer-encoding") == "chunked":
                answer.body = await self._chunks()
            else:
                answer.body = await self.reader.read()
        return answer

    async def _chunks(self) -> bytes:
        pieces = []
        while size := int((await self.reader.readline()).split(b";")[0], 16):
            pieces.append(await self.reader.readexactly(size))
            assert await self.reader.readexactly(2) == b"\r\n"
        while (await self.reader.readline()) != b"\r\n":
            pass
        return b"".join(pieces)

    async def ended(self) -> bool:
        """Whether the node has closed, in order or not."""
        async with asyncio.timeout(15):
            try:
                return await self.reader.read(1) == b""
            except OSError:
                return True


@asynccontextmanager
async def open_house(home: Path, **settings: Any) -> AsyncIterator[House]:
    """Start a node on free ports; what a test left running is stopped in the end."""
    first = free_port()
    values = {
        "home": str(home),
        "listen": f"127.0.0.1:{first}",
        "dashboard_port": 0,
        "tcp_ports": settings.pop("tcp_ports", _port_range()),
        "drain_s": 1,
    }
    config = load_config(None, {}, values | settings)
    node = Node(config)
    await node.start()
    house = House(node, config)
    try:
        yield house
    finally:
        for running in house.agents:
            if not running.task.done():
                await running.stop()
        await node.aclose()


def _port_range() -> str:
    """Return twelve free ports below those that the system hands out by itself (RFC 6335 §6 leaves them to us)."""
    while True:
        low = random.randrange(21000, 32000)
        if all(_is_free(port) for port in range(low, low + 12)):
            return f"{low}-{low + 11}"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    """An upstream that does what the test says, on a free port."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(run, "127.0.0.1", 0, limit=2**20)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
