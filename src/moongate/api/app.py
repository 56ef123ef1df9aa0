"""The web application: the families it serves, what holds for all of them, and the table from errors to answers."""

from typing import Any

from fastapi import FastAPI

from moongate.api import edge, openapi, operations
from moongate.api.cors import Cors
from moongate.api.failures import handle_failures
from moongate.api.hosts import ApplicationHosts
from moongate.api.middleware import Frame
from moongate.api.parts import Parts

__all__ = ["Parts", "create_app", "openapi_document"]

LOCAL_ORIGIN = "http://localhost:3000"


def create_app(parts: Parts) -> FastAPI:
    """Make the application of one node from its parts."""
    app = _routed(parts.version)
    app.state.parts = parts
    config = parts.config
    hosts = ApplicationHosts([config.domain, *config.node_names])
    app.add_middleware(Frame, hosts=hosts, cors=Cors([config.dashboard_origin, LOCAL_ORIGIN]))
    return app


def openapi_document(version: str) -> dict[str, Any]:
    """Return the OpenAPI document without making a node."""
    return _routed(version).openapi()


def _routed(version: str) -> FastAPI:
    app = FastAPI(version=version, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.include_router(operations.router)
    for router in edge.routers:
        app.include_router(router)
    openapi.describe(app)
    handle_failures(app)
    return app
