"""The one table from errors to answers."""

from collections.abc import Mapping
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from moongate import errors
from moongate.api.answers import error

# The first class that fits counts: the special ones stand before their families.
STATUSES: tuple[tuple[type[errors.MoongateError], int], ...] = (
    (errors.ProtocolError, 400),
    (errors.ScopeInvalid, 400),
    (errors.LabelInvalid, 400),
    (errors.ScopeDenied, 403),
    (errors.IdentityError, 401),
    (errors.LimitExceeded, 429),
    (errors.NameInvalid, 400),
    (errors.RoutingError, 409),
    (errors.UpstreamTimeout, 504),
    (errors.ReachError, 502),
    (errors.StorageError, 503),
)
RETRY_AFTER_S = {429: "1", 503: "2"}
# A long list of faults tells no more than its beginning.
NAMED_PROBLEMS = 5


def handle_failures(app: FastAPI) -> None:
    """Teach the application how each failure is answered."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(errors.MoongateError, _ours)


async def _ours(_request: Request, exc: Exception) -> Response:
    status = next((status for kind, status in STATUSES if isinstance(exc, kind)), 500)
    if status == 500:
        raise exc
    retry = RETRY_AFTER_S.get(status)
    return error(status, str(exc), {"Retry-After": retry} if retry else None)


async def _http(request: Request, failure: Exception) -> Response:
    exc = cast(HTTPException, failure)
    if exc.status_code == 404 and exc.detail == "Not Found":
        return error(404, "not found")
    if exc.status_code == 405:
        return error(405, "method not allowed", {"Allow": ", ".join(_allowed(request))})
    return error(exc.status_code, str(exc.detail), dict(exc.headers) if exc.headers else None)


def _allowed(request: Request) -> list[str]:
    """List the methods of every route at this path; the framework names those of the first one only."""
    methods: set[str] = set()
    for method in ("GET", "POST", "DELETE"):
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes):
            methods.update(("GET", "HEAD") if method == "GET" else (method,))
    return sorted(methods)


async def _invalid(_request: Request, exc: Exception) -> Response:
    problems = cast(RequestValidationError, exc).errors()
    return error(400, "; ".join(_sentence(problem) for problem in problems[:NAMED_PROBLEMS]))


def _sentence(problem: Mapping[str, Any]) -> str:
    """Say what is wrong and where, without the value: it may be a secret."""
    kind, *path = (str(step) for step in problem["loc"])
    place = ".".join(path) or kind
    match problem["type"]:
        case "json_invalid":
            return "the body is not valid JSON"
        case "model_attributes_type":
            return "the body must be a JSON object (Content-Type: application/json)"
        case "missing":
            return f"{place}: is missing"
        case "string_pattern_mismatch":
            return f"{place}: has characters that are not allowed there"
        case _:
            message = str(problem["msg"]).removeprefix("Value error, ").removeprefix("Input ")
            return f"{place}: {message[:1].lower()}{message[1:]}"
