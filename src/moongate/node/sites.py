"""A directory served over HTTP/1.1, for agents that publish one."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config as UvicornConfig
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from moongate.api.serving import protocol_settings


def static_sites() -> Callable[[Path], asyncio.Protocol]:
    """Return what makes the protocol that serves a directory to one visitor; one application per directory."""
    state = ServerState()
    configs: dict[Path, UvicornConfig] = {}

    def make(directory: Path) -> asyncio.Protocol:
        config = configs.get(directory)
        if config is None:
            config = configs[directory] = _config(directory)
        return HttpToolsProtocol(config, state, {})

    return make


def _config(directory: Path) -> UvicornConfig:
    # `html` gives index.html for a folder; symbolic links that lead out of the directory are not followed.
    files = StaticFiles(directory=directory, html=True, follow_symlink=False)
    app = Starlette(routes=[Mount("/", files)], middleware=[Middleware(_NoDotFiles)])
    return protocol_settings(app, date_header=True)


class _NoDotFiles:
    """Files whose name begins with a dot (.git, .env) were hardly meant to be published."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts = scope.get("path", "").split("/")
        if any(part.startswith(".") and part != ".well-known" for part in parts):
            await _not_found(send)
        else:
            await self._app(scope, receive, send)


async def _not_found(send: Send) -> None:
    body = b"Not Found"
    head: Message = {
        "type": "http.response.start",
        "status": 404,
        "headers": [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))],
    }
    await send(head)
    await send({"type": "http.response.body", "body": body})
