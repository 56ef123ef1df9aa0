"""A name server, and `dig` to ask it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed import free_port, require_peer
from testbed.daemons import daemon

ADDRESS = "192.0.2.7"
LONG = "x" * 200
TEXTS = 12  # together more than a datagram of 1472 bytes holds


@contextmanager
def name_server(folder: Path) -> Iterator[int]:
    """Run dnsmasq on a port of loopback, over UDP and TCP; it knows www and long of example.test."""
    port = free_port()
    command = [require_peer("dnsmasq"), "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file", "--no-resolv"]
    command += ["--no-hosts", "--user=root", "--listen-address=127.0.0.1", "--bind-interfaces", f"--port={port}"]
    command += ["--edns-packet-max=4096", f"--address=/www.example.test/{ADDRESS}"]
    command += [f"--txt-record=long.example.test,{number}{LONG}" for number in range(TEXTS)]
    with daemon(command, folder, port):
        yield port


def dig(port: int, *question: str) -> list[str]:
    """Ask the name server at a port of loopback; returns the lines of its short answer."""
    command = [require_peer("dig"), "-p", str(port), "@127.0.0.1", "+short", "+tries=2", "+time=5", *question]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()
