"""A recorded request, looked at again, or really sent again through the live tunnel."""

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Body, HTTPException, Path, Query, Request
from starlette.responses import Response

from moongate.api.answers import Answer
from moongate.api.auth import GuardedRoute, bearer_documented
from moongate.api.edge.bounds import Truth
from moongate.api.edge.diffs import compare
from moongate.api.edge.schemas import Error, ReplayEdit, ReplayedRequest
from moongate.api.edge.tunnels import BAD_REQUEST, NOT_FOUND, UNAUTHORIZED, TunnelId
from moongate.api.parts import Made, Parts
from moongate.audit.exchanges import Capture, Headers, Resendable
from moongate.audit.ids import id_text

# What frames and routes a message is decided by the edge when it sends.
NOT_EDITABLE = frozenset(
    [
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)

router = APIRouter(
    prefix="/api/tunnels",
    tags=["tunnels"],
    route_class=GuardedRoute,
    dependencies=[bearer_documented],
    responses={**UNAUTHORIZED, **BAD_REQUEST},
)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request as it will be sent."""

    method: str
    path: str
    headers: Headers
    body: bytes


@router.post(
    "/{id}/replay/{request_id}",
    operation_id="replayRequest",
    response_model=ReplayedRequest,
    responses={
        **NOT_FOUND,
        409: {"model": Error, "description": "The tunnel is offline, or the recorded body was cut"},
        429: {"model": Error, "description": "A limit of the tunnel would be passed"},
        502: {"model": Error, "description": "The upstream could not be reached"},
        504: {"model": Error, "description": "The upstream did not answer in time"},
    },
    summary="Show a recorded request, or send it again",
)
async def replay_request(
    *,
    request: Request,
    parts: Made,
    tunnel_id: TunnelId,
    request_id: Annotated[str, Path(description="Captured request UUID")],
    send: Annotated[Truth, Query(description="Really send it through the live tunnel")] = False,
    edit: Annotated[ReplayEdit | None, Body()] = None,
) -> Response:
    """Answer the recorded request; with `send=true` send it again, edited if wanted, and compare the answers."""
    recorded = await _recorded(parts, tunnel_id, request_id)
    if not send:
        return Answer(recorded.public())
    outgoing = _outgoing(recorded, edit or ReplayEdit())
    tunnel = parts.routes.tunnel(tunnel_id)
    if tunnel is None or tunnel.session is None:
        raise HTTPException(409, "tunnel is offline")
    new = await parts.resend(tunnel, outgoing.method, outgoing.path, outgoing.headers, outgoing.body, _address(request))
    return Answer({**recorded.public(), "replay": _result(recorded, new)})


async def _recorded(parts: Parts, tunnel_id: str, request_id: str) -> Capture:
    capture: Capture | None = await parts.captures.get(request_id)
    if capture is None:
        raise HTTPException(404, "request not found")
    if capture.tunnel_id != tunnel_id:
        raise HTTPException(404, "request does not belong to this tunnel")
    return capture


def _outgoing(recorded: Capture, edit: ReplayEdit) -> Outgoing:
    kept = recorded.resendable()
    if recorded.status == 101:
        raise HTTPException(409, "a connection that was upgraded cannot be sent again")
    return Outgoing(
        edit.method or kept.method,
        edit.path or kept.path,
        edited_headers(kept.headers, edit.headers or {}),
        _body(recorded, kept, edit),
    )


def _body(recorded: Capture, kept: Resendable, edit: ReplayEdit) -> bytes:
    if edit.body is not None:
        return _decoded(edit.body, edit.encoding)
    if kept.truncated or (kept.body is None and recorded.request_bytes):
        raise HTTPException(409, "the recorded body was cut; give the whole one as `body`")
    return kept.body or b""


def _decoded(body: str, encoding: str | None) -> bytes:
    try:
        return b64decode(body, validate=True) if encoding == "base64" else body.encode()
    except (Base64Error, ValueError):
        raise HTTPException(400, "body: cannot be decoded") from None


def edited_headers(kept: Headers, changes: Mapping[str, str | list[str] | None]) -> Headers:
    """Return the recorded headers with each named one replaced, or removed by None.

    Raises:
        HTTPException: 400, for a header that frames or routes the message.
    """
    named = {name.lower(): value for name, value in changes.items()}
    refused = sorted(named.keys() & NOT_EDITABLE)
    if refused:
        raise HTTPException(400, f"headers: {refused[0]} is set by the gateway")
    headers = [(name, value) for name, value in kept if name.decode("latin-1").lower() not in named]
    for name, value in changes.items():
        values = [] if value is None else [value] if isinstance(value, str) else value
        headers += [(name.encode(), text.strip().encode("latin-1")) for text in values]
    return headers


def _address(request: Request) -> str:
    client = request.client
    if client is None:
        return ""
    return f"[{client.host}]:{client.port}" if ":" in client.host else f"{client.host}:{client.port}"


def _result(recorded: Capture, new: Capture) -> dict[str, Any]:
    return {
        "request_id": id_text(new.id),
        "status": new.status,
        "response_bytes": new.response_bytes,
        "diff": compare(recorded, new),
    }
