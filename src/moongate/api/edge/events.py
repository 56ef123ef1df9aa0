"""The stream of what happens to tunnels, as server-sent events (HTML standard §9.2)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import contextmanager
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response, StreamingResponse

from moongate.api.answers import to_json
from moongate.api.auth import Asking, GuardedRoute, bearer_documented
from moongate.api.parts import Made, Parts
from moongate.audit.events import Subscription
from moongate.identity.tokens import Identity

KEEP_ALIVE_S = 15.0
RECONNECT_MS = 2000

router = APIRouter(prefix="/api", tags=["events"], route_class=GuardedRoute, dependencies=[bearer_documented])


@router.get(
    "/events",
    include_in_schema=False,  # OpenAPI has no words for an answer that does not end
)
async def stream_events(parts: Made, identity: Asking) -> Response:
    """Send events until the client goes, the token is deleted, or the node stops."""
    # Subscribed before the head is sent: whoever has seen it misses nothing that happens after.
    subscription = parts.events.subscribe()
    return StreamingResponse(
        _stream(parts, identity, subscription),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _stream(parts: Parts, identity: Identity, subscription: Subscription) -> AsyncIterator[bytes]:
    with _ended_with_token(parts, identity, subscription):
        yield f"retry: {RECONNECT_MS}\n\n".encode()
        missed = 0
        while not parts.stopping.is_set():
            try:
                event = await asyncio.wait_for(anext(subscription), KEEP_ALIVE_S)
            except TimeoutError:
                yield b": keep-alive\n\n"
                continue
            except StopAsyncIteration:
                return
            if subscription.lagged > missed:
                yield sse("lagged", {"missed": subscription.lagged - missed})
                missed = subscription.lagged
            yield sse(event.kind, event.data)


@contextmanager
def _ended_with_token(parts: Parts, identity: Identity, subscription: Subscription) -> Any:
    """Close the subscription when the token it was opened with is deleted, and in the end."""

    def deleted(token_id: str) -> None:
        if token_id == identity.token_id:
            subscription.close()

    parts.tokens.on_deleted.append(deleted)
    try:
        yield
    finally:
        parts.tokens.on_deleted.remove(deleted)
        subscription.close()


def sse(kind: str, data: dict[str, Any]) -> bytes:
    """Write one event; compact JSON has no line breaks, so one data line is enough."""
    return b"event: " + kind.encode() + b"\ndata: " + to_json(data) + b"\n\n"
