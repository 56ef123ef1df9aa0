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
from pathlib import Path
from typing import Any, Final

import structlog

from moongate import __version__
from moongate.agent.backoff import delay_s
from moongate.agent.dialing import NodeDialer, Welcoming, refusal
from moongate.agent.publications import Answer, Publication, Question
from moongate.agent.reports import (
    REQUESTS_KEPT,
    AgentEvent,
    AgentSnapshot,
    CertificateStatus,
    CertificateTold,
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
from moongate.agent.routes import NOTHING, OwnCertificate, Route
from moongate.agent.sites import Sites
from moongate.errors import (
    MoongateError,
    NotConnected,
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
        self._published = {str(index): Publication(str(index), route, sites) for index, route in enumerate(routes)}
        self._by_number: dict[int, Publication] = {}
        self._questions: dict[int, Question] = {}
        self._last_question = 0
        self._owed: dict[tuple[str, str], None] = {}  # kinds and names that are to be given back
        self._sites = sites
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
        for published in self._published.values():
            published.state, published.generation = "waiting", None
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
        self._pay(self._mux)
        for published in self._published.values():
            if published.is_wanted or self._standing:
                self._claim(published)

    async def _serve(self) -> str:
        """Until the link is lost, or we stop; returns why."""
        watch = self._tasks.start("watch link", self._watch_link())
        await self._lost.wait()
        watch.cancel()
        mux, self._mux = self._mux, None
        if mux is not None and not mux.link.is_closed:
            if not self._standing:
                self._give_back(mux)
            mux.close()
            await asyncio.sleep(0)
        self._forget_link()
        return self._lost_reason

    def _forget_link(self) -> None:
        self._by_number.clear()
        questions, self._questions = self._questions, {}
        for published in self._published.values():
            published.number, published.is_asked = None, False
            if self._standing and published.state == "ready":
                published.state = "waiting"
        for question in questions.values():
            if question.published.is_gone:
                self._owe(question.published)
            # The route is claimed as it is now when the link is back.
            if question.answer is not None and not question.answer.done():
                question.answer.set_result(None)

    def _give_back(self, mux: Mux) -> None:
        for published in self._published.values():
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
                for published in self._published.values():
                    if published.dialer.wants_proof(UPSTREAM_PROBE_S):
                        self._tasks.start("probe upstream", published.dialer.probe())
            await asyncio.sleep(WATCH_S)

    def _claim(self, published: Publication) -> None:
        if self._mux is None or published.is_asked or published.is_gone or published.number is not None:
            return
        if published.state in ("superseded", "closed"):
            return
        published.state = "waiting"
        published.number = None
        published.is_asked, published.is_stale = True, False
        request = self._ask(Question("claim", published))
        self._mux.send_control(
            {
                "type": "claim",
                "request": request,
                "kind": published.route.kind,
                "wanted": published.wanted,
                "generation": published.generation,
                **_said_of(published.route),
            }
        )

    def _ask(self, question: Question) -> int:
        """Remember what is asked, by the number of the request."""
        self._last_question += 1
        self._questions[self._last_question] = question
        return self._last_question

    # -- routes that come and go

    def set_route(self, key: str, route: Route) -> Answer:
        """Publish a route, or change one that is published; what it replaces goes on for the visitors that are here.

        The future ends when the node has answered: with the lease if it is new, with nothing if it was changed (or
        the link was lost, and the route is claimed when it is back), or with the node's refusal.
        """
        answer: Answer = asyncio.get_running_loop().create_future()
        published = self._published.get(key)
        if published is not None and not published.can_become(route):
            self.drop_route(key)
            published = None
        if published is None:
            published = self._published[key] = Publication(key, route, self._sites)
        elif published.state == "ready" and self._mux is not None:
            self._update(published, route, answer)
            return answer
        else:
            published.become(route)
            published.is_stale = published.is_asked
            published.state = "waiting"
        published.tell(None)
        published.answer = answer
        self._claim(published)
        return answer

    def rename_route(self, key: str, new: str) -> None:
        """Call a route by another key."""
        published = self._published.pop(key)
        published.key = new
        self._published[new] = published

    def drop_route(self, key: str) -> Answer:
        """Give a route back; the future ends when the node knows, or when there is no link."""
        answer: Answer = asyncio.get_running_loop().create_future()
        published = self._published.pop(key, None)
        if published is None:
            answer.set_result(None)
            return answer
        published.tell(None)
        published.is_gone = True  # a lease that is on its way is given back when it comes
        self._release(published, answer)
        return answer

    def route_state(self, key: str) -> TunnelSnapshot | None:
        """Return how it is with one route."""
        published = self._published.get(key)
        return _snapshot(published) if published is not None else None

    def send_changed_certificates(self) -> None:
        """Send the certificates whose files have changed since they were sent."""
        for published in list(self._published.values()):
            own = published.route.certificate
            if own is not None and published.number is not None and _changes(own) != published.certificate_sent:
                self._send_certificate(published)

    def _release(self, published: Publication, answer: Answer) -> None:
        number, mux = published.number, self._mux
        if number is None or mux is None:
            if not published.is_asked:
                self._owe(published)
            answer.set_result(None)
            return
        self._by_number.pop(number, None)
        lease = {"tunnel": number, "generation": published.generation}
        mux.send_control({"type": "release", **lease})
        # A release is not answered. What is said after it is, and the node hears one after the other.
        request = self._ask(Question("anything", published, answer))
        mux.send_control({"type": "update", "request": request, **lease, "options": {}, "upstream": ""})

    def _owe(self, published: Publication) -> None:
        """A kept name that cannot be given back now is given back when there is a link again."""
        if published.route.options.get("keep") and published.wanted:
            self._owed[published.route.kind, published.wanted] = None

    def _pay(self, mux: Mux) -> None:
        wanted = {(published.route.kind, published.wanted) for published in self._published.values()}
        for kind, name in self._owed:
            if (kind, name) not in wanted:
                mux.send_control({"type": "release", "kind": kind, "wanted": name})
        self._owed.clear()

    def _update(self, published: Publication, route: Route, answer: Answer | None) -> None:
        if self._mux is None:
            return
        before = published.route
        request = self._ask(Question("update", published, answer, before))
        published.become(route)
        lease = {"tunnel": published.number, "generation": published.generation}
        self._mux.send_control({"type": "update", "request": request, **lease, **_said_of(route)})
        if before.certificate != route.certificate:
            self._send_certificate(published)

    def _send_certificate(self, published: Publication) -> None:
        """Bring the name's own certificate, or take it away when there is none any more."""
        if self._mux is None or published.number is None:
            return
        own, chain, key = published.route.certificate, "", ""
        if own is not None:
            published.certificate_sent = _changes(own)
            try:
                chain, key = _read(own.chain), _read(own.key)
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                self._certificate_told(
                    published, CertificateStatus("failed", f"certificate not read: {reason.lower()}")
                )
                return
        request = self._ask(Question("certificate", published))
        lease = {"tunnel": published.number, "generation": published.generation}
        self._mux.send_control({"type": "certificate", "request": request, **lease, "chain": chain, "key": key})

    def _certificate_told(self, published: Publication, status: CertificateStatus) -> None:
        published.certificate = status
        self._say(CertificateTold(published.route, status))

    # -- what the node says

    def control(self, message: Message) -> None:
        match message["type"]:
            case "claimed":
                self._claimed(message)
            case "updated":
                self._updated(message)
            case "refused":
                self._refused(message)
            case "certificate_state":
                self._certificate_state(message)
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
        question = self._asked(message)
        number, generation = message.get("tunnel"), message.get("generation")
        if (
            question is None
            or question.what != "claim"
            or not isinstance(number, int)
            or not isinstance(generation, int)
        ):
            raise ProtocolError("the node answered a claim that was not made")
        published = question.published
        published.is_asked = False
        published.number, published.generation = number, generation
        if published.is_gone:
            self._release(published, asyncio.get_running_loop().create_future())
            return
        port = message.get("port")
        published.wanted = str(port) if port else str(message.get("name", ""))
        published.state = "ready"
        published.refusals = 0
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
        if published.route.certificate is not None:
            self._send_certificate(published)
        if published.is_stale:
            published.is_stale = False
            self._update(published, published.route, None)
        published.tell(ready)
        self._say(ready)

    def _asked(self, message: Message) -> Question | None:
        request = message.get("request")
        return self._questions.pop(request, None) if isinstance(request, int) else None

    def _updated(self, message: Message) -> None:
        question = self._asked(message)
        if question is not None and question.answer is not None and not question.answer.done():
            question.answer.set_result(None)

    def _refused(self, message: Message) -> None:
        error = refusal(message)
        question = self._asked(message)
        code = str(message.get("code"))
        if question is None:
            self._link_refused(code, error)
        elif question.what == "claim":
            self._claim_refused(question.published, code, error)
        elif question.what == "update":
            self._update_refused(question, error)
        elif question.what == "certificate":
            self._certificate_told(question.published, CertificateStatus("failed", error.message))
        elif question.answer is not None and not question.answer.done():
            question.answer.set_result(None)

    def _link_refused(self, code: str, error: MoongateError) -> None:
        if isinstance(error, _FATAL) and not self._standing:
            self._exit = ExitReason.REFUSED
        self._say(Refused(code, error.message, error.hint, None, fatal=self._exit is not None))
        self._end_link(error.message)

    def _claim_refused(self, published: Publication, code: str, error: MoongateError) -> None:
        published.is_asked = False
        if published.is_gone:
            return
        if code == Superseded.code:
            self._lose(published, "superseded", error.message)
            self._say(SupersededBy(published.route, error.message))
        elif published.claimed_before or self._standing:
            # It was ours before we were cut off, and may be again.
            self._say(Refused(code, error.message, error.hint, published.route, fatal=False))
            published.snapshot.note = error.message
            published.state = "refused" if self._standing else "waiting"
            delay = min(RECLAIM_MOST_S, RECLAIM_S * 2 ** min(published.refusals, 4)) if self._standing else RECLAIM_S
            published.refusals += 1
            asyncio.get_running_loop().call_later(delay, self._claim, published)
        else:
            self._lose(published, "refused", error.message)
            fatal = not any(other.is_wanted for other in self._published.values())
            self._say(Refused(code, error.message, error.hint, published.route, fatal=fatal))
        published.fail(error)
        self._end_if_nothing_is_left()

    def _update_refused(self, question: Question, error: MoongateError) -> None:
        """The tunnel is as it was at the node, and so it is here."""
        published = question.published
        if question.before is not None:
            published.become(question.before)
        if question.answer is not None and not question.answer.done():
            question.answer.set_exception(error)
            question.answer.exception()  # heard, also if nobody waits any more

    def _certificate_state(self, message: Message) -> None:
        number, not_after = message.get("tunnel"), message.get("not_after")
        published = self._by_number.get(number) if isinstance(number, int) else None
        if published is None:
            return
        until = float(not_after) if isinstance(not_after, int | float) else None
        status = CertificateStatus(str(message.get("state", "none")), str(message.get("message", "")), until)
        self._certificate_told(published, status)

    def _taken(self, message: Message, *, superseded: bool) -> None:
        number = message.get("tunnel")
        published = self._by_number.pop(number, None) if isinstance(number, int) else None
        if published is None or message.get("generation") != published.generation:
            return  # about a lease that we no longer have
        text = str(message.get("message", ""))
        self._lose(published, "superseded" if superseded else "closed", text)
        self._say(SupersededBy(published.route, text) if superseded else ClosedBy(published.route, text))
        self._end_if_nothing_is_left()

    def _lose(self, published: Publication, state: str, note: str) -> None:
        published.state = state
        published.number = None
        published.snapshot = replace(published.snapshot, note=note)

    def _end_if_nothing_is_left(self) -> None:
        if self._standing or any(published.is_wanted for published in self._published.values()):
            return
        states = {published.state for published in self._published.values()}
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
        if published.route.upstream.scheme == NOTHING:
            channel.reset(wire.UPSTREAM_REFUSED, "nothing is published here now")
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
            self._upstream_lamp(),
            [_snapshot(published) for published in self._published.values()],
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
        dialers = [published.dialer for published in self._published.values()]
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


def _snapshot(published: Publication) -> TunnelSnapshot:
    dialer = published.dialer
    return replace(
        published.snapshot,
        state=published.state,
        connections=dialer.open,
        requests=published.requests,
        bytes_in=dialer.bytes_in,
        bytes_out=dialer.bytes_out,
        certificate=published.certificate,
    )


def _said_of(route: Route) -> Message:
    """What the node is told of a route, beside its name."""
    return {"upstream": str(route.upstream), "options": {"proxy_protocol": route.proxy_protocol, **route.options}}


def _changes(own: OwnCertificate) -> tuple[int, ...]:
    """When the files were changed last; a file that is not there was never changed."""
    return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in (own.chain, own.key))


def _read(path: Path) -> str:
    """Raises OSError or ValueError if the file is none that can be sent."""
    with path.open("rb") as file:
        content = file.read(CERTIFICATE_MAX_BYTES + 1)
    if len(content) > CERTIFICATE_MAX_BYTES:
        raise ValueError(f"{path} has more than {CERTIFICATE_MAX_BYTES} bytes")
    return content.decode("ascii")


def _is_literal(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except OSError:
        return False
    return True
