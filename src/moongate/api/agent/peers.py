"""Which user of this machine is at the other end of a loopback connection, where the system tells."""

import ipaddress
import os
import sys
from pathlib import Path

TABLES = {4: Path("/proc/net/tcp"), 6: Path("/proc/net/tcp6")}
Address = tuple[str, int]


def is_own_user(client: Address, server: Address) -> bool:
    """Tell whether the connection's other end belongs to the user of this process; False where nobody can tell."""
    return uid_at(client, server) == os.getuid() if hasattr(os, "getuid") else False


def uid_at(client: Address, server: Address) -> int | None:
    """Return the user that owns the client's socket, None when the system does not tell. Reads files."""
    for family, table in TABLES.items():
        try:
            text = table.read_text(encoding="ascii")
        except OSError:
            continue
        uid = find_uid(text, _entry(client, family), _entry(server, family))
        if uid is not None:
            return uid
    return None


def find_uid(table: str, local: str, remote: str) -> int | None:
    """Return the user of the socket with these two ends in a table as Linux writes it (proc_pid_net(5))."""
    for line in table.splitlines()[1:]:
        columns = line.split()
        if len(columns) > 7 and columns[1] == local and columns[2] == remote:
            return int(columns[7])
    return None


def _entry(address: Address, family: int) -> str:
    """Write an address as the table does: words of 32 bits in the order of the machine's bytes, all hexadecimal."""
    ip = ipaddress.ip_address(address[0])
    packed = ip.packed
    if family == 6 and ip.version == 4:
        # A program that only has IPv6 sockets reaches 127.0.0.1 from a mapped address (RFC 4291 §2.5.5.2).
        packed = bytes(10) + b"\xff\xff" + packed
    step = -1 if sys.byteorder == "little" else 1
    words = (packed[start : start + 4][::step] for start in range(0, len(packed), 4))
    return f"{b''.join(words).hex().upper()}:{address[1]:04X}"
