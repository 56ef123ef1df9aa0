"""What an agent publishes: from a public name or port to a local upstream."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

NOTHING: Final = "none"


@dataclass(frozen=True, slots=True)
class Upstream:
    """A local service; `scheme` is `tcp`, `udp`, `http`, `https`, `static`, or `none` when nobody is to be reached.

    A directory is served before the host is asked; `static` has nothing but a directory.
    """

    scheme: str
    host: str = ""
    port: int = 0
    directory: Path | None = None
    base: str = ""  # path in front of every request's own, without a final slash
    insecure: bool = False  # any certificate will do

    def __str__(self) -> str:
        if self.scheme == NOTHING:
            return "nothing"
        if self.directory is not None:
            return str(self.directory)
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.host and self.scheme + '://' if self.scheme != 'tcp' else ''}{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class OwnCertificate:
    """The files of a certificate that an agent brings for a name."""

    chain: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Route:
    """One tunnel that the agent asks for."""

    kind: str  # "http", "tls", "tcp" or "udp", as the node knows it
    upstream: Upstream
    label: str = ""
    subdomain: str | None = None
    port: int | None = None
    proxy_protocol: str = ""
    options: dict[str, Any] = field(default_factory=dict, hash=False)  # as in the protocol's claim
    certificate: OwnCertificate | None = None

    @property
    def wanted(self) -> str | None:
        return str(self.port) if self.port is not None else self.subdomain
