"""What an agent publishes: from a public name or port to a local upstream."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Upstream:
    """A local service; `scheme` is `tcp`, `http`, `https` or `static`, the last with a directory."""

    scheme: str
    host: str = ""
    port: int = 0
    directory: Path | None = None

    def __str__(self) -> str:
        if self.directory is not None:
            return str(self.directory)
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.host and self.scheme + '://' if self.scheme != 'tcp' else ''}{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Route:
    """One tunnel that the agent asks for."""

    kind: str  # "http", "tls" or "tcp", as the node knows it
    upstream: Upstream
    label: str = ""
    subdomain: str | None = None
    port: int | None = None
    proxy_protocol: str = ""
    options: dict[str, Any] = field(default_factory=dict, hash=False)  # as in the protocol's claim

    @property
    def wanted(self) -> str | None:
        return str(self.port) if self.port is not None else self.subdomain
