"""The stream of server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api_bed import ApiBed, api_bed
from moongate.api.edge import events
from moongate.audit.events import SUBSCRIPTION_EVENTS
from testbed import until_async


@pytest.fixture
async def bed(home: Path) -> AsyncIterator[ApiBed]:
    async with api_bed(home) as made:
        yield made


async def seen(stream: httpx.Response, count: int) -> list[tuple[str, Any]]:
    """Return the next events of a stream."""
    found: list[tuple[str, Any]] = []
    kind = ""
    async for line in stream.aiter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        if name == "data":
            found.append((kind, json.loads(value)))
        if len(found) == count:
            break
    return found


async def test_events_need_a_token(bed: ApiBed) -> None:
    async with bed.anonymous() as nobody:
        assert (await nobody.get("/api/events")).json() == {"error": "missing token"}


async def test_every_listener_gets_what_happens_after_it_began(bed: ApiBed) -> None:
    bed.parts.events.publish("tunnel.opened", lambda: {"too": "early"})
    async with bed.client.stream("GET", "/api/events") as one, bed.client.stream("GET", "/api/events") as two:
        assert one.headers["content-type"].startswith("text/event-stream")
        assert one.headers["cache-control"] == "no-store"
        bed.parts.events.publish("tunnel.opened", lambda: {"tunnel_id": "t", "text": "line\nbreak \udc80"})
        bed.parts.events.publish("request", lambda: {"status": 200})
        expected = [("tunnel.opened", {"tunnel_id": "t", "text": "line\nbreak \udc80"}), ("request", {"status": 200})]
        assert await seen(one, 2) == expected
        assert await seen(two, 2) == expected


async def test_a_listener_that_falls_behind_is_told_how_much_it_missed(bed: ApiBed) -> None:
    async with bed.client.stream("GET", "/api/events") as stream:
        for number in range(SUBSCRIPTION_EVENTS + 10):
            bed.parts.events.publish("request", lambda number=number: {"number": number})  # type: ignore[misc]
        (first, second) = await seen(stream, 2)
    assert first == ("lagged", {"missed": 10})
    assert second == ("request", {"number": 10})


async def test_silence_is_filled_with_comments(bed: ApiBed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE_S", 0.05)
    async with bed.client.stream("GET", "/api/events") as stream:
        async for line in stream.aiter_lines():
            if line.startswith(":"):
                break
        assert line == ": keep-alive"


async def test_a_listener_that_leaves_is_forgotten(bed: ApiBed) -> None:
    async with bed.client.stream("GET", "/api/events"):
        assert bed.parts.events.listeners == 1
    await until_async(lambda: bed.parts.events.listeners == 0)
    assert bed.parts.tokens.on_deleted == []


async def test_a_deleted_token_hears_nothing_more(bed: ApiBed) -> None:
    made = (await bed.client.post("/api/tokens", json={"label": "ci"})).json()
    headers = {"Authorization": f"Bearer {made['token']}"}
    async with bed.client.stream("GET", "/api/events", headers=headers) as stream:
        await bed.client.delete(f"/api/tokens/{made['id']}")
        bed.parts.events.publish("request", lambda: {"secret": True})
        rest = [line async for line in stream.aiter_lines()]
    assert not any("secret" in line for line in rest)


async def test_streams_end_when_the_node_closes_its_events(bed: ApiBed) -> None:
    async with bed.client.stream("GET", "/api/events") as stream:
        bed.parts.events.close()
        async with asyncio.timeout(2):
            async for _ in stream.aiter_raw():
                pass
