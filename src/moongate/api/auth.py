"""The credential in a request, turned into an identity, before anything else of the request is looked at."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from moongate.api.parts import Parts, parts_of
from moongate.errors import TokenInvalid
from moongate.identity.tokens import Identity

# Longer than any token of ours; what is longer is not worth hashing.
TOKEN_MAX_CHARS = 512

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

# Only says in the OpenAPI document what GuardedRoute enforces.
bearer_documented = Security(HTTPBearer(scheme_name="bearerAuth", auto_error=False))


class GuardedRoute(APIRoute):
    """A route that asks who is there before its parameters and body are read.

    FastAPI would read the body first, and tell strangers what is wrong with it.
    """

    def get_route_handler(self) -> Handler:
        """Put the question before the framework's own handler."""
        inner = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            request.state.identity = await authenticate(request, parts_of(request))
            return await inner(request)

        return guarded


async def authenticate(request: Request, parts: Parts) -> Identity:
    """Return who asks.

    Raises:
        HTTPException: 401, when there is no token, or none that we know.
    """
    raw = bearer_token(request.headers.get("authorization"))
    if not raw:
        raise unauthorized("missing token")
    try:
        if len(raw) > TOKEN_MAX_CHARS:
            raise TokenInvalid(f"a token has at most {TOKEN_MAX_CHARS} characters")
        return await parts.tokens.verify(raw)
    except TokenInvalid:
        parts.metrics.auth_failures += 1
        raise unauthorized("invalid token") from None


def bearer_token(header: str | None) -> str:
    """Return the token of an Authorization header, or "" (RFC 6750 §2.1; the scheme in any case, as RFC 9110 §11.1)."""
    scheme, _, token = (header or "").strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def unauthorized(message: str) -> HTTPException:
    """Make the refusal of a caller that is not known."""
    return HTTPException(401, message, headers={"WWW-Authenticate": "Bearer"})


def identity_of(request: Request) -> Identity:
    """Return who was found to be asking."""
    identity: Identity = request.state.identity
    return identity


Asking = Annotated[Identity, Depends(identity_of)]
