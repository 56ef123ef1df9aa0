"""Which other origins a browser may call the REST family from (Fetch standard, "CORS protocol")."""

from collections.abc import Iterable

from starlette.responses import Response
from starlette.types import ASGIApp, Scope

METHODS = "GET, POST, DELETE"
ALLOWED_HEADERS = "Authorization, Content-Type"
EXPOSED_HEADERS = "X-Request-Id, Retry-After"
PREFLIGHT_AGE_S = 600


class Cors:
    """Answers preflights, and marks answers to allowed origins, below one path."""

    def __init__(self, origins: Iterable[str], prefix: str = "/api/", methods: str = METHODS) -> None:
        self._origins = {origin.rstrip("/").encode() for origin in origins}
        self._prefix = prefix
        self._methods = methods

    def headers(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """Return the headers that the answer to this request gets."""
        if not scope["path"].startswith(self._prefix):
            return []
        origin = _header(scope, b"origin")
        if origin not in self._origins:
            return [(b"vary", b"Origin")]
        return [
            (b"vary", b"Origin"),
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", EXPOSED_HEADERS.encode()),
        ]

    def preflight(self, scope: Scope) -> ASGIApp | None:
        """Return the answer to a preflight, or None when the request is none."""
        if scope["method"] != "OPTIONS" or not _header(scope, b"access-control-request-method"):
            return None
        if _header(scope, b"origin") not in self._origins or not scope["path"].startswith(self._prefix):
            return Response(status_code=204)
        return Response(
            status_code=204,
            headers={
                "Access-Control-Allow-Methods": self._methods,
                "Access-Control-Allow-Headers": ALLOWED_HEADERS,
                "Access-Control-Max-Age": str(PREFLIGHT_AGE_S),
            },
        )


def _header(scope: Scope, wanted: bytes) -> bytes:
    return next((value for name, value in scope["headers"] if name == wanted), b"")
