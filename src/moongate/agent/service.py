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
from enum import IntEnum
from typing import Any, Final

import structlog

from moongate import __version__
from moongate.agent.backoff import delay_s
from moongate.agent.dialing import NodeDialer, Welcoming, refusal
from moongate.agent.leases import Leases, snapshot_of
from moongate.agent.reports import (
    REQUESTS_KEPT,
    AgentEvent,
    AgentSnapshot,
    Connected,
    Lamp,
    Reconnecting,
    Refused,
    RequestSeen,
    UpstreamFailed,
)
from moongate.agent.routes import NOTHING, Route
from moongate.agent.sites import Sites
from moongate.agent.upstreams import UpstreamDialer
from moongate.errors import (
    MoongateError,
    NotConnected,
    ReachError,
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
# A standing agent asks again for what it was refused, ever more seldom.
RECLAIM_MOST_S: Final = 60.0
# What waiting hardly changes is tried again all the same by an agent that nobody looks at.
HOPELESS_DELAY_S: Final = 60.0
CERTIFICATE_MAX_BYTES: Final = 48 * 1024
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


class Agent:
    """One agent process's business with one node."""

    def __init__(
        self,
        address: NodeAddress,
        routes: list[Route],
        *,
        on_event: Callable[[AgentEvent], None],
        token: str | None = None,
        sites: Sites | None = None,
        once: bool = False,
        standing: bool = False,
        max_attempts: int = 0,
    ) -> None:
        """`token` wins over the address's own; `once` gives up when the node cannot be reached.

        A `standing` agent goes on when nothing is published or much is refused, keeps its names when it stops, and
        can be run again. `max_attempts` in a row without a link are the end; 0 is no limit.
        """
        self._dialer = NodeDialer(address)
        self._token = token or address.token or ""
        self.leases = Leases(routes, sites, standing=standing, say=self._say, on_nothing_left=self._end)
        self._standing = standing
        self._max_attempts = max_attempts
        self._on_event = on_event
        self._once = once
        self._instance = str(uuid.uuid4())
        self._tasks = TaskSet("agent")
        self._mice = Mice()
        self._mux: Mux | None = None
        self._lost: asyncio.Event = asyncio.Event()
        self._lost_reason = ""
        self._stopping = asyncio.Event()
        self._nudge = asyncio.Event()
        self._at_once = False
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
        self._exit = None
        self._tasks = TaskSet("agent")
        try:
            await self._keep_linked()
        finally:
            self._state = "stopped"
            if self._mux is not None:  # we were cancelled, or failed
                self._mux.close()
                self._mux = None
                self.leases.unlinked()
            self._stopping.clear()
            self._nudge.clear()
            await self._tasks.aclose()
        return self._exit if self._exit is not None else ExitReason.DONE

    async def _keep_linked(self) -> None:
        attempt, lost_at = 0, time.monotonic()
        while not self._is_over():
            self._state = "reconnecting" if self._connected_before else "connecting"
            hopeless = False
            try:
                await self._connect()
            except _FATAL as error:
                if not self._standing:
                    self._give_up(error)
                    return
                reason, hopeless = error.message, True
            except ReachError as error:
                reason = error.message
            else:
                attempt, reason = 0, await self._serve()
                lost_at = time.monotonic()
            if self._is_over():
                return
            if self._at_once:
                attempt, self._at_once = 0, False
                continue
            attempt += 1
            if self._has_tried_enough(attempt, reason):
                return
            if await self._wait(attempt, reason, time.monotonic() - lost_at, hopeless=hopeless):
                attempt, lost_at = 0, time.monotonic()

    def _is_over(self) -> bool:
        return self._exit is not None or self._stopping.is_set()

    def _has_tried_enough(self, attempt: int, reason: str) -> bool:
        gives_up = self._once and not self._connected_before
        if not gives_up and not (self._max_attempts and attempt > self._max_attempts):
            return False
        self._say(Refused("reach.failed", reason, "", None, fatal=True))
        self._exit = ExitReason.UNREACHABLE
        return True

    def stop(self) -> None:
        """Give the names back and end; a standing agent keeps them."""
        self._stopping.set()
        self._nudge.set()
        self._lost.set()

    def hurry(self) -> None:
        """Try again now, as if for the first time."""
        self._nudge.set()

    def reconnect(self) -> None:
        """End the link, and make a new one at once; what was taken from us is asked for again."""
        self.leases.forgive()
        self._nudge.set()
        if self._mux is not None:
            self._at_once = True
            self._end_link("asked to connect again")

    @property
    def state(self) -> str:
        """`connecting`, `online`, `reconnecting` or `stopped`."""
        return self._state

    @property
    def is_connected(self) -> bool:
        """Whether there is a link now."""
        return self._mux is not None

    def set_watching(self, on: bool, *, lamps: bool = False) -> None:
        """Somebody wants to hear of requests; with `lamps`, somebody looks at the snapshot: keep its proofs fresh."""
        self._watching = on
        self._lamps_watched = on and lamps
        if self._mux is not None:
            self._mux.send_control({"type": "watch", "on": on})

    def _give_up(self, error: MoongateError) -> None:
        self._say(Refused(error.code, error.message, error.hint, None, fatal=True))
        self._exit = ExitReason.REFUSED

    async def _wait(self, attempt: int, reason: str, lost_for_s: float, *, hopeless: bool = False) -> bool:
        """Wait before the next attempt; True if it is a first one again: the network changed, or somebody asked."""
        delay = HOPELESS_DELAY_S if hopeless else delay_s(attempt, lost_for_s, random.random)  # jitter, not a secret
        self._state = "reconnecting"
        self._say(Reconnecting(attempt, reason, delay))
        before, deadline = self._own_address(), time.monotonic() + delay
        while (left := deadline - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(min(left, NETWORK_LOOK_S)):
                    await self._nudge.wait()
                self._nudge.clear()
                return True
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
        self._lost_reason = ""
        self._mux = Mux(link, self, is_node=False, mice=self._mice)
        link.receiver = self._mux
        self._state = "online"
        self._say(Connected(str(welcome.get("node", "")), str(welcome.get("release", "")), self._connected_before))
        self._connected_before = True
        if link.is_closed:
            self.mux_lost("the node closed the link")
        if self._watching:
            self._mux.send_control({"type": "watch", "on": True})
        self._nudge.clear()
        self.leases.linked(self._mux)

    async def _serve(self) -> str:
        """Until the link is lost, or we stop; returns why."""
        watch = self._tasks.start("watch link", self._watch_link())
        await self._lost.wait()
        watch.cancel()
        mux, self._mux = self._mux, None
        if mux is not None and not mux.link.is_closed:
            if not self._standing:
                self.leases.give_back(mux)
            mux.close()
            await asyncio.sleep(0)
        self.leases.unlinked()
        return self._lost_reason

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
                for published in self.leases.published.values():
                    if published.dialer.wants_proof(UPSTREAM_PROBE_S):
                        self._tasks.start("probe upstream", published.dialer.probe())
            await asyncio.sleep(WATCH_S)

    # -- what the node says

    def control(self, message: Message) -> None:
        if self.leases.hear(message):
            return
        match message["type"]:
            case "refused":
                self._link_refused(message)
            case "lane":
                self._tasks.start("dial lane", self._dial_lane(message))
            case "activity":
                self._activity(message)
            case "goodbye":
                self._lost_reason = str(message.get("message", ""))

    def _link_refused(self, message: Message) -> None:
        error, code = refusal(message), str(message.get("code"))
        if isinstance(error, _FATAL) and not self._standing:
            self._exit = ExitReason.REFUSED
        self._say(Refused(code, error.message, error.hint, None, fatal=self._exit is not None))
        self._end_link(error.message)

    def _end(self, states: set[str]) -> None:
        """Nothing is left to publish."""
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
            published = self.leases.by_number(int(number)) if str(number).isdecimal() else None
            if published is not None and isinstance(counts, list) and len(counts) == 3:
                published.requests = int(counts[0])
        for entry in requests:
            self._saw(entry)

    def _saw(self, entry: Any) -> None:
        if not isinstance(entry, list) or len(entry) != 5:
            return
        number, method, path, status, duration_ms = entry
        published = self.leases.by_number(number)
        if published is None:
            return
        seen = RequestSeen(published.route, str(method), str(path), int(status), float(duration_ms) / 1000)
        self._requests.append(seen)
        self._say(seen)

    # -- visitors

    def opened(self, channel: Channel, number: int, connection_id: bytes, visitor: str) -> None:
        published = self.leases.by_number(number)
        if published is None:
            channel.reset(wire.NO_TUNNEL, "the agent does not publish this tunnel")
            return
        if published.route.upstream.scheme == NOTHING:
            published.dialer.refuse(channel)
            return
        published.dialer.answer(channel, lambda reason: self._say(UpstreamFailed(published.route, reason)))

    def dialed(self, channel: Channel, port: int, transport: str) -> None:
        """Only a node is dialled."""

    def dial(self, port: int, transport: str, protocol: asyncio.BaseProtocol) -> Channel:
        """Open a channel to the tunnel that has this port on the node; `transport` is `tcp` or `udp`.

        Raises:
            NotConnected: If there is no link to the node.
            LimitExceeded: If the link has as many such channels as it may.
        """
        if self._mux is None:
            raise NotConnected("the node is not connected")
        channel = self._mux.dial(protocol, port, transport)
        protocol.connection_made(channel)
        return channel

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
            upstream_lamp([published.dialer for published in self.leases.published.values()]),
            [snapshot_of(published) for published in self.leases.published.values()],
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

    def _say(self, event: AgentEvent) -> None:
        self._on_event(event)


def upstream_lamp(dialers: list[UpstreamDialer]) -> Lamp:
    """One proof for all upstreams: the oldest, or what failed."""
    failed = next((dialer for dialer in dialers if dialer.failure), None)
    proven = [dialer for dialer in dialers if dialer.proven_at is not None]
    oldest = min(proven, key=lambda dialer: dialer.proven_at or 0.0, default=None)
    if failed is not None:
        return Lamp("upstream", False, failed.proven_at, failed.round_trip_s, failed.failure)
    if oldest is None:
        return Lamp("upstream", ok=False)
    return Lamp("upstream", len(proven) == len(dialers), oldest.proven_at, oldest.round_trip_s)


def _is_literal(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except OSError:
        return False
    return True
