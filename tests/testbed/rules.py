"""An agent that stays, with its local API, beside a node in this process."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from moongate.agent.store import RuleStore
from moongate.agent.supervisor import RulesAgent
from moongate.api.agent.local import LocalApi
from moongate.api.agent.parts import LocalParts
from moongate.net.dialing import NodeAddress
from testbed import until_async
from testbed.house import House, open_house

PREFIX = "/api/client/v1.0"


@dataclass
class Publisher:
    """The agent, and a client of its API."""

    agent: RulesAgent
    client: httpx.AsyncClient

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request as any program would, and return what the answer says."""
        answer = await self.raw(method, path, None if body is None else json.dumps(body))
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def raw(self, method: str, path: str, body: str | bytes | None = None) -> httpx.Response:
        return await self.client.request(method, f"{PREFIX}/{path}", content=body)

    async def connected(self) -> None:
        await until_async(lambda: self.agent.is_connected, what=f"a session; {self.agent.info()}")


@asynccontextmanager
async def publisher(home: Path, address: NodeAddress | None, **more: Any) -> AsyncIterator[Publisher]:
    """Run an agent with its state here, and its API on a free port."""
    agent = RulesAgent(RuleStore(home), address, **more)
    await agent.open()
    api = LocalApi(LocalParts(agent=agent), port=0)
    await api.start()
    try:
        async with httpx.AsyncClient(base_url=api.url, trust_env=False, timeout=30) as client:
            yield Publisher(agent, client)
    finally:
        await api.aclose()
        await agent.aclose()


@asynccontextmanager
async def published(home: Path, **settings: Any) -> AsyncIterator[tuple[House, Publisher]]:
    """Run a node, and an agent that has a session with it."""
    async with (
        open_house(home / "node", **settings) as house,
        publisher(home / "agent", NodeAddress.parse(house.join)) as made,
    ):
        await made.connected()
        yield house, made
