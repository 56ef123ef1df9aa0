"""What an operator's tools ask: is it alive, its metrics, its certificate authority, and a small index."""

import hmac

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from moongate.api.answers import Answer
from moongate.api.auth import authenticate, bearer_token, unauthorized
from moongate.api.parts import Made, Parts
from moongate.net.listening import Peer

FORWARDING_HEADERS = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")

router = APIRouter(include_in_schema=False)


@router.get("/")
async def index(parts: Made) -> Response:
    """Say what this is, and where to go on."""
    return Answer(
        {
            "name": "moongate",
            "version": parts.version,
            "links": {
                "status": "/api/status",
                "openapi": "/api/openapi.json",
                "health": "/healthz",
                "metrics": "/metrics",
                "certificate_authority": "/moongate/ca.pem",
            },
        }
    )


@router.get("/healthz")
async def healthz(parts: Made) -> Response:
    """Answer 200 while the node takes visitors, 503 while it drains."""
    if parts.stopping.is_set():
        return Answer({"ok": False, "draining": True}, status_code=503)
    return Answer({"ok": True})


@router.get("/moongate/ca.pem")
async def ca_pem(parts: Made) -> Response:
    """Hand out the certificate of the node's authority; agents check it against the pin in their join string."""
    return Response(parts.ca_pem, media_type="application/x-pem-file")


@router.get("/metrics")
async def metrics(request: Request, parts: Made) -> Response:
    """Answer the metrics to this machine itself, or to whoever has the admin's or the metrics token."""
    if not _is_local(request):
        await _check_metrics_token(request, parts)
    return Response(parts.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def _is_local(request: Request) -> bool:
    """Tell whether the peer is on this machine, and nobody asks through it."""
    peer: Peer = request.state.peer
    return peer.is_loopback and not any(name in request.headers for name in FORWARDING_HEADERS)


async def _check_metrics_token(request: Request, parts: Parts) -> None:
    given = bearer_token(request.headers.get("authorization"))
    wanted = parts.config.metrics_token
    if given and wanted and hmac.compare_digest(given.encode(), wanted.get_secret_value().encode()):
        return
    identity = await authenticate(request, parts)
    if not identity.is_admin:
        raise unauthorized("admin token required")
