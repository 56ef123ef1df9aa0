"""The application that an agent serves on its own machine, and the document that describes it."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from moongate.api.agent import endpoints, events
from moongate.api.agent.envelopes import METHODS, handle_failures
from moongate.api.agent.guard import Guard, Policy
from moongate.api.agent.parts import LocalParts
from moongate.api.cors import Cors

TEXT = """What an agent publishes and how it fares, for programs on its own machine.

A request that was understood is answered 200, with `status` false and a text in `error` when it could not be carried
out. `GET /api/client/v1.0/events` is a stream of server-sent events, which this document has no words for."""


def create_agent_app(parts: LocalParts) -> FastAPI:
    """Make the application of one agent from its parts."""
    app = _routed(parts.version)
    app.state.parts = parts
    policy = Policy(parts.hosts, parts.origins, parts.token)
    app.add_middleware(Guard, policy=policy, cors=Cors(parts.origins, methods=", ".join(METHODS)))
    return app


def agent_openapi_document(version: str) -> dict[str, Any]:
    """Return the OpenAPI document without making an agent."""
    return _routed(version).openapi()


def _routed(version: str) -> FastAPI:
    app = FastAPI(version=version, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.include_router(endpoints.router)
    app.include_router(events.router)
    handle_failures(app)

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = get_openapi(
                title="Moongate agent API", version=version, description=TEXT, routes=app.routes
            )
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
    return app
