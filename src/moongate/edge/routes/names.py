"""What may be a name or a port at all, and which ports are free."""

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from moongate.errors import NameInvalid, PortUnavailable

if TYPE_CHECKING:
    from moongate.config import PortRange

MIN_LABEL: Final = 3
MAX_LABEL: Final = 63  # RFC 1035 §2.3.4
# Names that a browser, a mail program or an operating system asks for by itself and then trusts, and our own.
RESERVED: Final = frozenset(
    {"admin", "api", "autoconfig", "autodiscover", "console", "dashboard", "ftp", "imap", "localhost", "mail"}
    | {"metrics", "moongate", "ns1", "ns2", "pop", "postmaster", "smtp", "webmail", "wpad", "www"}
)

_LABEL: Final = re.compile(r"[a-z0-9-]+")
_SHOWN: Final = 80  # characters of a wrong name that are repeated to whoever asked


class Names:
    """The rules for one label under the node's domain."""

    def __init__(self, domain: str, node_names: Iterable[str], reserved: Iterable[str]) -> None:
        self.domain = domain.lower().strip(".")
        self._suffix = "." + self.domain
        self._node_names = frozenset(name.lower().rstrip(".") for name in node_names)
        self._reserved = frozenset(reserved)

    def full(self, label: str) -> str:
        """Return the host name of a label."""
        return label + self._suffix

    def label(self, name: str) -> str:
        """Return the label of a host name under the domain; a bare label is one already."""
        return name.lower().removesuffix(".").removesuffix(self._suffix)

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
    """The TCP ports of the range that nobody has."""

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


def port_of(wanted: str) -> int:
    """Read a wanted port.

    Raises:
        PortUnavailable: If it is not a number that a port can have.
    """
    if not (wanted.isascii() and wanted.isdecimal() and len(wanted) <= 5):  # 65535 has five digits
        raise PortUnavailable(f"port {wanted[:_SHOWN]!r} is not a number")
    return int(wanted)
