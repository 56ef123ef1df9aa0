"""A service that speaks before anybody asks, and leaves at once, is heard to its end."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from testbed.house import House, open_house, tcp_route

BANNER = b"the time is now\r\n"
VISITS = 100


@pytest.fixture
async def house(home: Path) -> AsyncIterator[House]:
    async with open_house(home) as made:
        yield made


@pytest.fixture
def banner_port() -> Iterator[int]:
    """A program of its own, so that its words are there before this loop has heard of the connection."""
    server = socket.create_server(("127.0.0.1", 0), backlog=VISITS)

    def serve() -> None:
        while True:
            try:
                visitor, _ = server.accept()
            except OSError:
                return
            with visitor:
                visitor.sendall(BANNER)

    thread = threading.Thread(target=serve)
    thread.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


@pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])
async def test_every_visitor_hears_a_service_that_speaks_first(house: House, banner_port: int) -> None:
    agent = await house.agent(tcp_route(banner_port))

    def visit() -> bytes:
        with socket.create_connection(("127.0.0.1", agent.port()), 10) as visitor:
            return b"".join(iter(lambda: visitor.recv(100), b""))

    heard = [await asyncio.to_thread(visit) for _ in range(VISITS)]
    assert heard == [BANNER] * VISITS
