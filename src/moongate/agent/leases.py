"""Which routes an agent has, and the leases on them: what is asked of the node, and what it answers.

Kept over every loss of the link. Making links, and the visitors on them, are agent.service's business.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, cast

from moongate.agent.dialing import refusal
from moongate.agent.publications import Answer, Publication, Question
from moongate.agent.reports import (
    AgentEvent,
    CertificateStatus,
    CertificateTold,
    ClosedBy,
    Refused,
    SupersededBy,
    TunnelReady,
    TunnelSnapshot,
)
from moongate.agent.routes import OwnCertificate, Route
from moongate.agent.sites import Sites
from moongate.errors import MoongateError, ProtocolError, Superseded
from moongate.relay.channels import Mux
from moongate.wire.tunnel import Message

RECLAIM_S: Final = 5.0
# A standing agent asks again for what it was refused, ever more seldom.
RECLAIM_MOST_S: Final = 60.0
# Chain and key together, so that they fit into one control message with its escapes.
CERTIFICATE_MAX_BYTES: Final = 48 * 1024


class Leases:
    """The routes of one agent, by their keys."""

    def __init__(
        self,
        routes: Iterable[Route],
        sites: Sites | None,
        *,
        standing: bool,
        say: Callable[[AgentEvent], None],
        on_nothing_left: Callable[[set[str]], None],
    ) -> None:
        """`on_nothing_left` hears the states of all routes when none is wanted any more; never if `standing`."""
        self.published = {str(index): Publication(str(index), route, sites) for index, route in enumerate(routes)}
        self._by_number: dict[int, Publication] = {}
        self._questions: dict[int, Question] = {}
        self._last_question = 0
        self._owed: dict[tuple[str, str], None] = {}  # kinds and names that are to be given back
        self._mux: Mux | None = None
        self._sites = sites
        self._standing = standing
        self._say = say
        self._on_nothing_left = on_nothing_left

    def by_number(self, number: object) -> Publication | None:
        """Return the route whose lease the node calls by this number."""
        return self._by_number.get(number) if isinstance(number, int) else None

    # -- the link

    def linked(self, mux: Mux) -> None:
        """There is a link: ask for everything that is wanted."""
        self._mux = mux
        self._pay(mux)
        for published in self.published.values():
            if published.is_wanted or self._standing:
                self._claim(published)

    def unlinked(self) -> None:
        """The link is gone; what was asked on it stays unanswered."""
        self._mux = None
        self._by_number.clear()
        questions, self._questions = self._questions, {}
        for published in self.published.values():
            published.number, published.is_asked = None, False
            if self._standing and published.state == "ready":
                published.state = "waiting"
        for question in questions.values():
            if question.published.is_gone:
                self._owe(question.published)
            # The route is claimed as it is now when the link is back.
            if question.answer is not None and not question.answer.done():
                question.answer.set_result(None)

    def give_back(self, mux: Mux) -> None:
        """Release everything, for good."""
        for published in self.published.values():
            if published.number is not None and published.state == "ready":
                mux.send_control({"type": "release", "tunnel": published.number, "generation": published.generation})

    def forgive(self) -> None:
        """Ask again for what was taken from us, as if we had never had it."""
        for published in self.published.values():
            published.state, published.generation = "waiting", None

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
        published = self.published.get(key)
        if published is not None and not published.can_become(route):
            self.drop_route(key)
            published = None
        if published is None:
            published = self.published[key] = Publication(key, route, self._sites)
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
        published = self.published.pop(key)
        published.key = new
        self.published[new] = published

    def drop_route(self, key: str) -> Answer:
        """Give a route back; the future ends when the node knows, or when there is no link."""
        answer: Answer = asyncio.get_running_loop().create_future()
        published = self.published.pop(key, None)
        if published is None:
            answer.set_result(None)
            return answer
        published.tell(None)
        published.is_gone = True  # a lease that is on its way is given back when it comes
        self._release(published, answer)
        return answer

    @property
    def owed(self) -> set[tuple[str, str]]:
        """Kinds and kept names that the node is still to hear are given up."""
        return set(self._owed)

    def owe(self, names: Iterable[tuple[str, str]]) -> None:
        """Give these kinds and kept names up when there is a link, unless they are wanted again by then."""
        self._owed.update(dict.fromkeys(names))

    def state_of(self, key: str) -> TunnelSnapshot | None:
        """Return how it is with one route."""
        published = self.published.get(key)
        return snapshot_of(published) if published is not None else None

    def send_changed_certificates(self) -> None:
        """Send the certificates whose files have changed since they were sent."""
        for published in list(self.published.values()):
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
        wanted = {(published.route.kind, published.wanted) for published in self.published.values()}
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
                chain, key = _read_pair(own)
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

    def hear(self, message: Message) -> bool:
        """Take what the node says of a lease; False if it says something else."""
        match message["type"]:
            case "claimed":
                self._claimed(message)
            case "updated":
                self._updated(message)
            case "refused":
                return self._refused(message)
            case "certificate_state":
                self._certificate_state(message)
            case "superseded":
                self._taken(message, superseded=True)
            case "closed":
                self._taken(message, superseded=False)
            case _:
                return False
        return True

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

    def _refused(self, message: Message) -> bool:
        question = self._asked(message)
        if question is None:
            return False  # it is the link that is refused
        error = refusal(message)
        if question.what == "claim":
            self._claim_refused(question.published, str(message.get("code")), error)
        elif question.what == "update":
            self._update_refused(question, error)
        elif question.what == "certificate":
            self._certificate_told(question.published, CertificateStatus("failed", error.message))
        elif question.answer is not None and not question.answer.done():
            question.answer.set_result(None)
        return True

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
            fatal = not any(other.is_wanted for other in self.published.values())
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
        published = self.by_number(message.get("tunnel"))
        if published is None or message.get("generation") != published.generation:
            return  # about a lease that we no longer have
        self._by_number.pop(cast(int, published.number))
        text = str(message.get("message", ""))
        self._lose(published, "superseded" if superseded else "closed", text)
        self._say(SupersededBy(published.route, text) if superseded else ClosedBy(published.route, text))
        self._end_if_nothing_is_left()

    def _lose(self, published: Publication, state: str, note: str) -> None:
        published.state = state
        published.number = None
        published.snapshot = replace(published.snapshot, note=note)

    def _end_if_nothing_is_left(self) -> None:
        if self._standing or any(published.is_wanted for published in self.published.values()):
            return
        self._on_nothing_left({published.state for published in self.published.values()})


def snapshot_of(published: Publication) -> TunnelSnapshot:
    """Return one route as it is now."""
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


def _read_pair(own: OwnCertificate) -> tuple[str, str]:
    """Raises OSError or ValueError if the files are none that can be sent."""
    texts = []
    for path in (own.chain, own.key):
        with path.open("rb") as file:
            texts.append(file.read(CERTIFICATE_MAX_BYTES + 1).decode("ascii"))
    if sum(map(len, texts)) > CERTIFICATE_MAX_BYTES:
        raise ValueError(f"{own.chain} and {own.key} have more than {CERTIFICATE_MAX_BYTES} bytes")
    return texts[0], texts[1]
