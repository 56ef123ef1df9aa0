"""The one shape of an answer, and how each failure is put into it.

A request that was understood is answered 200 whatever became of it, as programs written for this API expect; other
statuses are for requests that could not be read, and for strangers.
"""

from typing import cast

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from moongate.api.answers import Answer
from moongate.errors import MoongateError

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


class Unusable(Exception):
    """A request that was read holds something that cannot be used."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def malformed(message: str) -> HTTPException:
    """Make the refusal of a body that cannot be read."""
    return HTTPException(400, message)


def failure(status: int, message: str, headers: dict[str, str] | None = None) -> Answer:
    """Answer a failure."""
    return Answer({"status": False, "error": message}, status_code=status, headers=headers)


def handle_failures(app: FastAPI) -> None:
    """Teach the application how each failure is answered."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(MoongateError, _refused)
    app.add_exception_handler(Unusable, _refused)


async def _refused(_request: Request, exc: Exception) -> Response:
    return failure(200, str(exc))


async def _http(request: Request, exc: Exception) -> Response:
    refused = cast(HTTPException, exc)
    if refused.status_code == 404 and refused.detail == "Not Found":
        return failure(404, "not found")
    if refused.status_code == 405:
        return failure(405, "method not allowed", {"Allow": ", ".join(allowed(request.app, request.scope))})
    return failure(refused.status_code, str(refused.detail), dict(refused.headers) if refused.headers else None)


def allowed(app: FastAPI, scope: Scope) -> list[str]:
    """List the methods of every route at this path; the framework names those of the first one only."""
    return [
        method
        for method in METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in app.router.routes)
    ]
