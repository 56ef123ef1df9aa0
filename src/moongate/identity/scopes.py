"""What a token may ask for: patterns of subdomains, protocols and port ranges."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from moongate.errors import ScopeInvalid

SCOPE_CHARACTERS_MAX = 4096
LABEL_MAX = 63
DRAWN_HEX = 8
_DRAWS = 32

_PATTERN = re.compile(r"[a-z0-9*?-]+(?:\.[a-z0-9*?-]+)*")
_LABEL = re.compile(r"(?!-)[a-z0-9-]{3,63}(?<!-)")
_PORTS = re.compile(r"(tcp|udp)(?::(\d{1,5})(?:-(\d{1,5}))?)?")
_ANY_PORT = (0, 65535)

Carrier = Literal["tcp", "udp"]


@dataclass(frozen=True, slots=True)
class Scope:
    """A token's scope; without patterns and ports it allows everything."""

    text: str | None = None
    patterns: tuple[str, ...] = ()
    ports: tuple[tuple[str, int, int], ...] = ()
    _unrestricted: bool = field(default=True, repr=False)

    @classmethod
    def parse(cls, text: str | None, domain: str) -> "Scope":
        """Read a comma-separated list of subdomain patterns, `tcp`, `udp`, port ranges and `http`.

        Raises:
            ScopeInvalid: If an entry is none of these, or only commas are given.
        """
        if text is None or not text.strip():
            return cls()
        if len(text) > SCOPE_CHARACTERS_MAX:
            raise ScopeInvalid(f"a scope has at most {SCOPE_CHARACTERS_MAX} characters")
        entries = [entry for entry in (part.strip().lower() for part in text.split(",")) if entry]
        if not entries:
            # Taking this for "unrestricted" would turn a slip of the hand into the widest scope there is.
            raise ScopeInvalid("the scope holds no entry; leave it out to allow everything")
        ports = tuple(found for entry in entries if (found := _ports(entry)) is not None)
        patterns = tuple(_pattern(entry, domain) for entry in entries if _PORTS.fullmatch(entry) is None)
        return cls(text.strip(), patterns, ports, _unrestricted=False)

    @property
    def is_unrestricted(self) -> bool:
        """Whether everything is allowed."""
        return self._unrestricted

    def allows(self, subdomain: str) -> bool:
        """Tell whether a bare subdomain may be taken."""
        name = subdomain.lower()
        return self._unrestricted or any(matches(pattern, name) for pattern in self.patterns)

    def allows_domain(self, name: str) -> bool:
        """Tell whether a whole domain may be taken; patterns without a dot are about the node's own subdomains."""
        domain = name.lower()
        return self._unrestricted or any("." in pattern and matches(pattern, domain) for pattern in self.patterns)

    def allows_port(self, port: int, carrier: Carrier = "tcp") -> bool:
        """Tell whether a port may be taken; a scope that names no ports at all leaves them free."""
        if not self.ports:
            return True
        return any(kind == carrier and low <= port <= high for kind, low, high in self.ports)

    def allows_protocol(self, protocol: str) -> bool:
        """Tell whether any tunnel of this protocol could be allowed."""
        if protocol in {"tcp", "udp"}:
            return not self.ports or any(kind == protocol for kind, _, _ in self.ports)
        return self._unrestricted or bool(self.patterns)

    def draw(self, random_hex: Callable[[int], str], is_free: Callable[[str], bool]) -> str | None:
        """Choose a free subdomain that matches, or None; `random_hex` gives that many hexadecimal digits."""
        patterns = [pattern for pattern in self.patterns or ("*",) if "." not in pattern]
        wild = [pattern for pattern in patterns if "*" in pattern or "?" in pattern]
        if not self._unrestricted and not self.patterns:
            return None
        for pattern in wild:
            for _ in range(_DRAWS):
                name = _fill(pattern, random_hex)
                if _LABEL.fullmatch(name) and is_free(name):
                    return name
        literals = (pattern for pattern in patterns if pattern not in wild)
        return next((name for name in literals if _LABEL.fullmatch(name) and is_free(name)), None)


def matches(pattern: str, name: str) -> bool:
    """Tell whether a whole name matches a glob of `*` and `?`.

    Backtracks only to the last star, so its time is bounded by the product of the lengths; a regular expression's is not.
    """
    at = star = mark = 0
    seen_star = False
    position = 0
    while position < len(name):
        if at < len(pattern) and pattern[at] == "*":
            seen_star, star, mark = True, at, position
            at += 1
        elif at < len(pattern) and pattern[at] in {"?", name[position]}:
            at += 1
            position += 1
        elif seen_star:
            mark += 1
            at, position = star + 1, mark
        else:
            return False
    return all(rest == "*" for rest in pattern[at:])


def _ports(entry: str) -> tuple[str, int, int] | None:
    found = _PORTS.fullmatch(entry)
    if found is None:
        return None
    kind, low, high = found.groups()
    if low is None:
        return kind, *_ANY_PORT
    first, last = int(low), int(high or low)
    if not 1 <= first <= last <= _ANY_PORT[1]:
        raise ScopeInvalid(f"the port range {entry!r} in the scope is not one")
    return kind, first, last


def _pattern(entry: str, domain: str) -> str:
    if entry == "http":
        return "*"
    pattern = entry.removesuffix("." + domain.lower().strip("."))
    if _PATTERN.fullmatch(pattern) is None or (pattern != entry and "." in pattern):
        raise ScopeInvalid(f"{entry!r} in the scope is not a pattern of letters, digits, hyphens, * and ?")
    return pattern


def _fill(pattern: str, random_hex: Callable[[int], str]) -> str:
    stars = pattern.count("*")
    room = LABEL_MAX - (len(pattern) - stars)
    digits = min(DRAWN_HEX // stars or 1, room // stars) if stars and room > 0 else 0
    parts = {"*": digits, "?": 1}
    return "".join(random_hex(parts[char]) if parts.get(char) else "" if char == "*" else char for char in pattern)
