"""One route of an agent, the lease that it has or is to have, and what was asked of the node about it."""

import asyncio
from dataclasses import dataclass, replace

from moongate.agent.reports import CertificateStatus, TunnelReady, TunnelSnapshot
from moongate.agent.routes import Route
from moongate.agent.sites import Sites
from moongate.agent.upstreams import UpstreamDialer
from moongate.errors import MoongateError

Answer = asyncio.Future[TunnelReady | None]


class Publication:
    """One route and the lease it has, or is to have; `state` as in a TunnelSnapshot."""

    __slots__ = (
        "answer",
        "certificate",
        "certificate_sent",
        "claimed_before",
        "dialer",
        "generation",
        "is_asked",
        "is_gone",
        "is_stale",
        "key",
        "number",
        "refusals",
        "requests",
        "route",
        "sites",
        "snapshot",
        "state",
        "wanted",
    )

    def __init__(self, key: str, route: Route, sites: Sites | None) -> None:
        self.key = key
        self.route = route
        self.sites = sites
        self.dialer = UpstreamDialer(route, sites)
        self.wanted = route.wanted
        self.generation: int | None = None
        self.number: int | None = None
        self.claimed_before = False
        self.state = "waiting"
        self.requests = 0
        self.refusals = 0
        self.snapshot = TunnelSnapshot(route, "waiting")
        self.answer: Answer | None = None  # who waits for the lease
        self.is_asked = False  # a claim is under way
        self.is_stale = False  # the route was changed meanwhile
        self.is_gone = False  # the route was dropped meanwhile
        self.certificate = CertificateStatus()
        self.certificate_sent: tuple[int, ...] = ()  # when its files were changed last

    @property
    def is_wanted(self) -> bool:
        return self.state in ("waiting", "ready")

    def can_become(self, route: Route) -> bool:
        """Whether the lease can stay when the route becomes this one."""
        same_name = route.wanted is None or route.wanted in (self.route.wanted, self.wanted)
        return route.kind == self.route.kind and same_name

    def become(self, route: Route) -> None:
        """Take another route: visitors that are here stay with the old upstream, new ones find the new one."""
        before, self.route = self.route, route
        self.snapshot = replace(self.snapshot, route=route)
        if (before.upstream, before.proxy_protocol) != (route.upstream, route.proxy_protocol):
            self.dialer = UpstreamDialer(route, self.sites)

    def tell(self, ready: TunnelReady | None) -> None:
        """Whoever waits for the lease may go on."""
        answer, self.answer = self.answer, None
        if answer is not None and not answer.done():
            answer.set_result(ready)

    def fail(self, error: MoongateError) -> None:
        """Whoever waits for the lease hears why there is none."""
        answer, self.answer = self.answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)
            answer.exception()  # heard, also if nobody waits any more


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked of the node: a `claim`, an `update`, a `certificate`, or `anything` that is answered."""

    what: str
    published: Publication
    answer: Answer | None = None
    before: Route | None = None  # what an update that is refused leaves in place
