"""Addresses: how they are written and read, who a peer is, and where a node is."""

import re
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from urllib.parse import urlsplit

from moongate.errors import ConfigurationError

DEFAULT_PORT = 7171
ADDRESS_HINT = "give a join string (moongate://…), https://HOST[:PORT], http://127.0.0.1:PORT, or @FILE"
FINGERPRINT = re.compile(r"[0-9a-f]{64}\Z")

OWN_AUTHORITY_ALPN = "moongate-own-ca"
"""Offered by agents whose join string pins a node's own authority: they are shown its leaf even when PEM files are
given. It is never chosen; the application protocol stays http/1.1."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of an accepted connection, and how it came in."""

    address: str
    port: int
    local_address: str
    local_port: int
    tls: bool = False
    server_name: str | None = None
    alpn: str | None = None
    via: str | None = None
    """The address of the trusted proxy that named the peer, when one did."""

    @property
    def text(self) -> str:
        """The address as people write it: `ip:port`, with brackets around IPv6."""
        return host_port(self.address, self.port)

    @property
    def is_loopback(self) -> bool:
        """Whether the peer is on this machine; never so when a proxy spoke for it."""
        return self.via is None and is_loopback(self.address)

    @property
    def came_to_loopback(self) -> bool:
        """Whether the connection was accepted on a loopback address."""
        return is_loopback(self.local_address)


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """Where a node is, how it proves itself, and the token to show it."""

    host: str
    port: int
    tls: bool = True
    token: str | None = field(default=None, repr=False)
    fingerprint: str | None = None

    def __str__(self) -> str:
        return host_port(self.host, self.port)

    @classmethod
    def parse(cls, text: str) -> "NodeAddress":
        """Read a join string, an `https://` or loopback `http://` URL, or `@FILE` with one of them inside.

        Raises:
            ConfigurationError: If it is none of these; the message never holds the token.
        """
        text = text.strip()
        if text.startswith("@"):
            return cls.parse(_read(Path(text[1:]).expanduser()))
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError:
            # urlsplit's own words would repeat the text, and with it the token.
            raise ConfigurationError("the server's address is not a URL", hint=ADDRESS_HINT) from None
        if parts.scheme not in ("moongate", "https", "http") or not host or port == 0:
            raise ConfigurationError("the server's address is not one that an agent can dial", hint=ADDRESS_HINT)
        if "@" in parts.netloc or parts.query or parts.path not in ("", "/"):
            raise ConfigurationError(f"the address of {host} has parts that mean nothing here", hint=ADDRESS_HINT)
        if parts.scheme == "moongate":
            token, fingerprint = _split_secret(parts.fragment)
            return cls(host, port or DEFAULT_PORT, True, token, fingerprint)
        if parts.fragment:
            raise ConfigurationError("only a moongate:// address carries a token", hint=ADDRESS_HINT)
        if parts.scheme == "http" and not is_loopback(host):
            raise ConfigurationError(
                f"http:// is for loopback only; {host} is another machine",
                hint="use https://, or the node's join string",
            )
        return cls(host, port or (443 if parts.scheme == "https" else 80), parts.scheme == "https")


def make_join(host: str, port: int, token: str, fingerprint: str | None) -> str:
    """Write the join string of a node; without a fingerprint the system's trust store must know its certificate."""
    secret = f"{token}.{fingerprint}" if fingerprint else token
    return f"moongate://{host_port(host, port)}/#{secret}"


def host_port(host: str, port: int) -> str:
    """Write a host and a port as people do, with brackets around IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_ip(text: str) -> IPv4Address | IPv6Address | None:
    """Read an IP address, without its zone if it has one; None if it is none."""
    with suppress(ValueError):
        return ip_address(text.partition("%")[0])
    return None


def plain(address: str) -> str:
    """Write an IPv4 address that came in on an IPv6 socket (RFC 4291 §2.5.5.2) as IPv4."""
    return address[7:] if address.startswith("::ffff:") and "." in address else address


def is_loopback(host: str) -> bool:
    """Whether a host is this machine and nothing else."""
    parsed = parse_ip(host)
    return parsed.is_loopback if parsed is not None else host.rstrip(".").lower() == "localhost"


def _split_secret(fragment: str) -> tuple[str | None, str | None]:
    token, dot, last = fragment.rpartition(".")
    if dot and FINGERPRINT.match(last.lower()):
        return token or None, last.lower()
    return fragment or None, None


def _read(path: Path) -> str:
    try:
        words = path.read_text(encoding="utf-8").split()
    except OSError as failure:
        raise ConfigurationError(
            f"cannot read the server's address from {path}: {failure.strerror}", hint=ADDRESS_HINT
        ) from failure
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not text", hint=ADDRESS_HINT) from None
    if len(words) != 1 or words[0].startswith("@"):
        raise ConfigurationError(f"{path} must hold one server address and nothing else", hint=ADDRESS_HINT)
    return words[0]
