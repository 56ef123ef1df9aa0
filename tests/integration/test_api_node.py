"""The REST family on a whole node, with a real agent and a real upstream behind it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from moongate.agent.reports import AgentEvent, Refused, TunnelReady
from moongate.agent.routes import Route, Upstream
from moongate.agent.service import Agent
from moongate.config import load_config
from moongate.net.dialing import NodeAddress
from moongate.node.server import Node
from testbed import until_async


@dataclass
class Echo:
    """An upstream that answers with what it was asked; `tag` is a header of its answers."""

    port: int = 0
    tag: str = "one"
    asked: list[bytes] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    server: asyncio.Server | None = None

    async def start(self) -> None:
        self.server = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        if self.server is not None:
            self.server.close()
        for writer in self.writers:
            writer.transport.abort()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
                )
                body = await reader.readexactly(length)
                self.asked.append(head + body)
                first = head.partition(b" HTTP/")[0] + b" " + body
                writer.write(
                    b"HTTP/1.1 200 OK\r\nX-Tag: %b\r\nContent-Length: %d\r\n\r\n" % (self.tag.encode(), len(first))
                )
                writer.write(first)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()


@dataclass
class Walk:
    node: Node
    echo: Echo
    client: httpx.AsyncClient
    events: list[AgentEvent]
    agent: asyncio.Task[Any]

    @property
    def port(self) -> int:
        return self.node.addresses[0][1]

    async def visit(self, method: str, path: str, **request: Any) -> httpx.Response:
        headers = {"Host": "shop.localhost", **request.pop("headers", {})}
        async with httpx.AsyncClient() as visitor:
            return await visitor.request(method, f"http://127.0.0.1:{self.port}{path}", headers=headers, **request)

    async def tunnel(self) -> dict[str, Any]:
        (tunnel,) = (await self.client.get("/api/tunnels")).json()
        assert isinstance(tunnel, dict)
        return tunnel

    async def captured(self, tunnel_id: str, count: int) -> list[dict[str, Any]]:
        async with asyncio.timeout(5):
            while True:
                shown: list[dict[str, Any]] = (await self.client.get(f"/api/tunnels/{tunnel_id}/requests")).json()
                if len(shown) == count:
                    return shown
                await asyncio.sleep(0.02)


@asynccontextmanager
async def serving(home: Path) -> AsyncIterator[Walk]:
    echo = Echo()
    await echo.start()
    overrides = {"home": str(home), "listen": "127.0.0.1:0", "dashboard_port": 0, "drain_s": 1}
    node = Node(load_config(env={}, overrides=overrides))
    await node.start()
    headers = {"Authorization": f"Bearer {node.admin_token}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{node.addresses[0][1]}", headers=headers) as client:
        made = (await client.post("/api/tokens", json={"label": "agent", "scope": "shop"})).json()
        events: list[AgentEvent] = []
        route = Route("http", Upstream("http", "127.0.0.1", echo.port), subdomain="shop")
        agent = Agent(NodeAddress.parse(node.join), [route], on_event=events.append, token=made["token"])
        running = asyncio.create_task(agent.run(), name="agent")
        await until_async(lambda: any(isinstance(event, TunnelReady) for event in events), what="the tunnel")
        try:
            yield Walk(node, echo, client, events, running)
        finally:
            agent.stop()
            await asyncio.wait({running}, timeout=5)
    await node.aclose()
    echo.stop()


@pytest.fixture
async def walk(home: Path) -> AsyncIterator[Walk]:
    async with serving(home) as made:
        yield made


async def test_a_visit_is_listed_and_sent_again_with_its_secrets(walk: Walk) -> None:
    answer = await walk.visit("POST", "/buy?n=1", content=b"one", headers={"Authorization": "Bearer of-the-visitor"})
    assert answer.text == "POST /buy?n=1 one"
    tunnel = await walk.tunnel()
    assert tunnel["public_url"] == f"http://shop.localhost:{walk.port}"
    (shown,) = await walk.captured(tunnel["tunnel_id"], 1)
    assert (shown["method"], shown["path"], shown["status"]) == ("POST", "/buy?n=1", 200)
    assert json.loads(shown["request_body"])["headers"]["authorization"] == ["***"]

    walk.echo.tag = "two"
    path = f"/api/tunnels/{tunnel['tunnel_id']}/replay/{shown['id']}"
    again = await walk.client.post(f"{path}?send=true", json={"path": "/buy?n=2", "headers": {"X-Edited": "yes"}})
    assert again.status_code == 200, again.text
    replay = again.json()["replay"]
    assert (replay["status"], replay["response_bytes"]) == (200, len("POST /buy?n=2 one"))
    assert replay["diff"]["headers"] == {
        "added": {},
        "removed": {},
        "changed": {"x-tag": {"recorded": ["one"], "new": ["two"]}},
    }
    assert replay["diff"]["body"]["equal"] is False
    sent = walk.echo.asked[-1]
    assert b"Bearer of-the-visitor" in sent
    assert b"X-Edited: yes" in sent
    newest = (await walk.captured(tunnel["tunnel_id"], 2))[0]
    assert newest["id"] == replay["request_id"]


async def test_the_event_stream_tells_of_visits_and_of_closing(walk: Walk) -> None:
    tunnel = await walk.tunnel()
    async with walk.client.stream("GET", "/api/events") as stream:
        lines = stream.aiter_lines()
        await walk.visit("GET", "/seen")
        assert (await walk.client.delete(f"/api/tunnels/{tunnel['tunnel_id']}")).status_code == 204
        kinds: list[str] = []
        async with asyncio.timeout(5):
            while "tunnel.closed" not in kinds:
                line = await anext(lines)
                kinds += [line.partition(": ")[2]] if line.startswith("event: ") else []
    assert kinds == ["request", "tunnel.closed"]
    assert (await walk.client.get(f"/api/tunnels/{tunnel['tunnel_id']}")).status_code == 404
    assert (await walk.visit("GET", "/")).status_code == 404


async def test_visits_have_connection_records(walk: Walk) -> None:
    await walk.visit("GET", "/one")
    page = (await walk.client.get("/api/connections")).json()
    assert page["total"] == 1
    (record,) = page["connections"]
    assert (record["type"], record["tunnel_name"], record["requests"]) == ("HTTP", "shop.localhost", 1)


async def test_a_deleted_token_ends_its_agent(walk: Walk) -> None:
    (token,) = [token for token in (await walk.client.get("/api/tokens")).json() if token["label"] == "agent"]
    assert token["tunnel_count"] == 1
    assert (await walk.client.delete(f"/api/tokens/{token['id']}")).status_code == 204
    await asyncio.wait_for(asyncio.shield(walk.agent), 10)
    assert any(isinstance(event, Refused) for event in walk.events)
    assert (await walk.client.get("/api/status")).json()["active_sessions"] == 0


async def test_a_request_whose_upstream_is_gone_is_answered_502(walk: Walk) -> None:
    await walk.visit("GET", "/")
    tunnel = await walk.tunnel()
    (shown,) = await walk.captured(tunnel["tunnel_id"], 1)
    walk.echo.stop()
    answer = await walk.client.post(f"/api/tunnels/{tunnel['tunnel_id']}/replay/{shown['id']}?send=true")
    assert (answer.status_code, list(answer.json())) == (502, ["error"])
