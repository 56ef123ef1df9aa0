"""A certificate authority that speaks ACME: Debian's pebble, and pebble-challtestsrv as the DNS that it asks."""

import json
import os
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import httpx

from testbed import free_port, require_peer
from testbed.daemons import daemon
from testbed.pem import write_pair

__all__ = ["Pebble", "pebble"]


@dataclass(frozen=True, slots=True)
class Pebble:
    """A running authority, and the DNS that it believes."""

    directory: str
    ca_file: Path
    _management: int
    _dns_management: int

    @property
    def context(self) -> ssl.SSLContext:
        """Trust in what it issues."""
        return ssl.create_default_context(cadata=self.root.decode())

    @property
    def root(self) -> bytes:
        """Its root certificate, another one after each start."""
        trust = ssl.create_default_context(cafile=str(self.ca_file))
        url = f"https://localhost:{self._management}/roots/0"
        return httpx.get(url, verify=trust, trust_env=False).raise_for_status().content

    def point(self, name: str, *addresses: str) -> None:
        """Make a name lead to these addresses instead of to this machine; none at all makes it lead nowhere."""
        self._tell("add-a", {"host": f"{name}.", "addresses": list(addresses)})

    def point_back(self, name: str) -> None:
        """Make a name lead to this machine again."""
        self._tell("clear-a", {"host": f"{name}."})

    def _tell(self, command: str, what: dict[str, object]) -> None:
        url = f"http://127.0.0.1:{self._dns_management}/{command}"
        httpx.post(url, json=what, trust_env=False).raise_for_status()


@contextmanager
def pebble(
    folder: Path, *, visits: int, by_tls: int | None = None, lifetime_s: int = 3600, listen: int | None = None
) -> Iterator[Pebble]:
    """Run an authority that comes to this port of this machine for either proof, or to another one by TLS."""
    program, resolver = require_peer("pebble"), require_peer("pebble-challtestsrv")
    port, management, dns, dns_management = listen or free_port(), free_port(), free_port(), free_port()
    folder.mkdir(parents=True, exist_ok=True)
    # Debian's package brings no certificate for the directory itself.
    ca_file, key_file = write_pair(folder / "own", "localhost")
    settings = {
        "listenAddress": f"127.0.0.1:{port}",
        "managementListenAddress": f"127.0.0.1:{management}",
        "certificate": str(ca_file),
        "privateKey": str(key_file),
        "httpPort": visits,
        "tlsPort": by_tls or visits,
        "externalAccountBindingRequired": False,
        "certificateValidityPeriod": lifetime_s,
    }
    (folder / "config.json").write_text(json.dumps({"pebble": settings}), encoding="utf-8")
    answers = [resolver, "-dns01", f"127.0.0.1:{dns}", "-management", f"127.0.0.1:{dns_management}"]
    answers += ["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""]
    serve = [program, "-config", str(folder / "config.json"), "-dnsserver", f"127.0.0.1:{dns}", "-strict"]
    with ExitStack() as stack:
        (folder / "dns").mkdir(exist_ok=True)
        stack.enter_context(daemon(answers, folder / "dns", dns_management))
        # Without random waits of up to 15 s; the random refusals of nonces stay, as a real authority has them.
        with mock.patch.dict(os.environ, {"PEBBLE_VA_NOSLEEP": "1"}):
            stack.enter_context(daemon(serve, folder, port))
        yield Pebble(f"https://localhost:{port}/dir", ca_file, management, dns_management)
