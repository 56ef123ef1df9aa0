"""A visitor who speaks HTTP/1.1: each request finds its tunnel, its answer comes back as it arrives.

The hot path is callbacks: RequestReader cuts the visitor's bytes into requests, which go straight into a channel;
Upstream cuts the channel's bytes into answers, which go straight into the visitor's transport. Nothing here waits.
"""

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog
from httptools import HttpResponseParser

from moongate.audit.ids import id_text
from moongate.edge.ingress import rules
from moongate.edge.ingress.exchange import Body, Exchange
from moongate.edge.ingress.pages import BROKEN_ANSWER, error_answer, failure_of, proof_answer
from moongate.edge.ingress.requests import RequestReader
from moongate.edge.ingress.upstream import Upstream
from moongate.edge.routes import DEFAULT_OPTIONS
from moongate.errors import ProtocolError
from moongate.relay.channels import Channel
from moongate.relay.turns import TURN_BYTES, FairReading, collect_writes
from moongate.wire import http1
from moongate.wire import tunnel as wire

if TYPE_CHECKING:
    from moongate.audit.connections import ConnectionRecord
    from moongate.edge.control import AgentSession
    from moongate.edge.ingress.edge import Edge
    from moongate.edge.routes import Tunnel
    from moongate.net.listening import Peer

log = structlog.get_logger(__name__)

KEEP_ALIVE_S: Final = 75.0
LINGER_S: Final = 2.0

# Why a visitor's reading is held: somebody must first take what came.
_PIPELINE: Final = 1
_UPSTREAM: Final = 2
_SWITCHING: Final = 4
_TURN: Final = 8
_CHECKING: Final = 16

_READING, _SWITCHED, _CLOSING = range(3)


class HttpVisitor(asyncio.Protocol):
    """One visitor connection; requests are answered one after the other, in order."""

    __slots__ = (
        "_active",
        "_admitted",
        "_advancing",
        "_channel",
        "_channel_uses",
        "_close_after",
        "_edge",
        "_ends_after_waiting",
        "_fields",
        "_fields_of",
        "_first",
        "_form",
        "_head_since",
        "_last_answer",
        "_last_said",
        "_leftover",
        "_out",
        "_queue",
        "_reading",
        "_refusal",
        "_requests",
        "_session",
        "_state",
        "_transport",
        "_tunnel",
        "_upstream",
        "_waits",
        "_wants_application",
        "on_capture",
        "peer",
        "quiet_since",
        "record",
    )

    def __init__(self, edge: "Edge", peer: "Peer") -> None:
        self._edge = edge
        self.peer = peer
        self._admitted = peer  # whom this connection is counted for: behind a trusted proxy, the client it names
        self._transport: Any = None
        self._requests = RequestReader(edge, self)
        self._state = _READING
        self._reading = FairReading()
        self._out: list[bytes] = []
        # Kept until the first head shows whether this connection is the application's.
        self._first: list[bytes] | None = []
        self._ends_after_waiting = False
        self._waits = 0  # reads that were postponed to a later turn
        self._wants_application = False
        self._close_after = False
        self._head_since = edge.now()  # 0 while no head is awaited
        self._advancing = False
        self._refusal: tuple[int, str, str] | None = None  # to be said once the request before it is answered
        self._last_said: tuple[object, ...] = ()  # the head of the latest answer, and who got it
        self._last_answer: Exchange | None = None
        self._fields = b""  # what was written to the upstream of these fields
        self._fields_of: http1.Headers | None = None
        self._active: Exchange | None = None  # the one that is being answered
        self._form: Exchange | None = None  # a password form that is still being received
        self._queue: deque[Exchange] | None = None
        self._tunnel: Tunnel | None = None
        self._session: AgentSession | None = None
        self._channel: Channel | None = None
        self._channel_uses = 0
        self._upstream: Upstream | None = None
        self._leftover = b""
        self.record: ConnectionRecord | None = None
        self.on_capture: Any = None
        self.quiet_since = edge.now()

    # -- the visitor's transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        collect_writes(transport)
        self._reading.begin(transport)
        self._edge.visitors.add(self)

    def data_received(self, data: bytes) -> None:
        self.quiet_since = self._edge.now()
        if self._state == _SWITCHED and not self._waits:
            self._pass_on(data)
            return
        # The first bytes never wait: they tell whether this connection is somebody else's to read.
        if self._waits or (self._edge.is_full_turn() and self._first is None):
            self._waits += 1
            self._edge.postponed.append((self, data))
            if self._waits > 1 or len(data) >= TURN_BYTES:
                self._reading.hold(_TURN)  # or bulk would be read faster than it is taken
            return
        self._take(data)

    def take_postponed(self, data: bytes) -> None:
        """What came in a turn that was full, in the next one."""
        self._waits -= 1
        self._take(data)
        if not self._waits:
            self._reading.release(_TURN)
        if self._ends_after_waiting and not self._waits and not self.eof_received() and self._transport is not None:
            self._transport.close()

    def _take(self, data: bytes) -> None:
        if self._state == _SWITCHED:
            self._pass_on(data)
            return
        if self._state == _CLOSING or self._requests.stopped:
            return
        if self._first is not None:
            self._first.append(data)
        if self._reading.held & _SWITCHING:
            self._leftover += data
        else:
            self._feed(data)
        # Afterwards: the first bytes tell whose record they count for.
        self._count_in(len(data))
        self._yield_after(len(data))

    def _pass_on(self, data: bytes) -> None:
        self._channel.write(data)  # type: ignore[union-attr]
        self._count_in(len(data))
        self._yield_after(len(data))

    def _yield_after(self, size: int) -> None:
        if size >= TURN_BYTES and self._channel is not None and self._channel.makes_way():
            self._reading.make_way()

    def _feed(self, data: bytes) -> None:
        self._requests.feed(data)
        if self._wants_application:
            self._hand_over()
        elif self._requests.in_head and not self._head_since and self._active is None:
            self._head_since = self.quiet_since

    def eof_received(self) -> bool:
        if self._waits:
            self._ends_after_waiting = True
            return True
        if self._state == _SWITCHED:
            self._channel.write_eof()  # type: ignore[union-attr]
            return True
        if self._active is None or not self._active.complete:
            return False  # the transport closes, connection_lost cleans up
        self._close_after = True
        return True

    def pause_writing(self) -> None:
        if self._channel is not None:
            self._channel.pause_reading()

    def resume_writing(self) -> None:
        if self._channel is not None:
            self._channel.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._edge.visitors.discard(self)
        self._reading.end()
        self._state = _CLOSING
        channel, self._channel = self._channel, None
        if self._upstream is not None:
            self._upstream.detach()
            self._upstream = None
        if channel is not None:
            if self._active is not None or exc is not None:
                channel.abort()
            else:
                channel.close()
        self._leave_tunnel("visitor closed" if exc is None else "visitor reset")
        self._active = self._form = self._last_answer = None
        self._queue = None
        self._requests.end()

    # -- the request, told by RequestReader

    def request_head(self, exchange: Exchange) -> None:
        """Deal with a judged request now, or once those before it are answered."""
        self._head_since = 0.0
        if self._state != _READING:
            self._requests.stop()
            return
        if self._active is None and not self._queue:
            self._begin(exchange)
            return
        exchange.waiting = []
        if self._queue is None:
            self._queue = deque()
        self._queue.append(exchange)
        self._reading.hold(_PIPELINE)

    def request_data(self, exchange: Exchange, framed: bytes) -> None:
        """Pass on a piece of the body, framed as the upstream gets it."""
        limit = self._edge.body_limit(self._tunnel) if self._tunnel is not None else 0
        if limit and exchange.request is not None and exchange.request.size > limit:
            self.refuse(413, "http.too_large", f"the request body is larger than {limit} bytes")
        elif exchange.waiting is not None:
            exchange.waiting.append(framed)
            if exchange is self._form and self._tunnel is not None:
                self._form_grew(exchange, self._tunnel)
        elif self._channel is not None and exchange is self._active:
            self._channel.write(framed)

    # -- from request to channel

    def _begin(self, exchange: Exchange) -> None:
        """Route the request and pass its head on, or answer it here."""
        edge = self._edge
        host = exchange.facts.host
        found = self._tunnel
        if edge.proofs and (proof := edge.proof_at(exchange.facts.target)) is not None:
            self._answer_proof(exchange, proof)
        elif found is not None and found.name == host and found.session is self._session and found.session is not None:
            # One connection of a proxy carries many visitors; any other was let in when it came.
            if found.options.firewall and edge.is_trusted(self.peer) and self._is_shut_out(found, exchange):
                self._shut_out()
                return
            self._active = exchange
            self._forward(exchange, found)
        elif self._is_shut_out(edge.routes.by_host(host), exchange):
            self._shut_out()
        elif self.peer.tls and edge.is_misdirected(self.peer, host):
            self._answer_here(exchange, 421, "http.misdirected", "the tls server name and the host field differ")
        elif edge.must_redirect(self.peer) and not edge.is_plain_only(host):
            self._redirect(exchange)
        elif host in edge.application_hosts:
            if self._first is not None:
                self._wants_application = True
                self._requests.stop()
            else:
                self._answer_here(exchange, 421, "http.misdirected", "this connection belongs to another host name")
        else:
            self._first = None
            self._active = exchange
            if (found := self._enter(exchange, host)) is not None:
                self._forward(exchange, found)

    def _enter(self, exchange: Exchange, host: str) -> "Tunnel | None":
        """Attach this connection to the tunnel of that host; None if the request was answered here."""
        self._drop_channel()
        self._fields_of = None
        edge = self._edge
        found = edge.routes.by_host(host)
        if found is None and edge.routes.held(host) is not None:
            self._answer_here(
                exchange, 503, "agent.offline", "the agent that publishes this name is not connected", retry_after_s=2
            )
            return None
        if found is None or found.kind != "http":
            self._answer_here(
                exchange, 404, "tunnel.unknown", f"no tunnel has the name {host}", hint="Check the name, or start it."
            )
            return None
        if found is self._tunnel:
            self._session = edge.session_of(found)
            return found
        self._leave_tunnel("visitor turned to another name")
        client = edge.client_of(self.peer, exchange.headers)
        if not edge.admit_connection(found, client):
            self._answer_here(exchange, 429, "limit.exceeded", "too many connections to this name", retry_after_s=1)
            return None
        self._tunnel = found
        self._session = edge.session_of(found)
        self._admitted = client
        self.record = edge.open_record("HTTP", found, client, exchange.headers)
        return found

    def _is_shut_out(self, found: "Tunnel | None", exchange: Exchange) -> bool:
        # What is sent again comes from the node's administrator.
        if found is None or not found.options.firewall or self.on_capture is not None:
            return False
        return self._edge.shuts_out(found, self._edge.client_of(self.peer, exchange.headers).address)

    def _shut_out(self) -> None:
        """Close without a word; answers to earlier requests of this connection, which a proxy may share, still go out."""
        self._state = _CLOSING
        self._requests.stop()
        self._drop_channel(abort=True)
        self._transport.close()

    def _forward(self, exchange: Exchange, found: "Tunnel") -> None:
        edge = self._edge
        found.request_count += 1
        if (edge.limits_requests or found.options is not DEFAULT_OPTIONS) and not (
            self._is_within_limits(exchange, found) and self._is_let_in(exchange, found)
        ):
            return
        self._pass(exchange, found)

    def _pass(self, exchange: Exchange, found: "Tunnel") -> None:
        if self.record is not None:
            self.record.requests += 1
        self._send_head(exchange, found)

    def _is_within_limits(self, exchange: Exchange, found: "Tunnel") -> bool:
        edge = self._edge
        retry_after = edge.rate_exceeded(found, edge.client_of(self.peer, exchange.headers))
        if retry_after:
            self._answer_here(
                exchange, 429, "limit.exceeded", "too many requests to this name", retry_after_s=int(retry_after) + 1
            )
            return False
        limit = edge.body_limit(found)
        if limit and (exchange.facts.content_length or 0) > limit:
            self._answer_here(exchange, 413, "http.too_large", f"the request body is larger than {limit} bytes")
            return False
        return True

    # -- the rules of a tunnel

    def _is_let_in(self, exchange: Exchange, found: "Tunnel") -> bool:
        # What is sent again was let in when it first came, and the administrator asks for it now.
        if self.on_capture is not None or not rules.applies(found.options, tls=self.peer.tls):
            return True
        verdict = self._edge.judge(found, exchange, self.peer)
        if verdict is None:
            return True
        self._obey(verdict, exchange, found)
        return False

    def _obey(self, verdict: rules.Answer | rules.Check | rules.WantsForm, exchange: Exchange, found: "Tunnel") -> None:
        if isinstance(verdict, rules.Answer):
            self._answer_here(exchange, **verdict.told())
            return
        if exchange.waiting is None:
            exchange.waiting = []
        if isinstance(verdict, rules.WantsForm):
            self._form = exchange
            self._form_grew(exchange, found)
        else:
            self._reading.hold(_CHECKING)
            client = self._edge.client_of(self.peer, exchange.headers)
            done = partial(self._checked, exchange, found)
            self._edge.gate.check(found.name, client.address, verdict, done)

    def _form_grew(self, exchange: Exchange, found: "Tunnel") -> None:
        if exchange.request is None or exchange.request.size < (exchange.facts.content_length or 0):
            return
        self._form = None
        verdict = self._edge.judge_form(found, exchange, self.peer, b"".join(exchange.waiting or ()))
        if verdict is not None:
            self._obey(verdict, exchange, found)

    def _checked(self, exchange: Exchange, found: "Tunnel", answer: rules.Answer | None) -> None:
        """Go on with a request whose password was looked at meanwhile, if it still waits for that."""
        self._reading.release(_CHECKING)
        if self._active is not exchange or exchange.status:
            return
        if answer is not None:
            self._answer_here(exchange, **answer.told())
        elif found is not self._tunnel or found.session is None or found.session is not self._session:
            self._begin(exchange)  # the name has changed hands
        elif self._is_let_in(exchange, found):
            self._pass(exchange, found)

    # -- to the upstream

    def _send_head(self, exchange: Exchange, found: "Tunnel") -> None:
        channel = self._channel
        if channel is None:
            self._upstream = Upstream(self)
            record_id = self.record.id if self.record is not None else exchange.id
            channel = self._session.open_channel(found, self._upstream, record_id, self.peer.text)  # type: ignore[union-attr]
            self._channel = channel
            self._channel_uses = 0
        self._channel_uses += 1
        if self._fields_of is not exchange.headers:
            self._fields_of = exchange.headers
            self._fields = self._upstream_fields(exchange, found)
        channel.write(http1.request_line(exchange.method, exchange.facts) + self._fields)
        if exchange.waiting:
            channel.write(b"".join(exchange.waiting))
        exchange.waiting = None

    def _upstream_fields(self, exchange: Exchange, found: "Tunnel") -> bytes:
        return http1.upstream_fields(
            exchange.facts,
            rules.without_credentials(found.options, exchange.headers),
            peer_ip=self.peer.address,
            proto="https" if self.peer.tls else "http",
            host_header=found.options.host_header.encode() or None,
            trusted_peer=self._edge.is_trusted(self.peer),
            upgrade=exchange.facts.upgrade is not None,
        )

    def _redirect(self, exchange: Exchange) -> None:
        host = exchange.facts.host
        shown = f"[{host}]" if ":" in host else host
        location = f"https://{shown}{self._edge.https_port}{exchange.facts.target.decode('latin-1')}"
        self._answer_here(exchange, 308, "http.redirect", "this name is served over https", location=location)

    # -- answers of our own

    def _answer_here(self, exchange: Exchange, status: int, code: str, message: str, **more: Any) -> None:
        """Answer without the upstream; the connection lives on if the request had no body left to skip."""
        close = exchange.facts.close or self._close_after or not exchange.body_is_through
        exchange.status = status
        self._edge.metrics.answered_here(status)
        self._write_error(exchange, status, code, message, close=close, **more)
        self._was_answered_here(exchange, close=close)

    def _answer_proof(self, exchange: Exchange, proof: bytes) -> None:
        """Show a certificate authority what it was told to look for, whatever the rules of the name are."""
        self._first = None  # what follows on this connection is not the application's
        close = exchange.facts.close or self._close_after or not exchange.body_is_through
        exchange.status = 200
        self._edge.metrics.answered_here(200)
        self.flush()  # the answer before this one, if it is of the same turn
        self._write(proof_answer(proof, head_only=exchange.method == b"HEAD", close=close))
        self._was_answered_here(exchange, close=close)

    def _was_answered_here(self, exchange: Exchange, *, close: bool) -> None:
        if exchange is self._active:
            self._active = None
        if self._requests.incoming is exchange:
            self._requests.incoming = None
        if close:
            self._say_refusal()
            self._close_gently()
        else:
            self._next()

    def _write_error(
        self, exchange: Exchange | None, status: int, code: str, message: str, *, close: bool, **more: Any
    ) -> None:
        accept = next((v for n, v in exchange.headers if n.lower() == b"accept"), b"") if exchange is not None else b""
        head_only = exchange is not None and exchange.method == b"HEAD"
        identifier = id_text(exchange.id if exchange is not None else self._edge.ids.next())
        if self._transport is not None and not self._transport.is_closing():
            self.flush()  # the answer before this one, if it is of the same turn
            answer = error_answer(
                status, code, message, request_id=identifier, accept=accept, head_only=head_only, close=close, **more
            )
            self._write(answer)
        log.debug("answered here", status=status, code=code, peer=self.peer.text, request_id=identifier)

    def refuse(self, status: int, code: str, message: str) -> None:
        """What was received cannot be trusted any further: say so and close."""
        if self._state != _READING:
            return
        exchange = self._active
        incoming = self._requests.incoming
        self._requests.stop()
        if exchange is not None and (exchange.complete or self._queue):
            # An earlier request is still to be answered; the refusal takes its turn.
            self._refusal = (status, code, message)
            self._close_after = not self._queue
            return
        exchange = exchange or incoming
        self._edge.metrics.answered_here(status)
        if exchange is None or not exchange.status:
            self._write_error(exchange, status, code, message, close=True)
            self._active = None
            self._drop_channel(abort=True)
            self._close_gently()
        else:
            # An answer is under way: a second head inside it would be its body.
            self._transport.abort()

    def _say_refusal(self) -> None:
        if self._refusal is not None:
            status, code, message = self._refusal
            self._edge.metrics.answered_here(status)
            self._write_error(None, status, code, message, close=True)
            self._refusal = None

    def _close_gently(self) -> None:
        """Close, but let the answer arrive: what is still being sent to us is read and dropped (RFC 9112 §9.6)."""
        self._state = _CLOSING
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._reading.release(_PIPELINE | _UPSTREAM | _SWITCHING | _TURN | _CHECKING)
        if transport.can_write_eof():
            transport.write_eof()
            self._edge.loop.call_later(LINGER_S, transport.abort)
        else:
            transport.close()

    # -- the answer, told by Upstream

    def answer_head(self, parser: HttpResponseParser, reason: bytes, headers: http1.Headers) -> bool:
        """Pass the head on; False if no more of this message is to be expected (HEAD)."""
        exchange = self._active
        status = parser.get_status_code()
        if exchange is None or exchange.status:
            raise ProtocolError("the upstream answered without being asked")
        if status < 200 and status != 101:
            self._out.append(
                http1.visitor_head(
                    status, reason, headers, version=exchange.version, framing=http1.NO_BODY, close=False
                )
            )
            return True
        self._close_after = self._close_after or self._edge.draining
        # All that a judged head depends on; upstreams say the same fields again as often as visitors do.
        said = (status, reason, headers, exchange.method, exchange.version, parser.get_http_version())
        plain = not self._close_after and not exchange.facts.close and exchange.body_is_through and status != 101
        if plain and self._last_answer is not None and self._last_said == said:
            head = exchange.begin_answer_as(self._last_answer)
        else:
            head = exchange.begin_answer(parser, reason, headers, close=self._close_after)
            self._last_said, self._last_answer = said, exchange if plain else None
        self._close_after = exchange.closes
        self._out.append(head)
        exchange.ttfb_s = self._edge.now() - exchange.started
        return not exchange.is_head_only

    def answer_body(self, data: bytes) -> None:
        exchange = self._active
        if exchange is None:
            return
        body = exchange.answer
        if body is None:
            body = exchange.answer = Body(self._edge.capture_room)
        body.add(data)
        self._out.append(http1.chunk(data) if exchange.framing == http1.CHUNKED else data)

    def answer_end(self, trailers: http1.Headers, *, reusable: bool) -> None:
        exchange = self._active
        if exchange is None or not exchange.status:
            return
        if exchange.framing == http1.CHUNKED:
            self._out.append(http1.last_chunk(trailers))
        self._active = None
        self._finished(exchange)
        if not reusable:
            self._drop_channel()
        if self._close_after or not exchange.body_is_through:
            self.flush()
            self._drop_channel()
            if exchange.body_is_through and self._refusal is None:
                self._state = _CLOSING
                self._transport.close()
            else:
                self._say_refusal()
                self._close_gently()
        else:
            self._next()

    def _next(self) -> None:
        """Begin the next pipelined request, and the next if that was answered here at once."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._queue and self._active is None and self._state == _READING:
                exchange = self._queue.popleft()
                if not self._queue and self._refusal is not None:
                    self._close_after = True
                self._begin(exchange)
        finally:
            self._advancing = False
        if not self._queue:
            self._reading.release(_PIPELINE)
            if self._active is None:
                self._go_on_without_upgrade()
        if self._requests.in_head and self._active is None and not self._head_since:
            self._head_since = self._edge.now()

    def _finished(self, exchange: Exchange) -> None:
        edge = self._edge
        self.quiet_since = now = edge.now()
        duration = now - exchange.started
        edge.metrics.answered(exchange.status, duration)
        found = self._tunnel
        if found is None:
            return
        session = self._session
        if session is not None and session.watched:
            session.saw(found, exchange, duration)
        connection = self.record.id if self.record is not None else exchange.id
        if found.options.capture and edge.capturing:
            edge.captures.add(exchange.capture(found.id, connection, duration))
        if edge.logs_requests:
            ids = {"request_id": id_text(exchange.id), "connection_id": id_text(connection), "tunnel": found.id}
            log.debug("request", **ids, **exchange.summary(duration), peer=self._admitted.text)
        if edge.events.listeners:
            ids = {"id": id_text(exchange.id), "tunnel_id": found.id}
            edge.events.publish("request", lambda: ids | exchange.summary(duration))
        if self.on_capture is not None:
            # Who sent it wants to see the answer, also where nothing is recorded.
            self.on_capture(exchange.capture(found.id, connection, duration))
        # The capture has them; an idle connection remembers the heads of its last exchange, not the bodies.
        exchange.request = exchange.answer = None

    def flush(self) -> None:
        """Write what the upstream's last bytes became, in one go."""
        out = self._out
        if not out:
            return
        if len(out) == 1:
            self._write(out[0])
        elif len(out) == 2 and len(out[1]) > 65536:
            self._write(out[0])
            self._write(out[1])
        else:
            self._write(b"".join(out))
        out.clear()

    def _write(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(data)
        size = len(data)
        if self._tunnel is not None:
            self._tunnel.bytes_out += size
        if self.record is not None:
            self.record.bytes_out += size

    def _count_in(self, size: int) -> None:
        if self._tunnel is not None:
            self._tunnel.bytes_in += size
        if self.record is not None:
            self.record.bytes_in += size

    # -- switching protocols (RFC 9110 §7.8)

    def upgrade_asked(self, rest: bytes) -> bool:
        """Read no further until the upstream has said in which protocol; False if an answer was given already."""
        if self._active is None and not self._queue:
            return False
        self._leftover = rest
        self._reading.hold(_SWITCHING)
        return True

    def switch(self) -> None:
        """The upstream agreed: from here on bytes pass untouched, both ways."""
        exchange, self._active = self._active, None
        if exchange is None:
            return
        if self._queue or self._requests.in_head or self._requests.incoming is not None:
            # It sent more before it was told how that would be read.
            self._transport.abort()
            return
        self._finished(exchange)
        self.flush()
        self._state = _SWITCHED
        if self.record is not None:
            self.record.type = "WEBSOCKET"
        if self._leftover:
            self._channel.write(self._leftover)  # type: ignore[union-attr]
            self._leftover = b""
        self._reading.release(_SWITCHING)

    def pass_raw(self, data: bytes) -> None:
        self._write(data)

    def raw_ended(self) -> None:
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _go_on_without_upgrade(self) -> None:
        """The upstream answered as if no upgrade had been asked for: what follows is HTTP again."""
        if not self._reading.held & _SWITCHING:
            return
        self._requests.begin_anew()
        rest, self._leftover = self._leftover, b""
        self._reading.release(_SWITCHING)
        if rest and self._state == _READING:
            self._feed(rest)

    # -- the upstream's end

    def upstream_eof(self) -> None:
        """An answer without a length ends with its connection."""
        exchange = self._active
        if exchange is not None and exchange.status and exchange.until_eof:
            self.answer_end([], reusable=False)
            self.flush()

    def upstream_ended(self, code: int | None) -> None:
        """The channel is over; `code` is a RESET code, or None after an orderly end."""
        self._channel = None
        self._upstream = None
        exchange = self._active
        if self._state == _SWITCHED:
            self._transport.close() if code is None else self._transport.abort()
            return
        if exchange is None:
            return  # an idle connection that the upstream closed
        reused = self._channel_uses > 1
        if reused and exchange.may_retry and self._tunnel is not None and self._tunnel.session is not None:
            exchange.retried = True
            self._session = self._edge.session_of(self._tunnel)
            self._send_head(exchange, self._tunnel)
        elif exchange.status:
            # Cut short: the visitor must be able to tell.
            self.flush()
            self._transport.abort()
        else:
            status, kind, message = failure_of(code)
            self._answer_here(exchange, status, kind, message, retry_after_s=2 if status == 503 else None)

    def answer_broken(self, reason: str) -> None:
        log.info("upstream answered badly", reason=reason, tunnel=self._tunnel.name if self._tunnel else "")
        self._out.clear()
        exchange = self._active
        self._drop_channel(abort=True)
        if exchange is None:
            return
        if exchange.status:
            self._transport.abort()
        else:
            self._answer_here(exchange, *BROKEN_ANSWER)

    def hold_for_upstream(self) -> None:
        self._reading.hold(_UPSTREAM)

    def release_for_upstream(self) -> None:
        self._reading.release(_UPSTREAM)

    # -- time

    def check(self, now: float) -> None:
        """Called about once a second: end what has been waiting too long."""
        exchange = self._active
        limits = self._edge.limits
        quiet = now - self.quiet_since
        if self._state != _READING:
            return
        if exchange is None:
            if self._head_since:
                if now - self._head_since > limits.header_timeout_s:
                    self.refuse(408, "http.timeout", "the head of the request did not come in time")
            elif quiet > KEEP_ALIVE_S or self._edge.draining:
                self._state = _CLOSING
                self._transport.close()
        elif not exchange.complete and not exchange.status:
            if quiet > limits.header_timeout_s and not self._reading.held:
                self.refuse(408, "http.timeout", "the body of the request stopped coming")
        elif not exchange.status and now - max(exchange.started, self.quiet_since) > limits.response_head_timeout_s:
            self._drop_channel(abort=True)
            self._answer_here(exchange, *failure_of(wire.UPSTREAM_TIMEOUT))

    def end(self, reason: str) -> None:
        """The tunnel was closed, or the node stops: end this connection now."""
        if self.record is not None:
            self._edge.close_record(self.record, reason)
            self.record = None
        if self._transport is not None:
            self._transport.abort()

    @property
    def tunnel(self) -> "Tunnel | None":
        return self._tunnel

    @property
    def is_idle(self) -> bool:
        return self._active is None and self._state == _READING

    # -- inside

    def _hand_over(self) -> None:
        """Give the connection to the application, or to the agents' links."""
        self._wants_application = False
        received = b"".join(self._first or ())
        self._first = None
        self._state = _CLOSING
        self._edge.visitors.discard(self)
        transport, self._transport = self._transport, None
        self._reading.end()
        requests = self._requests
        requests.end()
        if requests.url == wire.LINK_PATH and _asks_for_link(requests.headers):
            head_end = received.index(b"\r\n\r\n") + 4
            self._edge.accept_link(transport, self.peer, received[head_end:])
            return
        protocol = self._edge.application(self.peer)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(received)

    def _drop_channel(self, *, abort: bool = False) -> None:
        channel, self._channel = self._channel, None
        if self._upstream is not None:
            self._upstream.detach()
            self._upstream = None
        self._reading.release(_UPSTREAM)
        if channel is not None:
            channel.abort() if abort else channel.close()

    def _leave_tunnel(self, reason: str) -> None:
        if self.record is not None:
            self._edge.close_record(self.record, reason)
            self.record = None
        if self._tunnel is not None:
            self._edge.release_connection(self._tunnel, self._admitted)
            self._tunnel = None
            self._session = None


def _asks_for_link(headers: http1.Headers) -> bool:
    return any(name.lower() == b"upgrade" and value.lower() == wire.UPGRADE_TOKEN for name, value in headers)
