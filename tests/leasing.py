"""Agents and nodes for tests of leases: no sockets, no clock, chance from a seed."""

import itertools
import random
import uuid
from dataclasses import dataclass, field

from moongate.config import PortRange
from moongate.edge.routes import DEFAULT_OPTIONS, Claimed, Routes, TunnelOptions
from moongate.edge.routes.names import lease_key
from moongate.identity.tokens import Identity, Scope

DOMAIN = "localhost"
WALL = 1_800_000_000.0
_chance = random.Random(7)


def identity(label: str = "laptop", scope: str | None = None) -> Identity:
    """A token's identity; its label is its id too."""
    return Identity(id=label, label=label, scope=Scope.parse(scope, DOMAIN), token_id=label)


ADMIN = Identity(id="admin", label="admin", scope=Scope.parse(None, DOMAIN), token_id=None)


@dataclass(eq=False, slots=True)
class Session:
    """One connection of an agent."""

    identity: Identity
    id: str = field(default_factory=lambda: str(uuid.UUID(int=_chance.getrandbits(128), version=4)))
    peer_text: str = "127.0.0.1:40000"


def make_routes(
    *,
    hold_s: float = 60.0,
    ports: PortRange = PortRange(20000, 20003),
    wall: float = WALL,
    quota: int = 0,
    node_names: tuple[str, ...] = (),
    seed: int = 1,
) -> Routes:
    chance = random.Random(seed)
    return Routes(
        domain=DOMAIN,
        tcp_ports=ports,
        hold_s=hold_s,
        random_hex=lambda digits: f"{chance.getrandbits(4 * digits):0{digits}x}",
        node_names=node_names,
        public_url=lambda kind, name, port: f"{kind}://{name}:{port or 7171}",
        max_tunnels_per_session=quota,
        wall_clock=lambda: wall,
    )


class Agent:
    """An agent process: one instance id, as many sessions as it has to make, and the generations it was given."""

    _numbers = itertools.count(1)

    def __init__(self, routes: Routes, identity: Identity) -> None:
        self.routes = routes
        self.identity = identity
        self.instance = f"instance-{next(self._numbers)}"
        self.generations: dict[str, int] = {}
        self.session = self.connect()

    def connect(self) -> Session:
        """Make a new session; the one before may be half open still."""
        self.session = Session(self.identity)
        self.routes.joined(self.session)
        return self.session

    def claim(
        self,
        now: float,
        wanted: str | None = "app",
        *,
        kind: str = "http",
        generation: int | None = None,
        options: TunnelOptions = DEFAULT_OPTIONS,
    ) -> Claimed:
        claimed = self.routes.claim(
            now,
            kind=kind,
            wanted=wanted,
            identity=self.identity,
            instance=self.instance,
            generation=generation,
            session=self.session,
            options=options,
        )
        self.generations[lease_key(kind, claimed.tunnel.name)] = claimed.tunnel.generation
        return claimed

    def reclaim(self, now: float, name: str, *, kind: str = "http") -> Claimed:
        """Ask again for what it had, showing the generation it had it with."""
        return self.claim(now, name, kind=kind, generation=self.generations[lease_key(kind, name)])
