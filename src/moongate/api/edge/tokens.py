"""API tokens: list, make, delete."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path
from starlette.responses import Response

from moongate.api.answers import Answer, answer_list, rfc3339
from moongate.api.auth import GuardedRoute, bearer_documented
from moongate.api.edge.schemas import CreatedToken, NewToken, Token
from moongate.api.edge.tunnels import BAD_REQUEST, NOT_FOUND, UNAUTHORIZED
from moongate.api.parts import Made

router = APIRouter(
    prefix="/api/tokens",
    tags=["tokens"],
    route_class=GuardedRoute,
    dependencies=[bearer_documented],
    responses=UNAUTHORIZED,
)


def shown(token: Any) -> dict[str, Any]:
    """Return the public form of a token; its raw value is not known here."""
    return {
        "id": token.id,
        "token_hash": token.token_hash,
        "label": token.label,
        "created_at": rfc3339(token.created_at),
        "last_used_at": _optional(token.last_used_at),
        "expires_at": _optional(token.expires_at),
        "scope": token.scope,
        "tunnel_count": token.tunnel_count,
    }


def _optional(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)


@router.get("", operation_id="listTokens", response_model=list[Token], summary="All tokens, newest first")
async def list_tokens(parts: Made) -> Response:
    """List every token with how many tunnels it ever opened."""
    return answer_list([shown(token) for token in await parts.tokens.list()])


@router.post(
    "",
    operation_id="createToken",
    status_code=201,
    response_model=CreatedToken,
    responses=BAD_REQUEST,
    summary="Make a token",
)
async def create_token(parts: Made, wanted: NewToken) -> Response:
    """Make a token, and show its raw value this once."""
    token, raw = await parts.tokens.create(wanted.label, wanted.scope, _expiry(wanted))
    answer = {
        "id": token.id,
        "label": token.label,
        "token": raw,
        "scope": token.scope,
        "created_at": rfc3339(token.created_at),
        "expires_at": _optional(token.expires_at),
    }
    return Answer(answer, status_code=201, headers={"Cache-Control": "no-store"})


def _expiry(wanted: NewToken) -> datetime | None:
    if wanted.expires_at is not None and wanted.ttl_seconds is not None:
        raise HTTPException(400, "expires_at and ttl_seconds exclude each other")
    if wanted.ttl_seconds is not None:
        return datetime.now(UTC) + timedelta(seconds=wanted.ttl_seconds)
    if wanted.expires_at is not None and wanted.expires_at <= datetime.now(UTC):
        raise HTTPException(400, "expires_at: must lie in the future")
    return wanted.expires_at


@router.delete("/{id}", operation_id="deleteToken", status_code=204, responses=NOT_FOUND, summary="Delete a token")
async def delete_token(parts: Made, id: Annotated[str, Path(description="Token UUID, not its raw value")]) -> Response:
    """Delete a token; what was opened with it ends at once, what it did stays in the history."""
    if not await parts.tokens.delete(id):
        raise HTTPException(404, "token not found")
    return Response(status_code=204)
