"""A node: starts its parts in order, says where it listens, and ends them in the opposite order."""

import asyncio
import gc
import secrets
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog

from moongate import __version__
from moongate.api.app import Parts, create_app
from moongate.api.hosts import ApplicationHosts
from moongate.api.serving import AppServer
from moongate.audit.captures import Capture, Captures
from moongate.audit.connections import Connections
from moongate.audit.events import Events
from moongate.audit.history import History, Leftover
from moongate.audit.sealing import Sealer
from moongate.config import Config, differences
from moongate.edge.control import Control
from moongate.edge.ingress.dialed import answer_dial
from moongate.edge.ingress.edge import Edge
from moongate.edge.ingress.gate import Gate
from moongate.edge.ingress.http import HttpVisitor
from moongate.edge.ingress.resend import resend
from moongate.edge.ingress.tcp import RawVisitor, TcpPorts
from moongate.edge.ingress.udp import UdpPorts
from moongate.edge.kept import KeptNames
from moongate.edge.routes import KINDS, Routes, Tunnel
from moongate.errors import MoongateError
from moongate.identity.tokens import Tokens
from moongate.net.addresses import host_port
from moongate.net.certificates import Certificates
from moongate.net.dialing import make_join
from moongate.net.listening import Listener, Peer, RawFactory
from moongate.net.memory import return_memory
from moongate.node import certifying
from moongate.node.home import Home
from moongate.storage.database import Database, sqlite_url
from moongate.tasks import TaskSet
from moongate.telemetry import LoopWatchdog, Metrics

log = structlog.get_logger(__name__)

# Taken at the next start only: they are bound, opened or handed on once.
FIXED_SETTINGS: Final = frozenset(
    [
        "home",
        "listen",
        "dashboard_port",
        "domain",
        "node_names",
        "tls_cert",
        "tls_key",
        "trusted_proxies",
        "database_url",
        "admin_token",
        "metrics_token",
        "dashboard_origin",
        "log_format",
        "capture.ring",
        "capture.total_bytes",
        "acme.directory",
        "acme.email",
        "acme.ca_file",
        "acme.own_name",
        "acme.challenge",
    ]
)
GC_THRESHOLDS: Final = (20_000, 20, 50)
MEMORY_RETURNED_S: Final = 60.0
JOIN_LABEL: Final = "join"
APPLICATION_DRAIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Held:
    """A name that was in use before the restart, as routes want it told."""

    tunnel_id: str
    label: str
    protocol: str
    token_id: str | None
    unregistered_at: float | None

    @classmethod
    def of(cls, row: Leftover) -> "_Held":
        at = row.unregistered_at
        return cls(row.tunnel_id, row.label, row.protocol, row.token_id, None if at is None else at.timestamp())


async def _return_memory() -> None:
    """What a crowd of visitors used is the system's again soon after they have left."""
    while True:
        await asyncio.sleep(MEMORY_RETURNED_S)
        return_memory()


class Node:
    """One gateway process."""

    def __init__(self, config: Config, *, reload: Callable[[], Config] | None = None) -> None:
        """`reload` reads the settings again when the process gets SIGHUP."""
        self.config = config
        self.addresses: list[tuple[str, int]] = []
        self.admin_token = ""
        self.admin_token_is_new = False
        self.join = ""
        self._reload = reload
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._signals_seen = 0

    # -- starting

    async def start(self) -> None:
        """Open everything; when this returns, the node accepts.

        Raises:
            ConfigurationError: If a setting cannot be used.
            PortInUse: If another program listens on an address of ours.
            StorageError: If the database cannot be opened.
        """
        config = self.config
        self._home = Home(config.home)
        configured = config.admin_token.get_secret_value() if config.admin_token is not None else None
        self.admin_token, self.admin_token_is_new = self._home.admin_token(configured)
        self._home.make_provisioner_key()
        self._node_id = self._home.node_id()
        self._tasks = TaskSet("node")
        self._metrics = Metrics()
        self._watchdog = LoopWatchdog(self._stalled)
        await self._open_storage(config)
        try:
            await self._open_edge(config)
        except BaseException:
            await self._close_storage()
            raise
        self._watchdog.start()
        # What was loaded lives as long as the process; what a request makes dies young, without a cycle. So look
        # for cycles seldom, and never among the modules.
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)

    async def _open_storage(self, config: Config) -> None:
        url = config.database_url or sqlite_url(config.home / "moongate.db")
        self._db = await Database.open(url)
        self._tokens = Tokens(self._db, self.admin_token, config.domain)
        self._history = History(self._db, self._node_id)
        self._captures = Captures(self._db, config.capture, Sealer.load(config.home))
        self._connections = Connections(self._db, self._node_id)
        self._kept = KeptNames(self._db, self._node_id)
        self._events = Events()
        for part in (self._tokens, self._history, self._captures, self._connections, self._kept):
            await part.start()

    async def _open_edge(self, config: Config) -> None:
        names = [config.domain, *config.node_names]
        pair = (config.tls_cert, config.tls_key) if config.tls_cert is not None else None
        self._routes = self._make_routes(config, names)
        self._certificates = Certificates(
            config.home, config.domain, config.node_names, pair, issuable=self._routes.is_public
        )
        self._control = Control(
            routes=self._routes,
            tokens=self._tokens,
            history=self._history,
            captures=self._captures,
            events=self._events,
            node_id=self._node_id,
            release=__version__,
            metrics=self._metrics,
            tasks=self._tasks,
        )
        self._listener = Listener(
            http=self._visitor,
            pass_through=self._pass_through,
            certificates=self._certificates,
            trusted_proxies=config.trusted_proxies,
            handshake_timeout_s=min(10.0, config.limits.header_timeout_s or 10.0),
            first_byte_timeout_s=config.limits.header_timeout_s or 30.0,
        )
        self._edge = Edge(
            config=config,
            routes=self._routes,
            captures=self._captures,
            connections=self._connections,
            events=self._events,
            metrics=self._metrics,
            application_hosts=ApplicationHosts(names),
            application=self._application,
            accept_link=self._control.accept,
            trusts=self._listener.trusts,
            gate=Gate(self._home.visitor_key(), self._tasks),
        )
        host = config.listen_address[0]
        self._ports: dict[str, TcpPorts | UdpPorts] = {
            "tcp": TcpPorts(self._edge, host),
            "udp": UdpPorts(self._edge, host),
        }
        self._control.edge, self._control.ports = self._edge, self._ports
        self._control.answer_dial = partial(answer_dial, self._edge)
        self._control.certificates, self._control.kept = self._certificates, self._kept
        self._keeper = certifying.make_keeper(
            config, self._certificates, self._edge.proofs, self._control.certificate_changed
        )
        self._control.keeper = self._keeper
        self._tokens.on_deleted.append(self._control.revoke)
        await self._restore_names(config)
        self._serve_application(config)
        await self._listen(config)
        await self._write_join(config)
        self._measure()
        self._tasks.start("edge watch", self._edge.watch())
        self._tasks.start("agents watch", self._control.watch())
        self._tasks.start("activity", self._control.tell_activity())
        self._tasks.start("certificates", self._certificates.watch())
        for name in names if config.acme.own_name else ():
            self._keeper.want(name)
        self._tasks.start("certificates by ACME", self._keeper.run())
        self._tasks.start("memory", _return_memory())

    async def _restore_names(self, config: Config) -> None:
        leftovers = await self._history.close_leftovers(config.lease_hold_s)
        kept = self._kept.list()
        now = asyncio.get_running_loop().time()
        labels = {token.id: token.label for token in await self._tokens.list()} if leftovers or kept else {}
        count = self._routes.restore_kept(kept, labels)
        held = self._routes.restore(now, [_Held.of(leftover) for leftover in leftovers], labels)
        self._keeper.resume(row.label for row in kept if row.protocol == "http")
        if held or count:
            log.info("names held from before the restart", names=held, kept=count)

    def _make_routes(self, config: Config, names: list[str]) -> Routes:
        return Routes(
            domain=config.domain,
            tcp_ports=config.tcp_ports,
            hold_s=config.lease_hold_s,
            random_hex=lambda digits: secrets.token_hex((digits + 1) // 2)[:digits],
            node_names=names,
            public_url=self._public_url,
            max_tunnels_per_session=config.limits.max_tunnels_per_session,
        )

    def _serve_application(self, config: Config) -> None:
        parts = Parts(
            config=config,
            tokens=self._tokens,
            history=self._history,
            captures=self._captures,
            connections=self._connections,
            events=self._events,
            routes=self._routes,
            metrics=self._metrics,
            resend=self._resend,
            close_tunnel=self._control.close_tunnel,
            certificates=self._keeper.statuses,
            ca_pem=self._certificates.ca_pem,
            node_id=self._node_id,
            version=__version__,
        )
        self._app = AppServer(create_app(parts))

    async def _listen(self, config: Config) -> None:
        host, port = config.listen_address
        try:
            self.addresses.append(await self._listener.start(host, port))
            if config.dashboard_port:
                self.addresses.append(await self._listener.start(host, config.dashboard_port))
        except MoongateError:
            await self._listener.aclose()
            raise

    async def _write_join(self, config: Config) -> None:
        """Keep the join string's token, but its address as it is now."""
        known = self._home.read("join")
        token = known.rpartition("#")[2].partition(".")[0] if known else ""
        if not token or not await self._is_valid(token):
            _, token = await self._tokens.create(JOIN_LABEL)
        host, port = self.addresses[0]
        if host in ("0.0.0.0", "::"):  # compared, not bound
            host = config.domain if config.domain != "localhost" else "127.0.0.1"
        self.join = make_join(host, port, token, self._certificates.fingerprint)
        if self.join != known:
            self._home.write("join", self.join)

    async def _is_valid(self, token: str) -> bool:
        try:
            await self._tokens.verify(token)
        except MoongateError:
            return False
        return True

    # -- how the parts meet

    def _visitor(self, peer: Peer) -> asyncio.Protocol:
        return HttpVisitor(self._edge, peer)

    def _application(self, peer: Peer) -> asyncio.Protocol:
        return self._app.protocol(peer)

    def _pass_through(self, server_name: str) -> RawFactory | None:
        tunnel = self._routes.by_server_name(server_name)
        if tunnel is None:
            return None
        found = tunnel
        return lambda peer, first: RawVisitor(self._edge, found, "TLS", peer, first)

    async def _resend(self, tunnel: Tunnel, *request: Any) -> Capture:
        return await resend(self._edge, tunnel, *request)

    def _public_url(self, kind: str, name: str, port: int | None) -> str:
        config = self.config
        if port is not None:
            return f"{kind}://{config.domain}:{port}"
        listening = self.addresses[0][1] if self.addresses else config.listen_address[1]
        if kind == "tls":
            return f"tls://{name}:{listening}"
        plain = config.listens_on_loopback and config.tls_cert is None
        scheme, own_port = ("http", 80) if plain else ("https", 443)
        return f"{scheme}://{name}" + ("" if listening == own_port else f":{listening}")

    def _stalled(self, seconds: float, stack: str) -> None:
        self._metrics.loop_stalls += 1
        log.warning("the event loop was stalled", seconds=round(seconds, 3), stack=stack)

    def _measure(self) -> None:
        routes, metrics = self._routes, self._metrics
        metrics.gauge("moongate_sessions", "Agents connected.", lambda: routes.session_count)
        for kind in KINDS:
            metrics.gauge(
                f"moongate_tunnels_{kind}",
                f"Open {kind} tunnels.",
                lambda kind=kind: sum(tunnel.kind == kind for tunnel in routes.tunnels()),  # type: ignore[misc]
            )
        certifying.measure(metrics, self._keeper)
        metrics.gauge("moongate_names_held", "Names kept for agents that are gone.", lambda: routes.held_count)
        metrics.gauge("moongate_visitors", "Visitors' connections.", lambda: len(self._edge.visitors))
        metrics.counter(
            "moongate_capture_bodies_dropped_total", "Bodies over the limit.", lambda: self._captures.dropped_bodies
        )
        metrics.counter(
            "moongate_captures_dropped_total", "Captures never stored.", lambda: self._captures.dropped_records
        )
        metrics.counter(
            "moongate_connection_records_dropped_total",
            "Records never stored.",
            lambda: self._connections.dropped_records,
        )
        metrics.counter(
            "moongate_history_entries_dropped_total",
            "Entries of tunnels never stored.",
            lambda: self._history.dropped_entries,
        )

    # -- running and stopping

    async def run_until_stopped(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain; a second signal ends at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        await self._stopping.wait()
        await self.aclose()

    def stop(self) -> None:
        """Ask for an orderly end; asked again, for a quick one."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    def reload(self) -> None:
        """Take changed settings without dropping a connection; a mistake in them changes nothing."""
        if self._reload is None:
            return
        try:
            new = self._reload()
        except MoongateError as error:
            log.error("settings not reloaded", reason=error.message)
            return
        changed = differences(self.config, new)
        fixed = changed & FIXED_SETTINGS
        if fixed:
            log.warning("these settings are taken at the next start", settings=sorted(fixed))
        self.config = new.model_copy(update={name: getattr(self.config, name) for name in fixed if "." not in name})
        self._edge.configure(self.config)
        self._routes.hold_s = new.lease_hold_s
        self._routes.max_tunnels_per_session = new.limits.max_tunnels_per_session
        if "tcp_ports" in changed:
            self._routes.set_ports(new.tcp_ports)
        self._certificates.reload()
        self._keeper.retry()
        log.info("settings reloaded", changed=sorted(changed - fixed))

    async def aclose(self) -> None:
        """Stop accepting, let what is under way finish for a bounded time, write everything, and close."""
        self._listener.stop_accepting()
        for ports in self._ports.values():
            ports.close_all()
        self._control.say_goodbye()
        draining = asyncio.create_task(self._drain(), name="drain")
        hurrying = asyncio.create_task(self._hurry.wait(), name="hurry")
        await asyncio.wait((draining, hurrying), return_when=asyncio.FIRST_COMPLETED)
        for task in (draining, hurrying):
            task.cancel()
        await asyncio.gather(draining, hurrying, return_exceptions=True)
        await self._edge.drain(0)
        await self._history.closed(*(tunnel.id for tunnel in self._routes.tunnels()))
        self._control.close_links()
        await self._listener.aclose()
        await self._tasks.aclose()
        await self._keeper.aclose()
        await self._close_storage()
        self._watchdog.stop()
        log.info("node stopped")

    async def _drain(self) -> None:
        await asyncio.gather(
            self._edge.drain(self.config.drain_s), self._app.drain(min(self.config.drain_s, APPLICATION_DRAIN_S))
        )

    async def _close_storage(self) -> None:
        for part in (self._captures, self._connections, self._history, self._kept, self._tokens):
            await part.aclose()
        await self._db.aclose()

    def ready_line(self) -> str:
        """The one line that a script can wait for."""
        return "ready " + " ".join(host_port(host, port) for host, port in self.addresses)
