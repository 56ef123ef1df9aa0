"""An agent that stays: its rules, its session with the node, its local ports, and what it answers its API.

What is decided is decided elsewhere (agent.rulebook, agent.session); here it is done, saved and told.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, Final, cast

import structlog

from moongate.agent import reports
from moongate.agent.envelopes import (
    VERSION,
    Envelope,
    done,
    failed,
    machine,
    no_port,
    nothing_done,
    ports,
    service,
    told,
)
from moongate.agent.feed import Feed
from moongate.agent.health import Health, is_listed
from moongate.agent.locals import LocalPorts
from moongate.agent.publishing import asked_port_route, kept_names_of, port_route, routes_of
from moongate.agent.routes import Route
from moongate.agent.rulebook import Change, Edit, Result, RuleBook
from moongate.agent.rules import PortRule, Rule, Site
from moongate.agent.service import Agent
from moongate.agent.session import Deed, Event, State, turn
from moongate.agent.sites import Sites
from moongate.agent.store import RuleStore
from moongate.errors import MoongateError, NotConnected, RulesUnsaved
from moongate.identity.passwords import hash_password, is_password_hash
from moongate.net.dialing import NodeAddress
from moongate.tasks import TaskSet

log = structlog.get_logger(__name__)

# How long a request waits for the node's word on what it has asked for.
ANSWER_S: Final = 10.0
GOODBYE_S: Final = 2.0
# How often files of certificates, and local ports that could not be opened, are looked at again.
TEND_S: Final = 30.0
FAULT_PAUSE_S: Final = 5.0
HEALTH_WATCH_S: Final = 10.0
NO_NODE: Final = "there is no node to connect to"
NO_LINK: Final = "tunnel is not connected"


class RulesAgent:
    """One agent with its rules; what the API asks of it is answered in envelopes."""

    def __init__(
        self,
        store: RuleStore,
        address: NodeAddress | None,
        *,
        token: str | None = None,
        max_attempts: int = 0,
        on_state: Callable[[State, str], None] = lambda _state, _detail: None,
    ) -> None:
        """Load the rules. `on_state` hears where the session is, and of what happened last.

        Raises:
            RulesUnsaved: If the rules cannot be read.
        """
        self._store = store
        self._book = store.load()
        self._sites = Sites(store.home)
        self._agent: Agent | None = None
        if address is not None:
            self._agent = Agent(
                address,
                [],
                on_event=self._on_event,
                token=token,
                sites=self._sites,
                standing=True,
                max_attempts=max_attempts,
            )
        self._server = str(address) if address is not None else ""
        self._local_ports = LocalPorts(self._dial_node)
        self._noted: dict[str, str] = {}  # what was last logged of each name
        self._health = Health()
        self._health_due = asyncio.Event()
        self._feed = Feed()
        self._tasks = TaskSet("rules")
        self._writing = asyncio.Lock()
        self._state = State.STOPPED
        self._on_state = on_state
        self._session: asyncio.Task[Any] | None = None
        self._linked = asyncio.Event()
        self._began = time.monotonic()
        self._links = self._links_tended = 0
        self._asked = 0
        self._last_error = ""

    # -- life

    async def open(self) -> None:
        """Publish the rules that were kept, and begin to connect."""
        for rule in self._book.rules():
            self._set_routes(rule)
        if self._agent is not None:
            self._agent.leases.owe(self._store.owed)
        await self._local_ports.open(self._book.portmaps)
        self._tasks.start("tend", self._tend())
        self._tasks.start("watch health", self._watch_health())
        if self._agent is not None:
            self._do(Event.START)

    async def aclose(self) -> None:
        """End the session and let go of everything; the node keeps what is allocated."""
        self._feed.close()
        async with self._writing:  # what was begun is finished
            await self._end_session()
        await self._tasks.aclose()
        self._local_ports.close_all()
        self._sites.executor.shutdown(wait=False, cancel_futures=True)
        self._store.close()

    @property
    def state(self) -> State:
        """Where the session is."""
        return self._state

    @property
    def is_connected(self) -> bool:
        """Whether there is a session with the node now."""
        return self._state is State.CONNECTED

    @property
    def is_alive(self) -> bool:
        """Whether somebody keeps the session, if one is to be kept."""
        if self._agent is None or self._state in (State.STOPPED, State.FAILED):
            return True
        return self._session is not None and not self._session.done()

    @property
    def book(self) -> RuleBook:
        """The rules as they are now."""
        return self._book

    # -- the session

    def info(self) -> Envelope:
        """Return the versions, and whether there is a session now."""
        return done(
            version=VERSION,
            runtimeVersion=VERSION,
            isUpdated=False,
            isTunConnected=self.is_connected,
            uptime=int(time.monotonic() - self._began),
            hostname=socket.gethostname(),
            server=self._server,
            desired="stopped" if self._state is State.STOPPED else "running",
            state=str(self._state),
            lastError=self._last_error,
            rulesKeptAside=str(self._store.kept_aside or ""),
            reconnects=max(0, self._links - 1),
        )

    async def start(self, wait_s: float = 0.0) -> Envelope:
        """Begin to keep a session; wait that long for it. `isTunConnected` tells of the time before."""
        before = self.is_connected
        if self._agent is None:
            return failed(NO_NODE, isTunConnected=False)
        if self._state in (State.STOPPED, State.FAILED):
            await self._local_ports.open(self._book.portmaps)
        self._do(Event.START)
        return done(isTunConnected=before, **await self._connected_within(wait_s))

    async def shutdown(self) -> Envelope:
        """End the session, and keep none until it is started again."""
        self._do(Event.SHUTDOWN)
        await self._end_session()
        self._local_ports.close_all()
        return done()

    async def restart(self, wait_s: float = 0.0) -> Envelope:
        """End the session and begin anew; wait that long for it."""
        if self._agent is None:
            return failed(NO_NODE)
        if self._state in (State.STOPPED, State.FAILED):
            await self._local_ports.open(self._book.portmaps)
        self._do(Event.RESTART)
        return done(**await self._connected_within(wait_s))

    async def _connected_within(self, wait_s: float) -> Envelope:
        if not wait_s:
            return {}
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._linked.wait()
        return {"connected": self.is_connected}

    def _do(self, event: Event) -> None:
        before, (self._state, deed) = self._state, turn(self._state, event)
        agent = self._agent
        if agent is None:
            return
        match deed:
            case Deed.BEGIN:
                previous, self._session = self._session, None
                self._session = self._tasks.start("session", self._run(agent, previous))
            case Deed.HURRY:
                agent.hurry()
            case Deed.RENEW:
                agent.reconnect()
            case Deed.END:
                agent.stop()
            case Deed.NOTHING:
                pass
        if self._state is not before:
            self._state_changed(before)

    def _state_changed(self, before: State) -> None:
        if self._state is State.CONNECTED:
            self._linked.set()
            self._feed.publish("tunnel_up", {"server": self._server})
        else:
            self._linked.clear()
        if before is State.CONNECTED:
            self._feed.publish("tunnel_down", {"server": self._server, "state": str(self._state)})
        log.info("session", state=str(self._state), reason=self._last_error)
        self._on_state(self._state, self._last_error)

    async def _run(self, agent: Agent, previous: asyncio.Task[Any] | None) -> None:
        if previous is not None:
            await asyncio.wait({previous})
        while not await self._ran(agent):
            pass
        # Unless somebody stopped it, every attempt that there may be was made.
        if asyncio.current_task() is self._session:
            self._do(Event.SPENT)

    async def _ran(self, agent: Agent) -> bool:
        """Whether the session has come to an end of its own; a fault of ours is none, on a machine nobody looks at."""
        try:
            await agent.run()
        except Exception as fault:
            log.exception("the session failed; it is begun again")
            self._last_error = f"internal: {fault}"
            self._do(Event.LOST)
            await asyncio.sleep(FAULT_PAUSE_S)
            return False
        return True

    async def _end_session(self) -> None:
        session, self._session = self._session, None
        if session is None or self._agent is None or session.done():
            return
        self._agent.stop()
        await asyncio.wait({session}, timeout=GOODBYE_S)
        session.cancel()
        with suppress(asyncio.CancelledError):
            await session

    def _on_event(self, event: reports.AgentEvent) -> None:
        match event:
            case reports.Connected():
                self._links += 1
                self._last_error = ""
                self._do(Event.LINKED)
            case reports.Reconnecting(reason=reason):
                self._last_error = reason
                self._do(Event.LOST)
            case reports.Refused(route=route, message=message):
                self._last_error = f"{route.wanted}: {message}" if route is not None else message
                self._note("refused by the node", route, message)
            case reports.SupersededBy(route=route, message=message) | reports.ClosedBy(route=route, message=message):
                self._last_error = f"{route.wanted}: {message}"
                self._note("taken by the node", route, message)
            case reports.TunnelReady(route=route):
                self._noted.pop(str(route.wanted), None)
            case reports.UpstreamFailed(route=route, message=message):
                log.debug("upstream failed", name=route.wanted, reason=message)
            case reports.CertificateTold(route=route, status=status):
                log.info("certificate", name=route.wanted, state=status.state, reason=status.message)
                self._health_due.set()
            case _:
                pass

    def _note(self, what: str, route: Route | None, message: str) -> None:
        """Log what the node says of a route; a refusal that is repeated every minute is one line."""
        name = str(route.wanted) if route is not None else ""
        if self._noted.get(name) != message:
            self._noted[name] = message
            log.warning(what, name=name, reason=message)

    # -- the rules

    def config(self, secrets: bool = False) -> Envelope:
        """Return the rules in the order of their creation; hashes are masked unless `secrets`."""
        return done(version=VERSION, **machine(), **self._book.members(secrets=secrets))

    def ports(self) -> list[dict[str, Any]]:
        """Return the allocated ports, in ascending order."""
        return ports(self._book)

    async def create(self, body: dict[str, Any]) -> Envelope:
        """Add rules."""
        return await self._change(lambda: self._book.create(body))

    async def update(self, body: dict[str, Any]) -> Envelope:
        """Replace rules, each whole."""
        return await self._change(lambda: self._book.update(body))

    async def patch(self, body: dict[str, Any]) -> Envelope:
        """Change the members that are given."""
        return await self._change(lambda: self._book.patch(body))

    async def delete(self, body: dict[str, Any]) -> Envelope:
        """Remove rules; a port stays allocated."""
        return await self._change(lambda: self._book.delete(body))

    async def _change(self, decide: Callable[[], Edit]) -> Envelope:
        return await self._unbroken(self._changed(decide))

    async def _unbroken(self, work: Coroutine[Any, Any, Envelope]) -> Envelope:
        """A change that was begun is finished, also if whoever asked for it has left meanwhile."""
        return await asyncio.shield(self._tasks.start("change", work))

    async def _changed(self, decide: Callable[[], Edit]) -> Envelope:
        async with self._writing:
            edit = decide()
            if not edit.is_valid:
                return told(edit.results)
            edit = await self._hashed(edit)
            # An agent that is stopped listens on nothing; what is taken by others then shows at the start.
            listens = self._state is not State.STOPPED or self._agent is None
            taken = await self._local_ports.change(edit.changes) if listens else None
            if taken is not None:
                return nothing_done(edit.results, taken[1], ("portmaps", taken[0]))
            try:
                self._save(edit.book)
            except RulesUnsaved as error:
                if listens:
                    await self._local_ports.undo(edit.changes)
                return nothing_done(edit.results, error)
            self._book = edit.book
            refused = await self._publish(edit.changes)
            self._undo(edit.changes, refused)
            for change in edit.changes:
                if (change.kind, change.key) not in refused:
                    self._feed.publish("rule_changed", {"kind": change.kind, "key": change.key})
            return told(Result(one.kind, one.key, refused.get((one.kind, one.key), one.error)) for one in edit.results)

    def _save(self, book: RuleBook) -> None:
        """Write the rules, and what is given up with them: the node may be away, and we may end before it is back."""
        now, before = kept_names_of(book.rules()), self._store.owed
        self._store.owed = (before | kept_names_of(self._book.rules())) - now
        try:
            self._store.save(book)
        except RulesUnsaved:
            self._store.owed = before
            raise

    async def _forget_owed(self) -> None:
        """What was given up on a link that has lasted since is known to the node."""
        links, self._links_tended = self._links_tended, self._links
        if self._agent is None or not self.is_connected or links != self._links:
            return
        async with self._writing:
            if self._store.owed != self._agent.leases.owed:
                self._store.owed = self._agent.leases.owed
                with suppress(RulesUnsaved):  # it is said when a rule is changed
                    self._store.save(self._book)

    async def _hashed(self, edit: Edit) -> Edit:
        """Passwords are kept as hashes only. Making one takes a moment on purpose, so it is done in a thread."""
        changes = []
        for change in edit.changes:
            rule = change.after
            if isinstance(rule, Site):
                changes.append(Change(change.kind, change.key, change.before, await _with_hashes(rule)))
            else:
                changes.append(change)
        return Edit(edit.results, tuple(changes), self._book.applied(changes))

    async def _publish(self, changes: Iterable[Change]) -> dict[tuple[str, str], str]:
        """Tell the node; returns what it refused, and why."""
        answers: dict[asyncio.Future[Any], Change] = {}
        for change in changes:
            for answer in self._apply(change):
                answers[answer] = change
        agent = self._agent
        if not answers or agent is None or not agent.is_connected:
            return {}  # what is not known to the node yet is claimed when there is a link
        done, _ = await asyncio.wait(answers, timeout=ANSWER_S)
        refused: dict[tuple[str, str], str] = {}
        for answer in done:
            error = answer.exception()
            if isinstance(error, MoongateError):
                change = answers[answer]
                refused[change.kind, change.key] = error.message
        return refused

    def _undo(self, changes: Iterable[Change], refused: dict[tuple[str, str], str]) -> None:
        """Take back what the node has refused; the rest of the request stays."""
        undone = [change.undone() for change in changes if (change.kind, change.key) in refused]
        if not undone:
            return
        for change in undone:
            self._apply(change)
        self._book = self._book.applied(undone)
        try:
            self._save(self._book)
        except RulesUnsaved as error:
            # The file says more than is true; at the next start the node refuses it again, and says so.
            self._last_error = error.message
            log.error("rules not saved", reason=error.message)

    def _apply(self, change: Change) -> list["asyncio.Future[Any]"]:
        """Make the routes of one rule those of another; the futures end with the node's answers."""
        agent = self._agent
        if agent is None:
            return []
        before = routes_of(change.before) if change.before is not None else {}
        after = routes_of(change.after) if change.after is not None else {}
        for key in before.keys() - after.keys():
            agent.leases.drop_route(key)
        return [agent.leases.set_route(key, route) for key, route in after.items() if before.get(key) != route]

    def _set_routes(self, rule: Rule) -> None:
        if self._agent is not None:
            for key, route in routes_of(rule).items():
                self._agent.leases.set_route(key, route)

    def _dial_node(self, port: int, transport: str, protocol: asyncio.BaseProtocol) -> Any:
        if self._agent is None:
            raise NotConnected("there is no node to connect to")
        return self._agent.dial(port, transport, protocol)

    # -- ports of the node

    async def allocate(self, port: int | None = None, transport: str = "tcp") -> Envelope:
        """Take a port of the node, this one if one is named."""
        return await self._unbroken(self._allocated(port, transport))

    async def _allocated(self, port: int | None, transport: str) -> Envelope:
        async with self._writing:
            agent = self._agent
            known = self._book.port(port, transport) if port is not None else None
            if known is not None:
                return done(port=known.port, message="port was allocated before")
            if agent is None or not agent.is_connected:
                return no_port(NotConnected(NO_LINK))
            self._asked += 1
            key = f"asked:{self._asked}"
            try:
                async with asyncio.timeout(ANSWER_S):
                    ready = await agent.leases.set_route(key, asked_port_route(port, transport))
                if ready is None or ready.port is None:
                    raise TimeoutError
                edit = self._book.allocated(ready.port, transport)
                self._store.save(edit.book)
            except (TimeoutError, MoongateError) as error:
                agent.leases.drop_route(key)
                return no_port(error)
            self._book = edit.book
            rule = cast(PortRule, edit.changes[0].after)
            agent.leases.rename_route(key, f"ports:{rule.key}")
            # Only now, with the port written down, is the node to keep it for good.
            await asyncio.wait({agent.leases.set_route(f"ports:{rule.key}", port_route(rule))}, timeout=ANSWER_S)
            self._feed.publish("rule_changed", {"kind": "ports", "key": rule.key})
            return done(port=ready.port, message="new port allocated")

    async def release(self, port: int, transport: str | None = None) -> Envelope:
        """Give a port back to the node; without a transport the one it is allocated for."""
        return await self._unbroken(self._released(port, transport))

    async def _released(self, port: int, transport: str | None) -> Envelope:
        async with self._writing:
            edit = self._book.released(port, transport)
            if not edit.is_valid:
                return failed(edit.results[0].error)
            agent = self._agent
            if agent is None or not agent.is_connected:
                return failed(NO_LINK)
            rule = cast(PortRule, edit.changes[0].before)
            key = f"ports:{rule.key}"
            links = self._links
            await asyncio.wait({agent.leases.drop_route(key)}, timeout=ANSWER_S)
            try:
                if not agent.is_connected or self._links != links:
                    raise RulesUnsaved("the link to the node was lost; the port may still be allocated")
                self._store.save(edit.book)
            except RulesUnsaved as error:
                # It stays ours: it is claimed again at once, or when the link is back.
                agent.leases.set_route(key, port_route(rule))
                return failed(error.message)
            self._book = edit.book
            self._feed.publish("rule_changed", {"kind": "ports", "key": rule.key})
            return done()

    # -- health and events

    async def health(self) -> Envelope:
        """Return whether each upstream can be reached."""
        rules = [rule for rule in self._book.rules() if isinstance(rule, Site | PortRule) and is_listed(rule)]
        answers = await self._health.check(rules)
        return done(services=[service(rule, answers, self._tunnels_of(rule)) for rule in rules])

    def _tunnels_of(self, rule: Rule) -> list[reports.TunnelSnapshot]:
        if self._agent is None:
            return []
        return [shown for key in routes_of(rule) if (shown := self._agent.leases.state_of(key)) is not None]

    def events(self) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Tell what happens from now on."""
        return self._feed.subscribe()

    # -- what is looked after

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(TEND_S)
            await self._forget_owed()
            if not self._local_ports.is_complete and self._state is not State.STOPPED:
                async with self._writing:
                    await self._local_ports.open(self._book.portmaps, again=True)
            if self._agent is not None and any(site.ca for site in self._book.https.values()):
                self._agent.leases.send_changed_certificates()

    async def _watch_health(self) -> None:
        """While somebody listens, tell what has become reachable or has ceased to be, and how certificates go."""
        before: dict[str, Any] = {}
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(HEALTH_WATCH_S):
                    await self._health_due.wait()
            self._health_due.clear()
            if not self._feed.has_listeners:
                before = {}
                continue
            services = {one["flow"]: one for one in (await self.health())["services"]}
            now = {flow: (one["available"], one.get("certificate")) for flow, one in services.items()}
            for flow, seen in now.items():
                if before.get(flow, seen) != seen:
                    self._feed.publish("health_changed", services[flow])
            before = now


async def _with_hashes(site: Site) -> Site:
    changed: dict[str, str] = {}
    for name in ("password", "basic_http_auth"):
        text = getattr(site, name)
        if text and not is_password_hash(text):
            changed[name] = await asyncio.to_thread(hash_password, text)
    return site.model_copy(update=changed) if changed else site
