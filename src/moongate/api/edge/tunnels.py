"""The tunnels that are open now: list, look at, close; and the requests that went through them."""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query
from starlette.responses import Response

from moongate.api.answers import Answer, answer_list, timestamp
from moongate.api.auth import GuardedRoute, bearer_documented
from moongate.api.edge.bounds import REQUESTS_DEFAULT, RequestLimit
from moongate.api.edge.schemas import CapturedRequest, Error, Tunnel
from moongate.api.parts import Made
from moongate.audit.ids import parse_id
from moongate.edge.routes import AgentSession
from moongate.edge.routes import Tunnel as OpenTunnel

UNAUTHORIZED: dict[int | str, dict[str, Any]] = {
    401: {"model": Error, "description": "Missing or invalid token"},
    503: {"model": Error, "description": "The database does not answer"},
}
BAD_REQUEST: dict[int | str, dict[str, Any]] = {400: {"model": Error, "description": "A malformed parameter or body"}}
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": Error, "description": "There is no such thing"}}

TunnelId = Annotated[str, Path(alias="id", description="Tunnel UUID")]

router = APIRouter(
    prefix="/api/tunnels",
    tags=["tunnels"],
    route_class=GuardedRoute,
    dependencies=[bearer_documented],
    responses=UNAUTHORIZED,
)


def shown(tunnel: OpenTunnel, session: AgentSession) -> dict[str, Any]:
    """Return the public form of an open tunnel.

    The `public_url` of a port names no host, because the published API shows it so; `public_host` does.
    """
    has_port = tunnel.port is not None
    host, port = public_place(tunnel)
    return {
        "tunnel_id": tunnel.id,
        "protocol": tunnel.kind,
        "label": str(tunnel.port) if has_port else tunnel.name,
        "public_url": f"{tunnel.kind}://:{tunnel.port}" if has_port else tunnel.public_url,
        "connected_since": timestamp(tunnel.opened_at),
        "request_count": tunnel.request_count,
        "client_addr": session.peer_text,
        "subdomain": tunnel.subdomain,
        "public_host": host,
        "public_port": port,
        "session_id": str(session.id),
        "bytes_in": tunnel.bytes_in,
        "bytes_out": tunnel.bytes_out,
    }


def public_place(tunnel: OpenTunnel) -> tuple[str, int | None]:
    """Return the host and port that a visitor of the tunnel dials."""
    authority = tunnel.public_url.partition("://")[2].partition("/")[0]
    host, _, port = authority.rpartition(":")
    if not port.isdecimal():
        return authority, 80 if tunnel.public_url.startswith("http:") else 443
    return host, int(port)


@router.get("", operation_id="listTunnels", response_model=list[Tunnel], summary="All open tunnels")
async def list_tunnels(parts: Made) -> Response:
    """List what is open, the oldest first."""
    opened = sorted(parts.routes.tunnels(), key=lambda tunnel: (tunnel.opened_at, tunnel.id))
    return answer_list([shown(tunnel, tunnel.session) for tunnel in opened if tunnel.session is not None])


@router.get("/{id}", operation_id="getTunnel", response_model=Tunnel, responses=NOT_FOUND, summary="One open tunnel")
async def get_tunnel(parts: Made, tunnel_id: TunnelId) -> Response:
    """Show one tunnel; an id that is no UUID is simply not found."""
    tunnel = parts.routes.tunnel(tunnel_id)
    if tunnel is None or tunnel.session is None:
        raise HTTPException(404, "tunnel not found")
    return Answer(shown(tunnel, tunnel.session))


@router.delete("/{id}", operation_id="closeTunnel", status_code=204, responses=NOT_FOUND, summary="Close a tunnel")
async def close_tunnel(parts: Made, tunnel_id: TunnelId) -> Response:
    """Close a tunnel, whatever goes through it, and free its name or port; the agent stays connected."""
    if not await parts.close_tunnel(tunnel_id, "closed by the API"):
        raise HTTPException(404, "invalid tunnel id")
    return Response(status_code=204)


@router.get(
    "/{id}/requests",
    operation_id="tunnelRequests",
    response_model=list[CapturedRequest],
    responses=BAD_REQUEST,
    summary="The last requests of a tunnel, newest first",
)
async def tunnel_requests(
    parts: Made,
    tunnel_id: TunnelId,
    limit: Annotated[RequestLimit, Query(description="How many at most")] = REQUESTS_DEFAULT,
) -> Response:
    """List what was captured, of a closed tunnel too; of one that never was, nothing."""
    if parse_id(tunnel_id) is None:
        return Answer([])
    return answer_list(await parts.captures.requests(tunnel_id, limit))
