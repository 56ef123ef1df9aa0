"""What a person types for a local service: PORT, HOST:PORT or a URL."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from moongate.cli.outcome import UsageError

# `localhost` and not 127.0.0.1: many development servers listen on ::1 alone.
DEFAULT_HOST = "localhost"
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_.])?|[0-9A-Fa-f:.%]+")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_SCHEMES = {"http": ("http", "https"), "tls": ("tcp", "tls"), "tcp": ("tcp",), "udp": ("udp",)}


@dataclass(frozen=True, slots=True)
class Local:
    """A local service: how to speak to it and where it listens."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        prefix = "" if self.scheme == "tcp" else f"{self.scheme}://"
        return f"{prefix}{host}:{self.port}"


def parse_local(text: str, kind: str) -> Local:
    """Return where a tunnel of this kind leads.

    Raises:
        UsageError: If the text names no service that such a tunnel can lead to.
    """
    text = text.strip()
    if text.isdecimal():
        return Local(_own_scheme(kind), DEFAULT_HOST, _port(text, text))
    if "://" not in text:
        return _split(_own_scheme(kind), text, text)
    return _from_url(text, kind)


def _own_scheme(kind: str) -> str:
    return kind if kind in ("http", "udp") else "tcp"


def _from_url(text: str, kind: str) -> Local:
    scheme = text.partition("://")[0].lower()
    if scheme not in _SCHEMES[kind]:
        wanted = " or ".join(f"{name}://" for name in _SCHEMES[kind])
        raise UsageError(f"an upstream of {kind} cannot be '{text}'", hint=f"use PORT, HOST:PORT or {wanted}HOST:PORT")
    parts = urlsplit(text)
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise UsageError(
            f"'{text}' has more than a host and a port",
            hint="a tunnel forwards every path: give only SCHEME://HOST:PORT",
        )
    return _split(scheme if kind == "http" else _own_scheme(kind), parts.netloc, text)


def _split(scheme: str, authority: str, text: str) -> Local:
    host, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        if scheme not in _DEFAULT_PORTS or "://" not in text:
            raise UsageError(f"'{text}' names no port", hint="use PORT, HOST:PORT or a URL")
        host, port = authority, str(_DEFAULT_PORTS[scheme])
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not _HOST.fullmatch(host):
        raise UsageError(f"'{text}' names no host that can be dialed", hint="use PORT, HOST:PORT or a URL")
    return Local(scheme, host, _port(port, text))


def _port(digits: str, text: str) -> int:
    if not (digits.isascii() and digits.isdecimal() and 1 <= int(digits) <= 65535):
        raise UsageError(f"'{text}' has no port from 1 to 65535", hint="use PORT, HOST:PORT or a URL")
    return int(digits)
