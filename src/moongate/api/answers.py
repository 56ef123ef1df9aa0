"""How this application writes JSON, times and errors; knows nothing of any family."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import Any

from starlette.responses import JSONResponse, Response, StreamingResponse

# Encoding a long list in one go would stall the loop for everybody; longer ones are written in pieces.
WHOLE_LIST_ITEMS = 50


def to_json(content: Any) -> bytes:
    """Serialize to compact JSON.

    Text that visitors sent may hold lone surrogates; "backslashreplace" writes those as the JSON escape of the same name.
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


class Answer(JSONResponse):
    """A JSON answer that can carry any text a stranger once sent."""

    def render(self, content: Any) -> bytes:
        """Serialize the content."""
        return to_json(content)


def answer_list(items: list[dict[str, Any]]) -> Response:
    """Answer a JSON array, in pieces when it is long."""
    if len(items) <= WHOLE_LIST_ITEMS:
        return Answer(items)
    return StreamingResponse(_pieces(items), media_type="application/json")


async def _pieces(items: Iterable[dict[str, Any]]) -> AsyncIterator[bytes]:
    opening = b"["
    for item in items:
        yield opening + to_json(item)
        opening = b","
        await asyncio.sleep(0)
    yield b"]"


def error(status: int, message: str, headers: dict[str, str] | None = None) -> Answer:
    """Answer a failure in the one shape all families of this application share."""
    return Answer({"error": message}, status_code=status, headers=headers)


def timestamp(epoch: float) -> str:
    """Write a moment as RFC 3339 in UTC, whole seconds, with a Z."""
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
