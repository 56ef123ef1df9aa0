"""Is it alive, how busy is it, and how is it described: the two public operations."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from moongate.api.answers import Answer
from moongate.api.edge.schemas import Status
from moongate.api.parts import Made

router = APIRouter(prefix="/api", tags=["status"])


@router.get("/status", operation_id="getStatus", response_model=Status, summary="Health and load, for everybody")
async def get_status(parts: Made) -> Response:
    """Count what is in memory; no database is asked, so that it may be polled."""
    kinds = [tunnel.kind for tunnel in parts.routes.tunnels()]
    tls = kinds.count("tls")
    states = [status.state for status in parts.certificates().values()]
    # The published API counts HTTP and TCP; what it does not know is counted apart.
    return Answer(
        {
            "ok": True,
            "active_sessions": parts.routes.session_count,
            "active_tunnels": len(kinds) - tls,
            "active_tls_tunnels": tls,
            "certificates": {state: states.count(state) for state in ("ready", "pending", "failed")},
            "version": parts.version,
        }
    )


@router.get("/openapi.json", include_in_schema=False)
async def get_openapi(request: Request) -> Response:
    """Answer the OpenAPI document."""
    return Answer(request.app.openapi())
