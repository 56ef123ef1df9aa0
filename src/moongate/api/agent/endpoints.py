"""Every operation of this family, and the methods it takes.

The first method of each is the published one; the others mean the same for programs that know better.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel
from starlette.responses import Response

from moongate.api.agent import requests, schemas
from moongate.api.agent.envelopes import Unusable
from moongate.api.agent.parts import Made, parts_of
from moongate.api.agent.peers import is_own_user
from moongate.api.answers import Answer

PREFIX = "/api/client/v1.0"
RULES = ("https", "ports", "portmaps")

router = APIRouter(prefix=PREFIX)

Handler = Callable[..., Coroutine[Any, Any, Response]]
REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": schemas.Envelope, "description": "The agent asks for a token"},
    403: {"model": schemas.Envelope, "description": "A Host, an Origin or a page that may not call"},
}
UNREADABLE: dict[int | str, dict[str, Any]] = {
    400: {"model": schemas.Envelope, "description": "The body is not JSON of the right form"},
    413: {"model": schemas.Envelope, "description": "The body is larger than 1 MiB"},
}


def operation(
    path: str,
    methods: tuple[str, ...],
    name: str,
    model: type[BaseModel],
    *,
    body: Mapping[str, Any] | None = None,
    query: tuple[Mapping[str, Any], ...] = (),
) -> Callable[[Handler], Handler]:
    """Register a handler for a path, once for each method, and describe it."""
    described: dict[str, Any] = {"parameters": list(query)} if query else {}
    if body is not None:
        # A GET may leave it out, as those do that cannot send one with it.
        needed = methods[0] != "GET"
        described["requestBody"] = {"required": needed, "content": {"application/json": {"schema": body}}}

    def register(handler: Handler) -> Handler:
        for number, method in enumerate(methods):
            router.add_api_route(
                path,
                handler,
                methods=[method],
                operation_id=name if number == 0 else f"{name}By{method.title()}",
                response_model=model,
                responses=REFUSALS | (UNREADABLE if body is not None else {}),
                openapi_extra=described,
                summary=(handler.__doc__ or "").partition(".")[0].partition(";")[0],
            )
        return handler

    return register


def parameter(name: str, about: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a query parameter; handlers read it themselves, to refuse it in this API's own way."""
    return {"name": name, "in": "query", "required": False, "description": about, "schema": schema}


PORT_NUMBER = {"type": "integer", "minimum": 1, "maximum": schemas.PORT_MAX}
WAIT = parameter(
    "wait", "Answer when there is a session, or after so many seconds", {"type": "number", "minimum": 0, "maximum": 30}
)
SECRETS = parameter("secrets", "Show hashes, to the agent's own user only", {"type": "boolean"})
PORT = parameter("port", "The port wished for", PORT_NUMBER)
TRANSPORT = parameter("transport", "What the port carries", {"type": "string", "enum": ["tcp", "udp"]})
BY_QUERY = (
    parameter("domain", "Without a body: the site", {"type": "string"}),
    parameter("port", "Without a body: the port", PORT_NUMBER),
    parameter("portmap", "Without a body: the port map's local port", PORT_NUMBER),
)


# --- the agent and its session -----------------------------------------------------------


@operation("/info", ("GET",), "getInfo", schemas.Info)
async def get_info(parts: Made) -> Response:
    """The agent, and whether it has a session."""
    return Answer(parts.agent.info())


@operation("/config", ("GET",), "getConfig", schemas.Config, query=(SECRETS,))
async def get_config(request: Request, parts: Made) -> Response:
    """Everything that is published, in the order of creation."""
    # Whatever else it says, they stay masked.
    secrets = request.query_params.get("secrets") == "true"
    if secrets and not await _asked_by_own_user(request):
        raise HTTPException(403, "secrets are shown only to the user that the agent runs as")
    return Answer(parts.agent.config(secrets))


async def _asked_by_own_user(request: Request) -> bool:
    client, server = request.scope.get("client"), request.scope.get("server")
    if client is None or server is None:
        return False
    return await asyncio.to_thread(is_own_user, (client[0], client[1]), (server[0], server[1]))


@operation("/tun/start", ("GET", "POST"), "startTunnel", schemas.Started, query=(WAIT,))
async def start_tunnel(request: Request, parts: Made) -> Response:
    """Begin to keep a session; where there is one, nothing changes."""
    try:
        wait_s = requests.wait_s(request)
    except Unusable as error:
        return Answer({**parts.failure(error.message), "isTunConnected": parts.agent.info()["isTunConnected"]})
    return Answer(await parts.agent.start(wait_s))


@operation("/tun/shutdown", ("GET", "POST"), "shutdownTunnel", schemas.Envelope)
async def shutdown_tunnel(parts: Made) -> Response:
    """End the session, if there is one."""
    return Answer(await parts.agent.shutdown())


@operation("/tun/restart", ("GET", "POST"), "restartTunnel", schemas.Envelope, query=(WAIT,))
async def restart_tunnel(request: Request, parts: Made) -> Response:
    """End the session and begin anew."""
    return Answer(await parts.agent.restart(requests.wait_s(request)))


@operation("/health", ("GET",), "getHealth", schemas.Health)
async def get_health(parts: Made) -> Response:
    """Whether what stands behind each rule can be reached."""
    return Answer(await parts.agent.health())


# --- rules -------------------------------------------------------------------------------


@operation("/traffic/create", ("POST",), "createRules", schemas.Changed, body=schemas.TRAFFIC)
async def create_rules(request: Request, parts: Made) -> Response:
    """Add rules."""
    return Answer(await parts.agent.create(await requests.read_traffic(request)))


@operation("/traffic/update", ("POST", "PUT"), "updateRules", schemas.Changed, body=schemas.TRAFFIC)
async def update_rules(request: Request, parts: Made) -> Response:
    """Replace rules by what is given."""
    return Answer(await parts.agent.update(await requests.read_traffic(request)))


@operation("/traffic/update", ("PATCH",), "patchRules", schemas.Changed, body=schemas.TRAFFIC)
async def patch_rules(request: Request, parts: Made) -> Response:
    """Change those members of rules that are given."""
    return Answer(await parts.agent.patch(await requests.read_traffic(request)))


@operation(
    "/traffic/delete",
    ("GET", "POST", "DELETE"),
    "deleteRules",
    schemas.Changed,
    body=schemas.TRAFFIC,
    query=BY_QUERY,
)
async def delete_rules(request: Request, parts: Made) -> Response:
    """Remove rules, named by their keys in a body or, without one, in the query."""
    return Answer(await parts.agent.delete(await requests.read_deletion(request)))


@operation("/traffic/list", ("GET",), "listRules", schemas.Listed)
async def list_rules(parts: Made) -> Response:
    """The rules and nothing else."""
    config = parts.agent.config(False)
    return Answer({"status": True, "error": "", **{kind: config[kind] for kind in RULES}})


# --- ports -------------------------------------------------------------------------------


@operation("/ports/allocate", ("GET", "POST"), "allocatePort", schemas.Allocated, query=(PORT, TRANSPORT))
async def allocate_port(request: Request) -> Response:
    """Take a port of the node; it stays this agent's until it is released."""
    try:
        port = requests.wanted_port(request)
        transport = requests.transport_of(request.query_params.get("transport", "tcp"))
    except Unusable as error:
        return Answer({"status": False, "port": 0, "message": "", "error": error.message})
    return Answer(await parts_of(request).agent.allocate(port, transport))


@operation("/ports/release", ("POST",), "releasePort", schemas.Envelope, body=schemas.RELEASE)
async def release_port(request: Request, parts: Made) -> Response:
    """Give a port back to the node, with its rule and its connections."""
    body = await requests.read_object(request)
    if body is None:
        raise HTTPException(400, "request body must be a JSON object")
    port = requests.port_of(body.get("port"), "port")
    transport = requests.transport_of(body["transport"]) if body.get("transport") else None
    return Answer(await parts.agent.release(port, transport))


@operation("/ports/list", ("GET",), "listPorts", list[schemas.Port])  # type: ignore[arg-type]
async def list_ports(parts: Made) -> Response:
    """The allocated ports, in ascending order, as a bare array."""
    return Answer(parts.agent.ports())


@router.get("/openapi.json", include_in_schema=False)
async def get_openapi(request: Request) -> Response:
    """Answer this API's own description."""
    return Answer(request.app.openapi())
