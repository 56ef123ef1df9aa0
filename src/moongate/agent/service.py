"""The agent: keeps its link to the node up for ever, claims its names, and answers each visitor.

What a channel's bytes do is agent.upstreams' business; what is shown to people is the caller's.
"""

import asyncio
import random
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from enum import IntEnum
from typing import Any, Final

import structlog

from moongate import __version__
from moongate.agent.backoff import delay_s
from moongate.agent.dialing import NodeDialer, Welcoming, refusal
from moongate.agent.reports import (
    REQUESTS_KEPT,
    AgentEvent,
    AgentSnapshot,
    ClosedBy,
    Connected,
    Lamp,
    Reconnecting,
    Refused,
    RequestSeen,
    SupersededBy,
    TunnelReady,
    TunnelSnapshot,
    UpstreamFailed,
)
from moongate.agent.routes import Route
from moongate.agent.upstreams import SiteMaker, UpstreamDialer
from moongate.errors import (
    MoongateError,
    ProtocolError,
    ReachError,
    Superseded,
    TokenInvalid,
    UpstreamTimeout,
    VersionUnsupported,
    WrongAuthority,
)
from moongate.net.dialing import NodeAddress
from moongate.relay.channels import Channel, Mux
from moongate.relay.turns import Mice
from moongate.tasks import TaskSet
from moongate.wire import tunnel as wire
from moongate.wire.tunnel import Message

log = structlog.get_logger(__name__)

HELLO_TIMEOUT_S: Final = 10.0
WATCH_S: Final = 1.0
PING_S: Final = 2.0
UPSTREAM_PROBE_S: Final = 5.0
PROOF_LASTS_S: Final = 12.0
RECLAIM_S: Final = 5.0
NETWORK_LOOK_S: Final = 1.0

# Nothing that waiting could change.
_FATAL: Final = (TokenInvalid, VersionUnsupported, WrongAuthority)


class ExitReason(IntEnum):
    """Why an agent ended; the number is the program's exit code."""

    DONE = 0
    FAILED = 1
    REFUSED = 3
    SUPERSEDED = 4
    UNREACHABLE = 5


class _Published:
    """One route and the lease it has, or is to have."""

    __slots__ = ("claimed_before", "dialer", "generation", "number", "requests", "route", "snapshot", "state", "wanted")

    def __init__(self, route: Route, sites: SiteMaker | None) -> None:
        self.route = route
        self.dialer = UpstreamDialer(route, sites)
        self.wanted = route.wanted
        self.generation: int | None = None
        self.number: int | None = None
        self.claimed_before = False
        self.state = "waiting"
        self.requests = 0
        self.snapshot = TunnelSnapshot(route, "waiting")

    @property
    def is_wanted(self) -> bool:
        return self.state in ("waiting", "ready")


class Agent:
    """One agent process's business with one node."""

    def __init__(
        self,
        address: NodeAddress,
        routes: list[Route],
        *,
        on_event: Callable[[AgentEvent], None],
        token: str | None = None,
        sites: SiteMaker | None = None,
        once: bool = False,
    ) -> None:
        """`token` wins over the address's own; `once` gives up when the node cannot be reached."""
        self._dialer = NodeDialer(address)
        self._token = token or address.token or ""
        self._published = [_Published(route, sites) for route in routes]
        self._by_number: dict[int, _Published] = {}
        self._on_event = on_event
        self._once = once
        self._instance = str(uuid.uuid4())
        self._tasks = TaskSet("agent")
        self._mice = Mice()
        self._mux: Mux | None = None
        self._lost: asyncio.Event = asyncio.Event()
        self._lost_reason = ""
        self._stopping = asyncio.Event()
        self._state = "connecting"
        self._node = str(address)
        self._watching = False
        self._lamps_watched = False
        self._connected_before = False
        self._exit: ExitReason | None = None
        self._requests: deque[RequestSeen] = deque(maxlen=REQUESTS_KEPT)

    # -- running

    async def run(self) -> ExitReason:
        """Publish until stopped, refused or superseded; comes back from every loss of the node."""
        attempt, lost_at = 0, time.monotonic()
        try:
            while self._exit is None and not self._stopping.is_set():
                try:
                    await self._connect()
                except _FATAL as error:
                    self._give_up(error)
                    break
                except ReachError as error:
                    reason = error.message
                else:
                    attempt, reason = 0, await self._serve()
                    lost_at = time.monotonic()
                if self._exit is not None or self._stopping.is_set():
                    break
                if self._once and not self._connected_before:
                    self._say(Refused("reach.failed", reason, "", None, fatal=True))
                    self._exit = ExitReason.UNREACHABLE
                    break
                attempt += 1
                if await self._wait(attempt, reason, time.monotonic() - lost_at):
                    attempt, lost_at = 0, time.monotonic()
        finally:
            self._state = "stopped"
            await self._tasks.aclose()
        return self._exit if self._exit is not None else ExitReason.DONE

    def stop(self) -> None:
        """Give the names back and end."""
        self._stopping.set()
        self._lost.set()

    def set_watching(self, on: bool, *, lamps: bool = False) -> None:
        """Somebody wants to hear of requests; with `lamps`, somebody looks at the snapshot: keep its proofs fresh."""
        self._watching = on
        self._lamps_watched = on and lamps
        if self._mux is not None:
            self._mux.send_control({"type": "watch", "on": on})

    def _give_up(self, error: MoongateError) -> None:
        self._say(Refused(error.code, error.message, error.hint, None, fatal=True))
        self._exit = ExitReason.REFUSED

    async def _wait(self, attempt: int, reason: str, lost_for_s: float) -> bool:
        """Wait before the next attempt; True if the network changed meanwhile, so that it is a first one again."""
        delay = delay_s(attempt, lost_for_s, random.random)  # jitter, not a secret
        self._state = "reconnecting"
        self._say(Reconnecting(attempt, reason, delay))
        before, deadline = self._own_address(), time.monotonic() + delay
        while (left := deadline - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(min(left, NETWORK_LOOK_S)):
                    await self._stopping.wait()
                return False
            except TimeoutError:
                pass
            if self._own_address() != before:
                return True
        return False

    def _own_address(self) -> str | None:
        """The address that the system would use towards the node; it changes with the network. Sends nothing."""
        address = self._dialer.address
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.setblocking(False)
                # A name would have to be resolved; any outside address tells as much about the way out.
                probe.connect((address.host if _is_literal(address.host) else "192.0.2.1", 9))
                return str(probe.getsockname()[0])
        except OSError:
            return None

    # -- one link

    async def _connect(self) -> None:
        receiver = Welcoming()
        link = await self._dialer.dial(receiver)
        hello = {"protocol": wire.PROTOCOL_VERSION, "release": __version__, "instance": self._instance}
        link.send(wire.serialize_control({"type": "hello", **hello, "token": self._token}))
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                welcome = await receiver.welcome
        except TimeoutError:
            link.fail("no welcome in time")
            raise UpstreamTimeout(f"{self._node} did not answer hello in time") from None
        except BaseException:
            link.fail("refused")
            raise
        self._lost = asyncio.Event()
        if self._stopping.is_set():
            self._lost.set()
        self._mux = Mux(link, self, is_node=False, mice=self._mice)
        link.receiver = self._mux
        self._state = "online"
        self._say(Connected(str(welcome.get("node", "")), str(welcome.get("release", "")), self._connected_before))
        self._connected_before = True
        if link.is_closed:
            self.mux_lost("the node closed the link")
        if self._watching:
            self._mux.send_control({"type": "watch", "on": True})
        for index, published in enumerate(self._published):
            if published.is_wanted:
                self._claim(index, published)

    async def _serve(self) -> str:
        """Until the link is lost, or we stop; returns why."""
        watch = self._tasks.start("watch link", self._watch_link())
        await self._lost.wait()
        watch.cancel()
        mux, self._mux = self._mux, None
        if mux is not None and not mux.link.is_closed:
            self._give_back(mux)
            mux.close()
            await asyncio.sleep(0)
        self._by_number.clear()
        return self._lost_reason

    def _give_back(self, mux: Mux) -> None:
        for published in self._published:
            if published.number is not None and published.state == "ready":
                mux.send_control({"type": "release", "tunnel": published.number, "generation": published.generation})

    async def _watch_link(self) -> None:
        loop = asyncio.get_running_loop()
        pinged = probed = 0.0
        while True:
            mux, now = self._mux, loop.time()
            if mux is None:
                return
            if mux.is_silent(now):
                mux.link.fail("nothing was heard for 15 s")
            if self._lamps_watched and now - pinged >= PING_S:
                pinged = now
                mux.ping()
            if self._lamps_watched and now - probed >= UPSTREAM_PROBE_S:
                probed = now
                for published in self._published:
                    if published.dialer.wants_proof(UPSTREAM_PROBE_S):
                        self._tasks.start("probe upstream", published.dialer.probe())
            await asyncio.sleep(WATCH_S)

    def _claim(self, index: int, published: _Published) -> None:
        if self._mux is None or not published.is_wanted:
            return
        route = published.route
        published.number = None
        self._mux.send_control(
            {
                "type": "claim",
                "request": index,
                "kind": route.kind,
                "wanted": published.wanted,
                "generation": published.generation,
                "upstream": str(route.upstream),
                "options": {"proxy_protocol": route.proxy_protocol, **route.options},
            }
        )

    # -- what the node says

    def control(self, message: Message) -> None:
        match message["type"]:
            case "claimed":
                self._claimed(message)
            case "refused":
                self._refused(message)
            case "superseded":
                self._taken(message, superseded=True)
            case "closed":
                self._taken(message, superseded=False)
            case "lane":
                self._tasks.start("dial lane", self._dial_lane(message))
            case "activity":
                self._activity(message)
            case "goodbye":
                self._lost_reason = str(message.get("message", ""))

    def _claimed(self, message: Message) -> None:
        published = self._asked(message)
        number, generation = message.get("tunnel"), message.get("generation")
        if published is None or not isinstance(number, int) or not isinstance(generation, int):
            raise ProtocolError("the node answered a claim that was not made")
        port = message.get("port")
        published.number, published.generation = number, generation
        published.wanted = str(port) if port else str(message.get("name", ""))
        published.state = "ready"
        self._by_number[number] = published
        ready = TunnelReady(
            published.route,
            str(message.get("id", "")),
            str(message.get("name", "")),
            port if isinstance(port, int) else None,
            str(message.get("public_url", "")),
            published.claimed_before,
        )
        published.snapshot = replace(
            published.snapshot, public_url=ready.public_url, tunnel_id=ready.tunnel_id, note=""
        )
        published.claimed_before = True
        self._say(ready)

    def _asked(self, message: Message) -> _Published | None:
        index = message.get("request")
        if isinstance(index, int) and 0 <= index < len(self._published):
            return self._published[index]
        return None

    def _refused(self, message: Message) -> None:
        error = refusal(message)
        published = self._asked(message)
        if published is None:
            self._exit = ExitReason.REFUSED if isinstance(error, _FATAL) else None
            self._say(Refused(str(message.get("code")), error.message, error.hint, None, fatal=self._exit is not None))
            self._end_link(error.message)
            return
        code = str(message.get("code"))
        if code == Superseded.code:
            self._lose(published, "superseded", error.message)
            self._say(SupersededBy(published.route, error.message))
        elif published.claimed_before:
            # It was ours before we were cut off, and may be again.
            self._say(Refused(code, error.message, error.hint, published.route, fatal=False))
            published.snapshot.note = error.message
            loop, index = asyncio.get_running_loop(), self._published.index(published)
            loop.call_later(RECLAIM_S, self._claim, index, published)
        else:
            self._lose(published, "refused", error.message)
            fatal = not any(other.is_wanted for other in self._published)
            self._say(Refused(code, error.message, error.hint, published.route, fatal=fatal))
        self._end_if_nothing_is_left()

    def _taken(self, message: Message, *, superseded: bool) -> None:
        number = message.get("tunnel")
        published = self._by_number.pop(number, None) if isinstance(number, int) else None
        if published is None or message.get("generation") != published.generation:
            return  # about a lease that we no longer have
        text = str(message.get("message", ""))
        self._lose(published, "superseded" if superseded else "closed", text)
        self._say(SupersededBy(published.route, text) if superseded else ClosedBy(published.route, text))
        self._end_if_nothing_is_left()

    def _lose(self, published: _Published, state: str, note: str) -> None:
        published.state = state
        published.number = None
        published.snapshot = replace(published.snapshot, note=note)

    def _end_if_nothing_is_left(self) -> None:
        if any(published.is_wanted for published in self._published):
            return
        states = {published.state for published in self._published}
        self._exit = ExitReason.SUPERSEDED if states == {"superseded"} else ExitReason.REFUSED
        self._end_link("nothing is published any more")

    def _end_link(self, reason: str) -> None:
        self._lost_reason = reason
        self._lost.set()

    def _activity(self, message: Message) -> None:
        tunnels, requests = message.get("tunnels"), message.get("requests")
        if not isinstance(tunnels, dict) or not isinstance(requests, list):
            return
        for number, counts in tunnels.items():
            published = self._by_number.get(int(number)) if str(number).isdecimal() else None
            if published is not None and isinstance(counts, list) and len(counts) == 3:
                published.requests = int(counts[0])
        for entry in requests:
            self._saw(entry)

    def _saw(self, entry: Any) -> None:
        if not isinstance(entry, list) or len(entry) != 5:
            return
        number, method, path, status, duration_ms = entry
        published = self._by_number.get(number)
        if published is None:
            return
        seen = RequestSeen(published.route, str(method), str(path), int(status), float(duration_ms) / 1000)
        self._requests.append(seen)
        self._say(seen)

    # -- visitors

    def opened(self, channel: Channel, number: int, connection_id: bytes, visitor: str) -> None:
        published = self._by_number.get(number)
        if published is None:
            channel.reset(wire.NO_TUNNEL, "the agent does not publish this tunnel")
            return
        published.dialer.answer(channel, lambda reason: self._say(UpstreamFailed(published.route, reason)))

    def request_lane(self, number: int) -> None:
        """Only a node does this."""

    async def _dial_lane(self, message: Message) -> None:
        number, key, mux = message.get("lane"), message.get("key"), self._mux
        if mux is None or not isinstance(number, int) or not isinstance(key, str):
            return
        try:
            link = await self._dialer.dial(Welcoming())
        except MoongateError as error:
            # The channel stays on the shared link, on credit.
            log.info("lane not made", reason=error.message)
            return
        if mux is not self._mux:
            link.close()
            return
        mux.add_lane(number, link)
        link.send(
            wire.serialize_control({"type": "hello", "protocol": wire.PROTOCOL_VERSION, "lane": number, "key": key})
        )

    def mux_lost(self, reason: str) -> None:
        self._lost_reason = self._lost_reason or reason
        self._mux = None
        self._lost.set()

    # -- what is shown

    def snapshot(self) -> AgentSnapshot:
        """Return the agent as it is now."""
        now = time.monotonic()
        return AgentSnapshot(
            self._state,
            self._node,
            self._link_lamp(now),
            self._agent_lamp(now),
            self._upstream_lamp(),
            [_snapshot(published) for published in self._published],
            self._requests,
        )

    def _link_lamp(self, now: float) -> Lamp:
        mux = self._mux
        if mux is None or mux.proven_at is None:
            return Lamp("link", ok=False)
        return Lamp("link", now - mux.proven_at < PROOF_LASTS_S, mux.proven_at, mux.round_trip_s)

    def _agent_lamp(self, now: float) -> Lamp:
        # The node's own probe: the time of its last word, and the round trip that it measured.
        mux = self._mux
        if mux is None or mux.peer_round_trip_s is None or mux.probed_at is None:
            return Lamp("agent", ok=False)
        return Lamp("agent", now - mux.probed_at < PROOF_LASTS_S, mux.probed_at, mux.peer_round_trip_s)

    def _upstream_lamp(self) -> Lamp:
        dialers = [published.dialer for published in self._published]
        failed = next((dialer for dialer in dialers if dialer.failure), None)
        proven = [dialer for dialer in dialers if dialer.proven_at is not None]
        oldest = min(proven, key=lambda dialer: dialer.proven_at or 0.0, default=None)
        if failed is not None:
            return Lamp("upstream", False, failed.proven_at, failed.round_trip_s, failed.failure)
        if oldest is None:
            return Lamp("upstream", ok=False)
        return Lamp("upstream", len(proven) == len(dialers), oldest.proven_at, oldest.round_trip_s)

    def _say(self, event: AgentEvent) -> None:
        self._on_event(event)


def _snapshot(published: _Published) -> TunnelSnapshot:
    dialer = published.dialer
    return replace(
        published.snapshot,
        state=published.state,
        connections=dialer.open,
        requests=published.requests,
        bytes_in=dialer.bytes_in,
        bytes_out=dialer.bytes_out,
    )


def _is_literal(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except OSError:
        return False
    return True
