"""API tokens: list, make, delete."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path
from starlette.responses import Response

from moongate.api.answers import Answer, answer_list
from moongate.api.auth import GuardedRoute, bearer_documented
from moongate.api.edge.schemas import TTL_MAX_S, CreatedToken, NewToken, Token
from moongate.api.edge.tunnels import BAD_REQUEST, NOT_FOUND, UNAUTHORIZED
from moongate.api.parts import Made
from moongate.audit.ids import parse_id

router = APIRouter(
    prefix="/api/tokens",
    tags=["tokens"],
    route_class=GuardedRoute,
    dependencies=[bearer_documented],
    responses=UNAUTHORIZED,
)


@router.get("", operation_id="listTokens", response_model=list[Token], summary="All tokens, newest first")
async def list_tokens(parts: Made) -> Response:
    """List every token with how many tunnels it ever opened."""
    return answer_list([token.public() for token in await parts.tokens.list()])


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
    shown = token.public()
    answer = {name: shown[name] for name in ("id", "label", "scope", "created_at", "expires_at")} | {"token": raw}
    return Answer(answer, status_code=201, headers={"Cache-Control": "no-store"})


def _expiry(wanted: NewToken) -> datetime | None:
    now = datetime.now(UTC)
    ends = [] if wanted.ttl_seconds is None else [now + timedelta(seconds=wanted.ttl_seconds)]
    if wanted.expires_at is not None:
        ends.append(wanted.expires_at)
    end = min(ends, default=None)
    if end is not None and not now < end <= now + timedelta(seconds=TTL_MAX_S):
        raise HTTPException(400, "expires_at: must lie in the future, and less than ten years ahead")
    return end


@router.delete("/{id}", operation_id="deleteToken", status_code=204, responses=NOT_FOUND, summary="Delete a token")
async def delete_token(
    parts: Made, token_id: Annotated[str, Path(alias="id", description="Token UUID, not its raw value")]
) -> Response:
    """Delete a token; what was opened with it ends at once, what it did stays in the history."""
    if parse_id(token_id) is None or not await parts.tokens.delete(token_id):
        raise HTTPException(404, "token not found")
    return Response(status_code=204)
