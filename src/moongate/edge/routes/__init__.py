"""Which agent answers for a public name or port: names, leases, and the rules on them."""

from moongate.edge.routes.entries import (
    DEFAULT_OPTIONS,
    KINDS,
    AgentSession,
    Claimed,
    ClosedRow,
    Lease,
    Page,
    Revoked,
    Tunnel,
    TunnelOptions,
)
from moongate.edge.routes.names import RESERVED
from moongate.edge.routes.table import Routes

__all__ = [
    "DEFAULT_OPTIONS",
    "KINDS",
    "RESERVED",
    "AgentSession",
    "Claimed",
    "ClosedRow",
    "Lease",
    "Page",
    "Revoked",
    "Routes",
    "Tunnel",
    "TunnelOptions",
]
