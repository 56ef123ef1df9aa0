"""What the application is made of; the node puts it together and hands it in by the front door."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

from fastapi import Depends, Request

from moongate.audit.captures import Captures
from moongate.audit.connections import Connections
from moongate.audit.events import Events
from moongate.audit.exchanges import Capture, Headers
from moongate.audit.history import History
from moongate.config import Config
from moongate.edge.routes import Routes, Tunnel
from moongate.identity.tokens import Tokens
from moongate.net.acme.keeping import CertificateStatus
from moongate.telemetry import Metrics


class CloseTunnel(Protocol):
    """Closes an open tunnel and what goes through it."""

    async def __call__(self, tunnel_id: str, reason: str, /) -> bool:
        """Tell whether there was such a tunnel."""


class Resend(Protocol):
    """Sends a request through a live tunnel, as a visitor from `remote_address`."""

    async def __call__(
        self, tunnel: Tunnel, method: str, path: str, headers: Headers, body: bytes, remote_address: str, /
    ) -> Capture:
        """Return the exchange once it has ended.

        Raises:
            ProtocolError: If this cannot be sent as HTTP.
            ReachError: If no upstream answered.
            RoutingError: If the tunnel went away, or a limit of it would be passed.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything the application asks; none of it is made here."""

    config: Config
    tokens: Tokens
    history: History
    captures: Captures
    connections: Connections
    events: Events
    routes: Routes
    metrics: Metrics
    resend: Resend
    close_tunnel: CloseTunnel
    certificates: Callable[[], Mapping[str, CertificateStatus]] = dict
    ca_pem: bytes
    node_id: str
    version: str
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def header_bytes(self) -> int:
        """How large a head may be."""
        return self.config.limits.header_bytes

    @property
    def header_timeout_s(self) -> float:
        """How long a head may take."""
        return self.config.limits.header_timeout_s

    def end_streams(self) -> None:
        """End every stream of events; the node takes no more visitors."""
        self.stopping.set()
        self.events.close()

    def failure(self, message: str, /) -> dict[str, Any]:
        """Write a failure in the one shape of the families on the node."""
        return {"error": message}


def parts_of(request: Request) -> Parts:
    """Return the parts that this request's application was made with."""
    parts: Parts = request.app.state.parts
    return parts


Made = Annotated[Parts, Depends(parts_of)]
