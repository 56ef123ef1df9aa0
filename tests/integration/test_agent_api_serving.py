"""The agent's API on real sockets: who can reach it, and how it ends."""

import asyncio
import json
import os
import socket
import struct
import subprocess
from collections.abc import AsyncIterator
from functools import partial

import httpx
import pytest

from agent_bed import PREFIX, MemoryAgent
from moongate.api.agent.local import LocalApi
from moongate.api.agent.parts import LocalParts
from moongate.errors import PortInUse
from testbed import require_peer, until_async

EVENT = ("rule_changed", {"kind": "https", "key": "a.example.test"})


@pytest.fixture
def agent() -> MemoryAgent:
    return MemoryAgent()


@pytest.fixture
async def api(agent: MemoryAgent) -> AsyncIterator[LocalApi]:
    made = LocalApi(LocalParts(agent=agent), port=0)
    await made.start()
    yield made
    await made.aclose()


async def raw(port: int, request: bytes, host: str = "127.0.0.1") -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(request)
    try:
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


def body_of(answer: bytes) -> object:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
async def test_every_name_of_loopback_reaches_it(api: LocalApi, host: str) -> None:
    async with httpx.AsyncClient(base_url=f"http://{host}:{api.port}", trust_env=False) as client:
        assert (await client.get(f"{PREFIX}/info")).json()["isTunConnected"] is True


async def test_no_other_address_of_this_machine_reaches_it(api: LocalApi) -> None:
    outside = [
        str(address[4][0])
        for address in await asyncio.get_running_loop().getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
        if not str(address[4][0]).startswith(("127.0.0.1", "::1", "fe80"))
    ]
    for address in [*outside, "127.0.0.2"]:
        with pytest.raises(OSError, match="refused|Connect call failed"):
            await asyncio.open_connection(address, api.port)


async def test_a_port_in_use_is_said(api: LocalApi, agent: MemoryAgent) -> None:
    second = LocalApi(LocalParts(agent=agent), port=api.port)
    with pytest.raises(PortInUse, match=str(api.port)):
        await second.start()
    await second.aclose()


async def test_the_agents_own_user_is_shown_the_secrets(api: LocalApi, agent: MemoryAgent) -> None:
    async with httpx.AsyncClient(base_url=api.url, trust_env=False) as client:
        assert (await client.get(f"{PREFIX}/config?secrets=true")).status_code == 200
    assert agent.secrets_asked == [True]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
async def test_another_user_is_not_shown_the_secrets(api: LocalApi, agent: MemoryAgent) -> None:
    command = [require_peer("curl"), "-qs", "--noproxy", "*", f"{api.url}{PREFIX}/config?secrets=true"]
    done = await asyncio.to_thread(partial(subprocess.run, command, user=65534, group=65534, capture_output=True))
    assert json.loads(done.stdout) == {
        "status": False,
        "error": "secrets are shown only to the user that the agent runs as",
    }
    assert agent.secrets_asked == []


@pytest.mark.parametrize(
    ("request_bytes", "status", "message"),
    [
        (b"nonsense\r\n\r\n", 400, "malformed HTTP request"),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 20_000 + b"\r\n\r\n", 431, "request head too large"),
        (b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n", 400, "exactly one Host header is needed"),
    ],
)
async def test_what_is_no_request_gets_the_envelope_too(
    api: LocalApi, request_bytes: bytes, status: int, message: str
) -> None:
    answer = await raw(api.port, request_bytes)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert body_of(answer) == {"status": False, "error": message}


async def test_a_get_with_a_body_leaves_the_connection_usable(api: LocalApi, agent: MemoryAgent) -> None:
    body = b'{"https":[{"domain":"a.example.test","upstreamURL":"http://127.0.0.1:1"}]}'
    head = b"%b " + f"{PREFIX}/traffic/".encode() + b"%b HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n%b\r\n"
    create = head % (b"POST", b"create", len(body), b"") + body
    delete = head % (b"GET", b"delete", len(body), b"") + body
    again = head % (b"GET", b"delete", len(body), b"connection: close\r\n") + body
    answer = await raw(api.port, create + delete + again)
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert answer.count(b'{"status":true,"error":"","results":') == 2
    assert b"not found: https a.example.test" in answer


async def test_events_arrive_while_they_happen_and_end_with_the_agent(api: LocalApi, agent: MemoryAgent) -> None:
    async with (
        httpx.AsyncClient(base_url=api.url, trust_env=False) as client,
        client.stream("GET", f"{PREFIX}/events") as stream,
    ):
        lines = stream.aiter_lines()
        assert await anext(lines) == "retry: 2000"
        agent.feed.publish(*EVENT)
        got = [line async for line in _until_blank(lines, blanks=2)]
        assert got == ["event: rule_changed", 'data: {"kind":"https","key":"a.example.test"}']
        closing = asyncio.ensure_future(api.aclose())
        assert [line async for line in lines if line] == []
        await closing
    assert not agent.feed.has_listeners


async def _until_blank(lines: AsyncIterator[str], blanks: int) -> AsyncIterator[str]:
    async for line in lines:
        blanks -= not line
        if line:
            yield line
        if not blanks:
            return


async def test_a_listener_that_leaves_before_the_answer_begins_is_forgotten(api: LocalApi, agent: MemoryAgent) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", api.port)) as client:
            client.sendall(f"GET {PREFIX}/events HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
            # A reset, so that the end is known before anything is answered.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await asyncio.sleep(0)
    async with httpx.AsyncClient(base_url=api.url, trust_env=False) as other:
        await other.get(f"{PREFIX}/info")
    await until_async(lambda: not agent.feed.has_listeners)


async def test_a_listener_that_goes_away_is_forgotten(api: LocalApi, agent: MemoryAgent) -> None:
    async with httpx.AsyncClient(base_url=api.url, trust_env=False) as client:
        async with client.stream("GET", f"{PREFIX}/events"):
            await until_async(lambda: agent.feed.has_listeners)
        await until_async(lambda: not agent.feed.has_listeners)
