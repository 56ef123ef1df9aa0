"""What may be a name or a port at all, and which ports are free."""

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from moongate.errors import NameInvalid, PortUnavailable

if TYPE_CHECKING:
    from moongate.config import PortRange

MIN_LABEL: Final = 3
MAX_LABEL: Final = 63  # RFC 1035 §2.3.4
MAX_NAME: Final = 253
# Names that a browser, a mail program or an operating system asks for by itself and then trusts, and our own.
RESERVED: Final = frozenset(
    {"admin", "api", "autoconfig", "autodiscover", "console", "dashboard", "ftp", "imap", "localhost", "mail"}
    | {"metrics", "moongate", "ns1", "ns2", "pop", "postmaster", "smtp", "webmail", "wpad", "www"}
)

_LABEL: Final = re.compile(r"[a-z0-9-]+")
_HOST_LABEL: Final = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
_SHOWN: Final = 80  # characters of a wrong name that are repeated to whoever asked


class Names:
    """The rules for a tunnel's name: one label under the node's domain, or a domain of its owner's."""

    def __init__(self, domain: str, node_names: Iterable[str], reserved: Iterable[str]) -> None:
        self.domain = domain.lower().strip(".")
        self._suffix = "." + self.domain
        self._node_names = frozenset(name.lower().rstrip(".") for name in node_names)
        self._reserved = frozenset(reserved)

    def is_custom(self, wanted: str) -> bool:
        """Whether a whole domain is wanted, not a label under the node's."""
        return "." in self.label(wanted) and not _normal(wanted).endswith(self._suffix)

    def is_label(self, name: str) -> bool:
        """Whether a host name is one label under the node's domain, whoever may have it."""
        label = name.removesuffix(self._suffix)
        return name.endswith(self._suffix) and bool(label) and "." not in label

    def subdomain(self, name: str) -> str | None:
        """Return the label of a tunnel's name; None for a domain of its owner's."""
        return self.label(name) if name.endswith(self._suffix) else None

    def check_domain(self, wanted: str) -> str:
        """Return the domain that is wanted, in lower case.

        Raises:
            NameInvalid: If no tunnel can have it.
        """
        name = _normal(wanted)
        shown = name[:_SHOWN]
        if name.startswith("*."):
            raise NameInvalid(f"domain {shown!r} is a wildcard", hint="publish each name by itself")
        if len(name) > MAX_NAME:
            raise NameInvalid(f"domain {shown!r} must be at most {MAX_NAME} characters long")
        labels = name.split(".")
        if not all(_HOST_LABEL.fullmatch(label) for label in labels):
            raise NameInvalid(
                f"domain {shown!r} is not labels of up to {MAX_LABEL} letters, digits, and hyphens with dots in between",
                hint="names in other scripts are given in their xn-- form",
            )
        if not any(letter.isalpha() for letter in labels[-1]):
            raise NameInvalid(f"domain {shown!r} is an address", hint="visitors of an address see the node itself")
        if name == self.domain or name in self._node_names:
            raise NameInvalid(f"domain {shown!r} is a name of the node", hint="choose another name")
        return name

    def full(self, label: str) -> str:
        """Return the host name of a label."""
        return label + self._suffix

    def label(self, name: str) -> str:
        """Return the label of a host name under the domain; a bare label is one already."""
        return _normal(name).removesuffix(self._suffix)

    def check(self, wanted: str) -> str:
        """Return the label that is wanted, given with or without the domain.

        Raises:
            NameInvalid: If no tunnel can have it.
        """
        label = self.label(wanted)
        shown = label[:_SHOWN]
        if not _LABEL.fullmatch(label):
            if "." in label:
                raise NameInvalid(f"name {shown!r} is not one label under '{self.domain}'")
            raise NameInvalid(f"subdomain {shown!r} may only contain letters, digits, and hyphens")
        if not MIN_LABEL <= len(label) <= MAX_LABEL:
            raise NameInvalid(f"subdomain '{shown}' must be {MIN_LABEL}–{MAX_LABEL} characters long")
        if label[0] == "-" or label[-1] == "-":
            raise NameInvalid(f"subdomain '{label}' must not start or end with a hyphen")
        if label in self._reserved or self.full(label) in self._node_names:
            raise NameInvalid(f"subdomain '{label}' is reserved", hint="choose another name")
        return label

    def allows(self, wanted: str) -> bool:
        """Whether a tunnel can have this name."""
        try:
            self.check(wanted)
        except NameInvalid:
            return False
        return True


class Ports:
    """The ports of the range that nobody has, of TCP or of UDP."""

    def __init__(self, ports: "PortRange") -> None:
        self._range = range(ports.low, ports.high + 1)
        # An ordered set: the last one in is the first one out.
        self._free: dict[int, None] = dict.fromkeys(self._range)

    def __contains__(self, port: int) -> bool:
        return port in self._range

    def __str__(self) -> str:
        return f"{self._range.start}-{self._range.stop - 1}"

    @property
    def free(self) -> frozenset[int]:
        """The ports that may be given."""
        return frozenset(self._free)

    def best(self, allows: Callable[[int], bool]) -> int | None:
        """Return the free port to give next: the last one given back, else the highest."""
        return next((port for port in reversed(self._free) if allows(port)), None)

    def take(self, port: int) -> None:
        """Make a port somebody's."""
        self._free.pop(port, None)

    def give(self, port: int) -> None:
        """Make a port nobody's; one that is out of the range by now is forgotten."""
        if port in self._range:
            self._free[port] = None

    def put_last(self, port: int) -> None:
        """Offer a free port only when there is no other."""
        if port in self._free:
            del self._free[port]
            self._free = {port: None, **self._free}


def lease_key(kind: str, name: str) -> str:
    """Return what a lease is kept under: one name may have a tunnel for HTTP and another for TLS."""
    return f"tls:{name}" if kind == "tls" else name


def _normal(name: str) -> str:
    return name.lower().removesuffix(".")


def port_name(carrier: str, port: int) -> str:
    """Return the name of a port's lease: each carrier has its own ports of the same numbers."""
    return str(port) if carrier == "tcp" else f"{carrier}:{port}"


def port_number(name: str) -> int:
    """Return the port that a lease of this name is on.

    Raises:
        ValueError: If it is the name of no port.
    """
    return int(name.rpartition(":")[2])


def port_of(wanted: str) -> int:
    """Read a wanted port.

    Raises:
        PortUnavailable: If it is not a number that a port can have.
    """
    if not (wanted.isascii() and wanted.isdecimal() and len(wanted) <= 5):  # 65535 has five digits
        raise PortUnavailable(f"port {wanted[:_SHOWN]!r} is not a number")
    return int(wanted)
