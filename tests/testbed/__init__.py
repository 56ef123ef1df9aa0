"""What tests share: real peers of the system, free ports, waiting for a thing."""

import asyncio
import os
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["PEERS", "Peer", "find_peer", "free_port", "require_peer", "until", "until_async"]


@dataclass(frozen=True, slots=True)
class Peer:
    """A program of the system that tests talk to, and Debian's package with it."""

    package: str
    programs: tuple[str, ...]


PEERS = {
    "chromium": Peer("chromium", ("chromium", "chromium-browser", "google-chrome")),
    "curl": Peer("curl", ("curl",)),
    "dig": Peer("bind9-dnsutils", ("dig",)),
    "dnsmasq": Peer("dnsmasq-base", ("dnsmasq",)),
    "git": Peer("git", ("git",)),
    "git-http-backend": Peer("git", ("/usr/lib/git-core/git-http-backend", "/usr/libexec/git-core/git-http-backend")),
    "haproxy": Peer("haproxy", ("haproxy",)),
    "initdb": Peer("postgresql", ("initdb", "/usr/lib/postgresql/*/bin/initdb")),
    "ip": Peer("iproute2", ("ip",)),
    "nginx": Peer("nginx", ("nginx",)),
    "openssl": Peer("openssl", ("openssl",)),
    "pebble": Peer("pebble", ("pebble",)),
    "pebble-challtestsrv": Peer("pebble", ("pebble-challtestsrv",)),
    "postgres": Peer("postgresql", ("postgres", "/usr/lib/postgresql/*/bin/postgres")),
    "ps": Peer("procps", ("ps",)),
    "psql": Peer("postgresql", ("psql",)),
    "scp": Peer("openssh-client", ("scp",)),
    "ssh": Peer("openssh-client", ("ssh",)),
    "ssh-keygen": Peer("openssh-client", ("ssh-keygen",)),
    "sshd": Peer("openssh-server", ("sshd",)),
    "strace": Peer("strace", ("strace",)),
    "systemctl": Peer("systemd", ("systemctl",)),
    "systemd-analyze": Peer("systemd", ("systemd-analyze",)),
}
# Servers live where an ordinary user's PATH does not look.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def find_peer(name: str) -> str | None:
    """Return the path of a peer's program, or None where it is not installed."""
    for program in PEERS[name].programs:
        if program.startswith("/"):
            found = sorted(Path("/").glob(program[1:]))
            if found:
                return str(found[-1])
        elif (path := shutil.which(program, path=SEARCH_PATH)) is not None:
            return path
    return None


def require_peer(name: str) -> str:
    """Return the path of a peer's program; without it the test is skipped, or fails in CI."""
    path = find_peer(name)
    if path is not None:
        return path
    reason = f"{name} is not here; Debian has it in the package {PEERS[name].package}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port nobody listens on at this moment."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def until(true: Callable[[], object], *, timeout_s: float = 10.0, what: str = "") -> None:
    """Wait for a thing, never for a while."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s:g} s: {what or true}")
        time.sleep(0.01)


async def until_async(true: Callable[[], object], *, timeout_s: float = 10.0, what: str = "") -> None:
    """Wait for a thing without holding up the loop."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s:g} s: {what or true}")
        await asyncio.sleep(0.005)
