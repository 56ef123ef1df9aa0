"""The agent's API over an agent that keeps its rules in memory and has no node."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from moongate.agent.feed import Feed
from moongate.agent.rulebook import Edit, RuleBook
from moongate.api.agent.app import create_agent_app
from moongate.api.agent.parts import LocalParts

BASE = "http://127.0.0.1:4100"
PREFIX = "/api/client/v1.0"


@dataclass
class MemoryAgent:
    """Rules and a session that exist only here."""

    book: RuleBook = field(default_factory=RuleBook)
    connected: bool = True
    waits: list[float] = field(default_factory=list)
    secrets_asked: list[bool] = field(default_factory=list)
    broken: Exception | None = None
    feed: Feed = field(default_factory=Feed)

    def info(self) -> dict[str, Any]:
        if self.broken is not None:
            raise self.broken
        versions = {"version": "v1.0.0", "runtimeVersion": "v1.0.0", "isUpdated": False}
        return {"status": True, "error": "", **versions, "isTunConnected": self.connected}

    def config(self, secrets: bool) -> dict[str, Any]:
        self.secrets_asked.append(secrets)
        about = {"version": "v1.0.0", "os": "linux", "arch": "amd64"}
        return {"status": True, "error": "", **about, **self.book.members(secrets=secrets)}

    async def start(self, wait_s: float) -> dict[str, Any]:
        self.waits.append(wait_s)
        before, self.connected = self.connected, True
        return {"status": True, "isTunConnected": before, "error": ""}

    async def shutdown(self) -> dict[str, Any]:
        self.connected = False
        return {"status": True, "error": ""}

    async def restart(self, wait_s: float) -> dict[str, Any]:
        self.waits.append(wait_s)
        self.connected = True
        return {"status": True, "error": ""}

    async def create(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._apply(self.book.create(body))

    async def update(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._apply(self.book.update(body))

    async def patch(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._apply(self.book.patch(body))

    async def delete(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._apply(self.book.delete(body))

    async def allocate(self, port: int | None, transport: str) -> dict[str, Any]:
        chosen = port or 22431
        self.book = self.book.allocated(chosen, transport).book
        return {"status": True, "port": chosen, "message": "new port allocated", "error": ""}

    async def release(self, port: int, transport: str | None = None) -> dict[str, Any]:
        answer = self._apply(self.book.released(port, transport))
        return {"status": answer["status"], "error": answer["error"]}

    def ports(self) -> list[dict[str, Any]]:
        return sorted((port.members() for port in self.book.ports.values()), key=lambda shown: int(shown["port"]))

    async def health(self) -> dict[str, Any]:
        services = [
            {"flowID": site.flow, "flow": str(site.flow), "available": True, "http": site.members(), "error": ""}
            for site in self.book.https.values()
        ]
        return {"status": True, "error": "", "services": services}

    def events(self) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        return self.feed.subscribe()

    def _apply(self, edit: Edit) -> dict[str, Any]:
        self.book = edit.book
        error = "; ".join(result.sentence() for result in edit.results if result.error)
        return {"status": not error, "error": error, "results": [result.members() for result in edit.results]}


def client_of(agent: MemoryAgent, **parts: Any) -> httpx.AsyncClient:
    """Return a client that speaks to the application directly, without a socket."""
    app = create_agent_app(LocalParts(agent=agent, **parts))
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=BASE)
