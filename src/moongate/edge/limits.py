"""How much one tunnel and one visitor's address may ask for: request rates and connection counts.

Pure: time is an argument. What a refusal looks like is left to edge.ingress. In every place 0 is no limit.
"""

import ipaddress
from collections.abc import Hashable
from typing import Final

MAX_IDLE_S: Final = 60.0
# Keys remembered at a time; an attacker has more addresses than we have memory.
MAX_KEYS: Final = 100_000
# Sums of 1/rate are not exact; without this the last request of a full bucket would be refused now and then.
_ROUNDING_S: Final = 1e-6


def address_key(address: str) -> str:
    """Return what an address is counted as: an IPv4 address itself, an IPv6 one as its /64.

    One subscriber owns a whole /64 (RFC 6177 §2), so that a limit on single addresses would limit nobody.
    """
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return parsed.packed[:8].hex(":", 2)


def stricter(one: int, other: int) -> int:
    """Return the smaller of two limits, of which 0 is none."""
    return min(one, other) if one and other else one or other


class RateLimits:
    """A token bucket for each key: what the rate gives in `depth_s`, but at least one; refilled at that rate.

    Kept as one number a key, the time at which the bucket will be full again (the "virtual scheduling" form of
    the same rule, ITU-T I.371 annex A).
    """

    __slots__ = ("_depth_s", "_full_at", "_sweep_at", "rps")

    def __init__(self, rps: float, depth_s: float = 1.0) -> None:
        self.rps = rps
        self._depth_s = depth_s
        self._full_at: dict[Hashable, float] = {}
        self._sweep_at = 0.0

    def __len__(self) -> int:
        return len(self._full_at)

    def allow(self, key: Hashable, now: float, rps: float | None = None) -> float:
        """Take a token: 0.0 if there was one, else the seconds until there will be one.

        `rps` is the rate of this key where it has one of its own.
        """
        rate = self.rps if rps is None else rps
        if not rate:
            return 0.0
        if now >= self._sweep_at:
            self._sweep(now)
        cost = 1 / rate
        full_at = max(self._full_at.get(key, now), now) + cost
        # Below one a second the bucket still holds a whole token.
        wait = full_at - now - max(self._depth_s, cost)
        if wait > _ROUNDING_S:
            return wait
        if len(self._full_at) >= MAX_KEYS and key not in self._full_at:
            self._make_room(now)
        self._full_at[key] = full_at
        return 0.0

    def give_back(self, key: Hashable) -> None:
        """Put back a token that was taken for nothing; for rates without keys of their own."""
        if key in self._full_at:
            self._full_at[key] -= 1 / self.rps

    def _sweep(self, now: float) -> None:
        self._sweep_at = now + MAX_IDLE_S
        # A full bucket says as much as none.
        self._full_at = {key: at for key, at in self._full_at.items() if at > now}

    def _make_room(self, now: float) -> None:
        self._sweep(now)
        # All of them used within their last second: forget the eldest tenth, in the visitors' favour.
        for key in list(self._full_at)[: max(0, len(self._full_at) - MAX_KEYS * 9 // 10)]:
            del self._full_at[key]


class ConnectionLimits:
    """Counts what each key has open; a key that has nothing open takes no memory."""

    __slots__ = ("_open", "max")

    def __init__(self, max: int) -> None:  # noqa: A002 - it is the maximum
        self.max = max
        self._open: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._open)

    def count(self, key: Hashable) -> int:
        """How many this key has open."""
        return self._open.get(key, 0)

    def take(self, key: Hashable, max: int | None = None) -> bool:  # noqa: A002 - it is the maximum
        """Count one more, unless the key has its maximum open; `max` where the key has one of its own.

        Counted without a limit too, so that one that is set later finds the truth.
        """
        most = self.max if max is None else max
        count = self._open.get(key, 0)
        if most and count >= most:
            return False
        self._open[key] = count + 1
        return True

    def give(self, key: Hashable) -> None:
        """Count one less: call it once for every `take` that answered true."""
        count = self._open.get(key, 0)
        if count > 1:
            self._open[key] = count - 1
        else:
            self._open.pop(key, None)
