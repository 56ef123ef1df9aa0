"""A second machine, as far as the network can tell: a network namespace with one link to us."""

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from testbed import require_peer

_SERIAL = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A namespace, its link, and the network between it and us."""

    name: str
    network: str
    """The first three numbers of its addresses: ours ends with .1, the neighbour's with .2 at first."""

    @property
    def our_address(self) -> str:
        return f"{self.network}.1"

    @property
    def inside(self) -> list[str]:
        """What to put before a command that is to run there."""
        return [require_peer("ip"), "netns", "exec", self.name]

    def unplug(self) -> None:
        _ip("-n", self.name, "link", "set", "uplink", "down")

    def plug_in(self, last: int = 2) -> None:
        """Take the link up with an address that ends with this number, and no other."""
        _ip("-n", self.name, "address", "flush", "dev", "uplink")
        _ip("-n", self.name, "address", "add", f"{self.network}.{last}/24", "dev", "uplink")
        _ip("-n", self.name, "link", "set", "uplink", "up")


def _ip(*arguments: str) -> None:
    subprocess.run([require_peer("ip"), *arguments], check=True, capture_output=True, text=True)


@contextmanager
def neighbour() -> Iterator[Neighbour]:
    """Make a namespace with a link to us; without the right to, the test is skipped, or fails in CI as root."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces are root's to make")
    # The kernel takes a namespace apart in its own time: the next one must not need the same names.
    serial = next(_SERIAL)
    there = Neighbour(f"moongate-{os.getpid()}-{serial}", f"10.213.{(os.getpid() + serial) % 200 + 20}")
    ours = f"mg{os.getpid()}-{serial}"
    _ip("netns", "add", there.name)
    try:
        _ip("link", "add", ours, "type", "veth", "peer", "name", "uplink", "netns", there.name)
        _ip("address", "add", f"{there.our_address}/24", "dev", ours)
        _ip("link", "set", ours, "up")
        _ip("-n", there.name, "link", "set", "lo", "up")
        there.plug_in()
        yield there
    finally:
        # The link goes with it, from both sides.
        _ip("netns", "delete", there.name)
