"""What this application is made of; the agent's process puts it together and hands it in by the front door."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

from fastapi import Depends, Request
from pydantic import SecretStr

from moongate import __version__

HEADER_MAX_BYTES = 16 * 1024
HEADER_TIMEOUT_S = 10.0

Envelope = dict[str, Any]
"""An answer of this API: `status`, `error`, and what the operation has to say besides."""


class Publishing(Protocol):
    """What is asked of the agent. Every answer is an envelope, ready to be sent; what fails is said in it."""

    def info(self) -> Envelope:
        """Return the versions, and whether there is a session now."""

    def config(self, secrets: bool) -> Envelope:
        """Return the rules in the order of their creation; hashes are masked unless `secrets`."""

    async def start(self, wait_s: float) -> Envelope:
        """Begin to keep a session; wait that long for it. `isTunConnected` tells of the time before."""

    async def shutdown(self) -> Envelope:
        """End the session, and keep none."""

    async def restart(self, wait_s: float) -> Envelope:
        """End the session and begin anew; wait that long for it."""

    async def create(self, body: dict[str, Any]) -> Envelope:
        """Add rules."""

    async def update(self, body: dict[str, Any]) -> Envelope:
        """Replace rules."""

    async def patch(self, body: dict[str, Any]) -> Envelope:
        """Change the members that are given."""

    async def delete(self, body: dict[str, Any]) -> Envelope:
        """Remove rules; only their keys matter."""

    async def allocate(self, port: int | None, transport: str) -> Envelope:
        """Take a port of the node, this one if one is named."""

    async def release(self, port: int, transport: str | None = None) -> Envelope:
        """Give a port back to the node; without a transport the one it is allocated for."""

    def ports(self) -> list[dict[str, Any]]:
        """Return the allocated ports, in ascending order."""

    async def health(self) -> Envelope:
        """Return whether each upstream can be reached."""

    def events(self) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Tell what happens from now on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalParts:
    """Everything this application asks; none of it is made here."""

    agent: Publishing
    token: SecretStr | None = None
    """Asked of every request, when there is one."""
    hosts: tuple[str, ...] = ()
    """Host names that mean this API, besides those of loopback."""
    origins: tuple[str, ...] = ()
    """Origins whose pages may call."""
    version: str = __version__
    header_bytes: int = HEADER_MAX_BYTES
    header_timeout_s: float = HEADER_TIMEOUT_S
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def end_streams(self) -> None:
        """End every stream of events; the agent stops."""
        self.stopping.set()

    def failure(self, message: str, /) -> Envelope:
        """Write a failure in the one shape of this family."""
        return {"status": False, "error": message}


def parts_of(request: Request) -> LocalParts:
    """Return the parts that this request's application was made with."""
    parts: LocalParts = request.app.state.parts
    return parts


Made = Annotated[LocalParts, Depends(parts_of)]
