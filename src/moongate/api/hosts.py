"""Which Host header means the application; every other one is a public name, and sees tunnels only."""

import ipaddress
from collections.abc import Iterable


class ApplicationHosts:
    """The names of the application: IP addresses, localhost, the node's names and its bare domain.

    Whatever else a browser was led to believe our name is (DNS rebinding) is not one.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {"localhost", *(name.lower().rstrip(".") for name in names)}

    def __contains__(self, host: object) -> bool:
        return isinstance(host, str) and self._has(host)

    def _has(self, host: str) -> bool:
        name = without_port(host.strip().lower()).rstrip(".")
        return name in self._names or _is_address(name)


def without_port(host: str) -> str:
    """Return the name or address of a Host header, without brackets; "" when its bracket does not close."""
    if host.startswith("["):
        address, bracket, _ = host[1:].partition("]")
        return address if bracket else ""
    return host.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
