"""An agent in the foreground: from what was asked for to lines, events or a panel, and an exit code."""

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moongate.agent import reports
from moongate.agent.routes import Route, Upstream
from moongate.agent.service import Agent
from moongate.agent.sites import Sites
from moongate.cli.loops import run_in_loop, stop_requested
from moongate.cli.outcome import Exit, exit_for_code
from moongate.cli.output import JsonLines, Lines, Output, Panel, Ready
from moongate.cli.places import home, node_address
from moongate.cli.tunnels import Wanted
from moongate.cli.upstreams import Local
from moongate.cli.view import Light, RequestView, TunnelView, View
from moongate.errors import ReachError
from moongate.net.dialing import NodeAddress
from moongate.telemetry import get_logger, setup_logging

log = get_logger(__name__)

# How long giving the names back may take when we are asked to stop.
GOODBYE_S = 2.0


@dataclass(frozen=True, slots=True)
class Manner:
    """How a foreground agent behaves and speaks."""

    as_json: bool = False
    plain: bool = False
    once: bool = False
    verbose: bool = False

    def output(self) -> Output:
        """Return the printer for this manner and terminal."""
        if self.as_json:
            return JsonLines()
        if self.plain or self.verbose or not sys.stdout.isatty():
            return Lines()
        return Panel()

    @property
    def log_level(self) -> str:
        """Only errors, unless asked: what matters is told by events."""
        return "debug" if self.verbose else "error"


def publish(wanted: Sequence[Wanted], server: str | None, token_file: Path | None, manner: Manner) -> Exit:
    """Publish these services until Ctrl-C, and say how it ended."""
    address = node_address(server, token_file)
    setup_logging(manner.log_level)

    async def work() -> Exit:
        return await Foreground(address, wanted, manner.output(), once=manner.once).run(stop_requested())

    return run_in_loop(work())


def route_of(wanted: Wanted) -> Route:
    """Return what the agent is to publish; a folder is an HTTP tunnel to the agent itself."""
    local = wanted.local
    if isinstance(local, Local):
        upstream = Upstream(local.scheme, local.host, local.port)
    else:
        upstream = Upstream("static", directory=local)
    return Route(
        kind="http" if wanted.kind == "static" else wanted.kind,
        upstream=upstream,
        label=wanted.label,
        subdomain=wanted.subdomain,
        port=wanted.port,
        proxy_protocol=wanted.proxy_protocol,
        options={
            "host_header": wanted.host_header,
            "capture": wanted.capture,
            "rate_limit_rps": wanted.rate_limit_rps,
            "max_connections": wanted.max_connections,
            "request_body_max_bytes": wanted.request_body_max_bytes,
        },
    )


class Foreground:
    """One agent, its printer, and the exit code that its events add up to."""

    def __init__(
        self,
        address: NodeAddress,
        wanted: Sequence[Wanted],
        output: Output,
        *,
        once: bool = False,
        facts: tuple[str, ...] = (),
    ) -> None:
        routes = [route_of(one) for one in wanted]
        # Two tunnels may lead to the same service, so routes are told apart by identity.
        self._wanted = {id(route): one for route, one in zip(routes, wanted, strict=True)}
        self._urls: dict[int, str] = {}
        self._untold = set(self._wanted)
        self._output = output
        self._once = once
        self._exit: Exit | None = None
        self._is_unheard = False
        self._view = View(node=str(address), facts=facts)
        self._agent = Agent(address, routes, on_event=self._on_event, sites=Sites(home()), once=once)
        # For the request list of people and programs alike.
        self._agent.set_watching(True, lamps=isinstance(output, Panel))

    async def run(self, stop: asyncio.Event) -> Exit:
        """Serve until asked to stop, or until an end that reconnecting cannot mend."""
        agent = asyncio.create_task(self._agent.run(), name="agent")
        asked = asyncio.create_task(stop.wait(), name="asked to stop")
        try:
            await asyncio.wait({agent, asked}, return_when=asyncio.FIRST_COMPLETED)
            self._agent.stop()
            await asyncio.wait({agent}, timeout=GOODBYE_S)
        finally:
            asked.cancel()
            agent.cancel()
            ended = await asyncio.gather(agent, asked, return_exceptions=True)
            self._output.close()
        if self._is_unheard:
            _mute_stdout()
            return Exit.OK
        if isinstance(ended[0], Exception):
            raise ended[0]
        if self._exit is None and not stop.is_set() and not isinstance(ended[0], BaseException):
            return Exit(int(ended[0]))
        return self._exit or Exit.OK

    def look(self) -> View:
        """Return how things stand now."""
        snapshot = self._agent.snapshot()
        view = self._view
        view.state, view.node = snapshot.state, snapshot.node
        view.lights = tuple(_light(lamp) for lamp in (snapshot.link, snapshot.agent, snapshot.upstream))
        view.tunnels = tuple(self._tunnel_view(tunnel) for tunnel in snapshot.tunnels)
        return view

    def _tunnel_view(self, tunnel: reports.TunnelSnapshot) -> TunnelView:
        wanted = self._wanted[id(tunnel.route)]
        return TunnelView(
            kind=wanted.kind,
            public_url=tunnel.public_url,
            local=str(wanted.local),
            connections=tunnel.connections,
            requests=tunnel.requests,
            bytes_in=tunnel.bytes_in,
            bytes_out=tunnel.bytes_out,
            note=tunnel.note or ("" if tunnel.state == "ready" else tunnel.state),
        )

    def _on_event(self, event: reports.AgentEvent) -> None:
        try:
            self._tell(event)
        except OSError:
            # Nobody reads what we print any more: the terminal or the other end of the pipe is gone.
            self._is_unheard = True
            self._agent.stop()

    def _tell(self, event: reports.AgentEvent) -> None:
        log.debug("agent", what=type(event).__name__, **_details(event))
        match event:
            case reports.TunnelReady():
                self._tunnel_ready(event)
            case reports.Refused():
                self._refused(event)
            case reports.Reconnecting():
                self._reconnecting(event)
            case reports.Connected(node=node, again=True):
                self._output.connected_again(node)
                self._notice(f"connected to {node} again")
            case reports.SupersededBy():
                self._ended(event.route, "lease.superseded", event.message)
            case reports.ClosedBy():
                self._ended(event.route, "tunnel.closed", event.message or "an administrator closed the tunnel")
            case reports.RequestSeen():
                self._request(event)
            case reports.UpstreamFailed():
                self._upstream_failed(event)
            case _:
                pass

    def _tunnel_ready(self, event: reports.TunnelReady) -> None:
        key = id(event.route)
        # After a reconnection the same URL is no news.
        if self._urls.get(key) != event.public_url:
            self._urls[key] = event.public_url
            self._output.tunnel_ready(Ready(self._wanted[key], event.tunnel_id, event.public_url, event.port))
        self._told(key)

    def _told(self, key: int) -> None:
        """When every tunnel has been told, nothing is left to wait for before the panel."""
        self._untold.discard(key)
        if not self._untold and self._urls:
            self._output.all_ready(self.look)

    def _refused(self, event: reports.Refused) -> None:
        if event.fatal:
            self._exit = exit_for_code(event.code)
        self._output.failed(event.code, event.message, event.hint)
        self._notice(event.message)
        if event.route is not None and not event.fatal:
            self._told(id(event.route))

    def _reconnecting(self, event: reports.Reconnecting) -> None:
        if self._once:
            self._exit = Exit.UNREACHABLE
            self._output.failed(ReachError.code, f"the link to {self._view.node} is lost: {event.reason}")
            self._agent.stop()
            return
        self._output.reconnecting(event.attempt, event.reason, event.delay_s)
        self._notice(f"attempt {event.attempt}: {event.reason}")

    def _ended(self, route: Route, code: str, message: str) -> None:
        url = self._urls.get(id(route), "")
        self._output.failed(code, f"{url}: {message}" if url else message)
        self._notice(message)

    def _request(self, event: reports.RequestSeen) -> None:
        tunnel = self._urls.get(id(event.route), "")
        request = RequestView(time.time(), event.method, event.path, event.status, event.duration_s, tunnel)
        self._view.requests.append(request)
        self._output.request(request)

    def _upstream_failed(self, event: reports.UpstreamFailed) -> None:
        self._output.upstream_failed(event.message)
        self._notice(event.message)

    def _notice(self, message: str) -> None:
        """Keep the latest words, each only once."""
        notices = self._view.notices
        if message in notices:
            notices.remove(message)
        notices.append(message)


def _mute_stdout() -> None:
    """Whoever read our output has left; what is still to be flushed at exit would only fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _details(event: reports.AgentEvent) -> dict[str, object]:
    """Return what an event says, for the log; its route by where it leads."""
    said = {name: getattr(event, name) for name in type(event).__slots__}
    return {name: str(value.upstream) if isinstance(value, Route) else value for name, value in said.items()}


def _light(lamp: reports.Lamp) -> Light:
    return Light(lamp.name, lamp.ok, lamp.at, lamp.rtt_s, lamp.detail)
