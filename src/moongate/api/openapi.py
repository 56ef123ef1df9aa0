"""The OpenAPI document: what the framework knows, with our names and without what never happens."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

TEXT = """Tunnels, tokens and history of a Moongate node.

Every operation except `GET /api/status` and `GET /api/openapi.json` asks for `Authorization: Bearer <token>`; every
failure is answered as `{"error": "<text>"}`. `GET /api/events` is a stream of server-sent events, which this document
has no words for."""


def describe(app: FastAPI) -> None:
    """Make the application describe itself with our document."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = document_of(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def document_of(app: FastAPI) -> dict[str, Any]:
    """Return the document of all routes that want to be in it."""
    document = get_openapi(title="Moongate REST API", version=app.version, description=TEXT, routes=app.routes)
    for path in document["paths"].values():
        for operation in path.values():
            # Malformed input is a 400 in our own shape, never the framework's 422.
            operation["responses"].pop("422", None)
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    return document
