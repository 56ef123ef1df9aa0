"""The web application over real stores and real routes, served on a socket; only the agents are staged."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from leasing import ADMIN, DOMAIN, Agent, make_routes
from moongate.api.app import Parts, create_app
from moongate.api.serving import AppServer
from moongate.audit.captures import Captures
from moongate.audit.connections import Connections
from moongate.audit.events import Events
from moongate.audit.exchanges import Capture, Headers
from moongate.audit.history import History
from moongate.audit.ids import Ids
from moongate.audit.sealing import Sealer
from moongate.config import Config, load_config
from moongate.edge.routes import Tunnel
from moongate.identity.tokens import Tokens
from moongate.net.acme.keeping import CertificateStatus
from moongate.net.listening import Peer
from moongate.storage.database import Database
from moongate.telemetry import Metrics

ADMIN_TOKEN = "3f0c2a9e-5d41-4b7c-9a10-6e2f8b7d1c55"
METRICS_TOKEN = "measured-only"
NODE_ID = "6a0f7c52-3a1e-4d0b-8a55-0d9e2b1c7f10"
BEARER = {"Authorization": f"Bearer {ADMIN_TOKEN}"}


@dataclass
class Sent:
    """What was given to be sent again."""

    tunnel: Tunnel
    method: str
    path: str
    headers: Headers
    body: bytes
    remote_address: str


@dataclass
class ApiBed:
    """The application, its parts, and a client that holds the admin token."""

    parts: Parts
    server: AppServer
    url: str
    client: httpx.AsyncClient
    ids: Ids = field(default_factory=Ids)
    sent: list[Sent] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def anonymous(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url)

    async def open_tunnel(self, name: str = "abc123", *, kind: str = "http", agent: Agent | None = None) -> Tunnel:
        """Open a tunnel as the node does: a lease, then its line in the history."""
        agent = agent or Agent(self.parts.routes, ADMIN)
        tunnel = agent.claim(0.0, None if kind == "tcp" else name, kind=kind).tunnel
        await self.parts.history.opened(tunnel.id, kind, tunnel.name, agent.session.id, agent.identity.token_id)
        return tunnel

    def capture(self, tunnel_id: str, **members: Any) -> Capture:
        """Record an exchange."""
        capture = make_capture(self.ids, tunnel_id, **members)
        self.parts.captures.add(capture)
        return capture


def make_capture(ids: Ids, tunnel_id: str, **members: Any) -> Capture:
    request_body, response_body = members.get("request_body", b""), members.get("response_body", b"")
    values: dict[str, Any] = {
        "id": ids.next(),
        "tunnel_id": tunnel_id,
        "conn_id": ids.next(),
        "method": "GET",
        "path": "/",
        "status": 200,
        "request_headers": [],
        "response_headers": [],
        "request_body": request_body,
        "response_body": response_body,
        "request_truncated": False,
        "response_truncated": False,
        "request_bytes": len(request_body or b""),
        "response_bytes": len(response_body or b""),
        "started_at": time.time(),
        "ttfb_s": 0.004,
        "duration_s": 0.012,
    }
    return Capture(**(values | members))


@asynccontextmanager
async def api_bed(
    home: Path,
    *,
    resend: Callable[[Sent], Capture] | None = None,
    peer: Peer | None = None,
    settings: dict[str, Any] | None = None,
) -> AsyncIterator[ApiBed]:
    async with AsyncExitStack() as stack:
        config = load_config(env={}, overrides={"home": str(home), "metrics_token": METRICS_TOKEN} | (settings or {}))
        beds: list[ApiBed] = []
        parts = await _parts(stack, config, beds, resend)
        server = AppServer(create_app(parts))
        stack.push_async_callback(server.drain, 1.0)
        listener = await asyncio.get_running_loop().create_server(
            lambda: server.protocol(peer or Peer("127.0.0.1", 50000, "127.0.0.1", 4041)), "127.0.0.1", 0
        )
        stack.callback(listener.close)
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, headers=BEARER))
        beds.append(ApiBed(parts, server, url, client))
        yield beds[0]


async def _parts(
    stack: AsyncExitStack, config: Config, beds: list[ApiBed], resend: Callable[[Sent], Capture] | None
) -> Parts:
    db = await Database.open(f"sqlite+aiosqlite:///{config.home}/moongate.db")
    stack.push_async_callback(db.aclose)
    tokens, history = Tokens(db, ADMIN_TOKEN, DOMAIN), History(db, NODE_ID)
    captures, connections = Captures(db, config.capture, Sealer.load(config.home)), Connections(db, NODE_ID)
    for store in (tokens, history, captures, connections):
        await store.start()
        stack.push_async_callback(store.aclose)
    routes = make_routes()

    async def send_again(
        tunnel: Tunnel, method: str, path: str, headers: Headers, body: bytes, remote_address: str, /
    ) -> Capture:
        sent = Sent(tunnel, method, path, headers, body, remote_address)
        beds[0].sent.append(sent)
        assert resend is not None
        return resend(sent)

    async def close_tunnel(tunnel_id: str, _reason: str, /) -> bool:
        closed = routes.close(tunnel_id)
        if closed is not None:
            await history.closed(tunnel_id)
        return closed is not None

    return Parts(
        config=config,
        tokens=tokens,
        history=history,
        captures=captures,
        connections=connections,
        events=Events(),
        routes=routes,
        metrics=Metrics(),
        resend=send_again,
        close_tunnel=close_tunnel,
        certificates=lambda: {"shop.example.test": CertificateStatus("ready", not_after=1_788_091_089.0)},
        ca_pem=b"-----BEGIN CERTIFICATE-----\n",
        node_id=NODE_ID,
        version="2026.11.0",
    )
