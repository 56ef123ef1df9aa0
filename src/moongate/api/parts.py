"""What the application is made of; the node puts it together and hands it in by the front door."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request

CloseTunnel = Callable[[str, str], Awaitable[bool]]
"""Closes the tunnel of this id for this reason; tells whether there was one."""

Resend = Callable[..., Awaitable[Any]]
"""(tunnel, method, path, headers, body, remote_address) -> the capture of the new exchange."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything the application asks; none of it is made here."""

    config: Any
    tokens: Any
    history: Any
    captures: Any
    connections: Any
    events: Any
    routes: Any
    metrics: Any
    resend: Resend
    close_tunnel: CloseTunnel
    ca_pem: bytes
    node_id: str
    version: str
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


def parts_of(request: Request) -> Parts:
    """Return the parts that this request's application was made with."""
    parts: Parts = request.app.state.parts
    return parts


Made = Annotated[Parts, Depends(parts_of)]
