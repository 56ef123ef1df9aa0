"""What happens to the session and to the rules, as server-sent events (HTML standard §9.2)."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from moongate.api.agent.endpoints import PREFIX
from moongate.api.agent.parts import LocalParts, Made
from moongate.api.answers import to_json

KEEP_ALIVE_S = 15.0
RECONNECT_MS = 2000

router = APIRouter(prefix=PREFIX)

Event = tuple[str, dict[str, Any]]


class EventStream(StreamingResponse):
    """An answer that listens for as long as its client does, also when that leaves before the first byte."""

    def __init__(self, parts: LocalParts, events: AsyncIterator[Event]) -> None:
        super().__init__(
            _stream(parts, events),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events, and stop listening in the end."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            close = getattr(self._events, "aclose", None)
            if close is not None:
                await close()


@router.get(
    "/events",
    include_in_schema=False,  # OpenAPI has no words for an answer that does not end
)
async def stream_events(parts: Made) -> Response:
    """Send events until the client goes or the agent stops."""
    # Subscribed before the head is sent: whoever has seen it misses nothing that happens after.
    return EventStream(parts, aiter(parts.agent.events()))


async def _stream(parts: LocalParts, events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    yield f"retry: {RECONNECT_MS}\n\n".encode()
    stopping = asyncio.ensure_future(parts.stopping.wait())
    coming = asyncio.ensure_future(_next(events))
    try:
        while True:
            await asyncio.wait((stopping, coming), timeout=KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                return
            if not coming.done():
                yield b": keep-alive\n\n"
                continue
            event = coming.result()
            if event is None:
                return
            yield sse(*event)
            coming = asyncio.ensure_future(_next(events))
    finally:
        for waiting in (stopping, coming):
            waiting.cancel()
        await asyncio.wait((stopping, coming))


async def _next(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)


def sse(kind: str, data: dict[str, Any]) -> bytes:
    """Write one event; compact JSON has no line breaks, so one data line is enough."""
    return b"event: " + kind.encode() + b"\ndata: " + to_json(data) + b"\n\n"
