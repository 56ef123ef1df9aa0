"""What was: the log of tunnels, and the record of each visitor's connection."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from moongate.api.answers import Answer
from moongate.api.auth import GuardedRoute, bearer_documented
from moongate.api.edge.bounds import PAGE_DEFAULT, Offset, PageLimit, Truth
from moongate.api.edge.schemas import Connections, History
from moongate.api.edge.tunnels import BAD_REQUEST, UNAUTHORIZED
from moongate.api.parts import Made
from moongate.audit.history import SortBy

SORT_KEYS: dict[str, SortBy] = {"duration": "duration", "protocol": "protocol"}

Limit = Annotated[PageLimit, Query(description="Page size")]
Skip = Annotated[Offset, Query(description="How many to skip")]
# NUL is the one character that PostgreSQL refuses in any text.
TokenId = Annotated[str | None, Query(max_length=128, pattern=r"^[^\x00]*$", description="Only of this token")]

router = APIRouter(
    prefix="/api",
    tags=["history"],
    route_class=GuardedRoute,
    dependencies=[bearer_documented],
    responses={**UNAUTHORIZED, **BAD_REQUEST},
)


@router.get("/history", operation_id="getTunnelHistory", response_model=History, summary="Every tunnel that ever was")
async def get_history(
    *,
    parts: Made,
    limit: Limit = PAGE_DEFAULT,
    offset: Skip = 0,
    protocol: Annotated[Literal["http", "tcp", "tls", "udp"] | None, Query(description="Only this protocol")] = None,
    token_id: TokenId = None,
    active: Annotated[Truth | None, Query(description="Only open (true) or closed (false) ones")] = None,
    sort_by: Annotated[str, Query(description="started, duration or protocol; anything else is started")] = "started",
    sort_dir: Annotated[str, Query(description="desc or asc; anything else is desc")] = "desc",
) -> Response:
    """Page through the log, the newest first unless told otherwise."""
    total, entries = await parts.history.list(
        limit=limit,
        offset=offset,
        protocol=protocol,
        token_id=token_id,
        active=active,
        sort_by=SORT_KEYS.get(sort_by, "started"),
        sort_dir="asc" if sort_dir == "asc" else "desc",
    )
    return Answer({"total": total, "entries": entries})


@router.get("/connections", operation_id="listConnections", response_model=Connections, summary="Visitors' connections")
async def list_connections(parts: Made, limit: Limit = PAGE_DEFAULT, offset: Skip = 0) -> Response:
    """Page through the connection records, the newest first."""
    total, records = await parts.connections.list(limit=limit, offset=offset)
    return Answer({"total": total, "connections": records})
