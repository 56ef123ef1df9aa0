"""What can be set, how a value is checked, and how all of it is explained."""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    SecretStr,
    WithJsonSchema,
    field_validator,
    model_validator,
)

Secret = SecretStr
ENV_PREFIX = "MOONGATE_"
MASK = "***"


@dataclass(frozen=True, slots=True)
class PortRange:
    """An inclusive range of ports."""

    low: int
    high: int

    @classmethod
    def parse(cls, value: object) -> "PortRange":
        """Read `20000-20999`, `20000`, or a pair of numbers.

        Raises:
            ValueError: If it is none of these, or no range of ports.
        """
        match value:
            case PortRange():
                return value
            case int() | str():
                low, _, high = str(value).partition("-")
                bounds = [low, high or low]
            case [int(first), int(last)]:
                bounds = [str(first), str(last)]
            case _:
                bounds = []
        if not bounds or not all(text.strip().isdecimal() and text.isascii() for text in bounds):
            raise ValueError("a port range reads like 20000-20999")
        first_port, last_port = (int(text) for text in bounds)
        if not 1 <= first_port <= last_port <= 65535:
            raise ValueError(f"ports go from 1 to 65535, the lower one first, not {first_port}-{last_port}")
        return cls(first_port, last_port)

    def __contains__(self, port: object) -> bool:
        return isinstance(port, int) and self.low <= port <= self.high

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.low, self.high + 1))

    def __len__(self) -> int:
        return self.high - self.low + 1

    def __str__(self) -> str:
        return f"{self.low}-{self.high}"


def split_address(text: str) -> tuple[str, int]:
    """Split `host:port` or `[v6]:port`; port 0 asks the system for a free one.

    Raises:
        ValueError: If it is no such address.
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not colon or not host or (":" in host and not bracketed):
        raise ValueError(f"an address reads like 127.0.0.1:7171 or [::1]:7171, not {text!r}")
    if not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ValueError(f"a port is a number from 0 to 65535, not {port!r}")
    return host, int(port)


def _checked_address(text: str) -> str:
    split_address(text)
    return text


def _checked_domain(text: str) -> str:
    """A host name in lower case; what a tunnel's label is put in front of (RFC 1123 §2.1)."""
    name = text.lower().rstrip(".")
    labels = name.split(".")
    if len(name) > 253 or not all(
        0 < len(label) <= 63 and label.isascii() and label.replace("-", "").isalnum() and label.strip("-") == label
        for label in labels
    ):
        raise ValueError(f"{text!r} is not a host name")
    return name


def _checked_directory(url: str) -> str:
    """The URL of an ACME directory: over TLS (RFC 8555 §6.1), on this machine also without."""
    parts = urlsplit(url)
    local = parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not parts.hostname or not (parts.scheme == "https" or local):
        raise ValueError("a directory reads like https://acme.example.org/directory")
    return url


def _split_commas(value: object) -> object:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _filled(secret: SecretStr) -> SecretStr:
    if not secret.get_secret_value().strip():
        raise ValueError("an empty secret would let everybody in; leave the key out to have one made")
    return secret


def default_home() -> Path:
    """Return the user's data directory for this program."""
    import platformdirs  # only needed when nobody says where

    return Path(platformdirs.user_data_dir("moongate", appauthor=False))


Address = Annotated[str, AfterValidator(_checked_address)]
Domain = Annotated[str, AfterValidator(_checked_domain)]
AcmeDirectory = Annotated[str, AfterValidator(_checked_directory)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(ge=0, le=86400 * 365, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
FilledSecret = Annotated[SecretStr, AfterValidator(_filled)]
Ports = Annotated[
    PortRange,
    PlainValidator(PortRange.parse),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]+(-[0-9]+)?$"}),
]


class Section(BaseModel):
    """Settings that belong together; unknown ones are errors, and none changes after it was read."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)


class Limits(Section):
    """What one tunnel, one address and one agent may use; 0 means no limit."""

    rate_limit_rps: Count = Field(0, description="HTTP requests per second of one tunnel (429 beyond).")
    ip_rate_limit_rps: Count = Field(0, description="Requests and new TCP connections per second of one address.")
    request_body_max_bytes: Count = Field(0, description="Largest request body (413 beyond).")
    max_connections_per_tunnel: Count = Field(10000, description="Visitors' connections of one tunnel at a time.")
    max_connections_per_address: Count = Field(0, description="Connections of one visitor's address at a time.")
    max_tunnels_per_session: Count = Field(0, description="Tunnels that one agent may open.")
    header_bytes: int = Field(65536, ge=1024, description="Largest head of a request or an answer.")
    header_timeout_s: Seconds = Field(30, description="Time in which a visitor must have sent the head of a request.")
    response_head_timeout_s: Seconds = Field(60, description="Time in which an upstream must begin its answer (504).")


class Capture(Section):
    """The recorded copies of HTTP exchanges, for looking at them and sending them again."""

    enabled: bool = Field(True, description="Whether requests and answers are recorded at all.")
    body_max_bytes: Count = Field(65536, description="How much of one body is kept; the rest is cut and marked so.")
    total_bytes: Count = Field(32 * 1024 * 1024, description="Bodies in memory, all tunnels together; oldest go first.")
    ring: int = Field(500, ge=1, description="Exchanges kept per tunnel.")


class Acme(Section):
    """Certificates from an authority that speaks ACME (RFC 8555), for the node's name and for tunnels that want one."""

    directory: AcmeDirectory | None = Field(
        None,
        description="URL of the authority's directory; naming one agrees to its terms of service. Not set: no ACME.",
    )
    email: str | None = Field(None, description="Where the authority writes to when something is wrong.")
    ca_file: Path | None = Field(
        None, description="PEM certificates that `directory` is trusted by; by default the system's."
    )
    own_name: bool = Field(False, description="Whether `domain` and `node_names` get certificates too.")
    challenge: Literal["http-01", "tls-alpn-01", "both"] = Field(
        "both", description="How a name is proven: on port 80, on port 443, or on 443 and, if that fails, on 80."
    )

    @field_validator("ca_file")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()

    @field_validator("email")
    @classmethod
    def _one_address(cls, email: str | None) -> str | None:
        if email is not None and not re.fullmatch(r"[^\s,@]+@[^\s,@]+", email):
            raise ValueError(f"{email!r} is not an e-mail address")
        return email


class AgentApi(Section):
    """The local API of `moongate agent start`; the node has nothing to do with it."""

    port: Port = Field(4100, description="Port on 127.0.0.1 of the local API of `moongate agent start`.")
    token: FilledSecret | None = Field(
        None, description="Bearer token asked of every request to that API; by default none is."
    )
    hosts: Annotated[tuple[Domain, ...], BeforeValidator(_split_commas)] = Field(
        (), description="Host names, besides loopback's, under which that API is called."
    )
    origins: Annotated[tuple[str, ...], BeforeValidator(_split_commas)] = Field(
        (), description="Origins whose pages may call that API."
    )


class Reconnect(Section):
    """How `moongate agent start` keeps its session."""

    max_attempts: Count = Field(
        0, description="Attempts in a row to reach the node before `moongate agent start` gives up; 0 is no limit."
    )


class Config(Section):
    """Everything that one node, or an agent that stays, is told."""

    home: Path = Field(
        default_factory=default_home,
        description="State directory; by default the user's data directory for `moongate`.",
    )
    listen: Address = Field("127.0.0.1:7171", description="Address of everything that starts as HTTP or TLS.")
    dashboard_port: Port = Field(
        4041, description="Second port of the same application, on the host of `listen`; 0 is off."
    )
    tcp_listen: Address = Field("127.0.0.1:8181", description="Accepted, not used yet: raw TCP that carries its token.")
    ssh_listen: Address = Field("127.0.0.1:2222", description="Accepted, not used yet: the SSH bastion.")
    tcp_ports: Ports = Field(
        PortRange(20000, 20999), description="Ports for TCP tunnels, and for UDP tunnels, both ends included."
    )
    domain: Domain = Field("localhost", description="Public names are labels in front of this domain.")
    node_names: Annotated[tuple[Domain, ...], BeforeValidator(_split_commas)] = Field(
        (), description="Host names, besides addresses and `localhost`, that reach the application itself."
    )
    tls_cert: Path | None = Field(
        None, description="PEM chain for public names; by default the node's own authority issues."
    )
    tls_key: Path | None = Field(None, description="PEM key of `tls_cert`.")
    plain_http: bool = Field(False, description="Serve plain HTTP on addresses other than loopback too.")
    trusted_proxies: Annotated[tuple[IPvAnyNetwork, ...], BeforeValidator(_split_commas)] = Field(
        (), description="Networks whose PROXY protocol and forwarding headers are believed."
    )
    admin_token: FilledSecret | None = Field(None, description="By default made at the first start, in `admin-token`.")
    database_url: str | None = Field(
        None, repr=False, description="`sqlite:///PATH` or `postgresql://…`; by default `moongate.db` in `home`."
    )
    metrics_token: FilledSecret | None = Field(
        None, description="Bearer token for `/metrics`, besides the admin token."
    )
    dashboard_origin: str = Field("http://localhost:3000", description="Origin of a dashboard that may call the API.")
    lease_hold_s: Seconds = Field(60, description="How long a name is kept for an agent that is gone.")
    drain_s: Seconds = Field(30, description="How long a stopping node waits for what is under way.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severity that is logged."
    )
    log_format: Literal["console", "json"] = Field("console", description="Logs for people, or one JSON object a line.")
    limits: Limits = Limits()
    capture: Capture = Capture()
    agent_api: AgentApi = AgentApi()
    reconnect: Reconnect = Reconnect()
    acme: Acme = Acme()

    # How the values came about; filled in by the loader.
    _sources: Mapping[str, str] = PrivateAttr(default_factory=dict)
    _foreign: Mapping[str, Any] = PrivateAttr(default_factory=dict)
    _warnings: tuple[str, ...] = PrivateAttr(default=())

    @field_validator("home", "tls_cert", "tls_key")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()

    @field_validator("log_level", mode="before")
    @classmethod
    def _known_level(cls, value: object) -> object:
        level = value.lower() if isinstance(value, str) else value
        return {"trace": "debug", "warn": "warning"}.get(str(level), level)

    @field_validator("database_url")
    @classmethod
    def _with_driver(cls, url: str | None) -> str | None:
        if url is None:
            return None
        scheme, separator, rest = url.partition("://")
        drivers = {"sqlite": "sqlite+aiosqlite", "postgres": "postgresql+asyncpg", "postgresql": "postgresql+asyncpg"}
        driver = drivers.get(scheme, scheme)
        if not separator or driver not in drivers.values():
            raise ValueError("a database is sqlite:///PATH or postgresql://USER@HOST/NAME")
        return f"{driver}://{rest}"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together; only one of them is set")
        if self.dashboard_port and self.dashboard_port == self.listen_address[1]:
            raise ValueError(f"dashboard_port and listen cannot both use port {self.dashboard_port}")
        if self.acme.own_name and self.acme.directory is None:
            raise ValueError("acme.own_name needs an authority to get certificates from; set acme.directory")
        return self

    @property
    def listen_address(self) -> tuple[str, int]:
        """Host and port of `listen`."""
        return split_address(self.listen)

    @property
    def listens_on_loopback(self) -> bool:
        """Whether nobody outside this machine can reach `listen`."""
        host = self.listen_address[0]
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the sources held that this node does not use."""
        return self._warnings

    @property
    def foreign(self) -> Mapping[str, Any]:
        """Keys of another family's file that this node keeps but does not use."""
        return self._foreign

    def explain(self) -> "list[Setting]":
        """List every setting with its value, where that came from and what it is for; secrets are masked."""
        return [
            Setting(key, variable_of(key), _shown(key, value), self._sources.get(key, "default"), description)
            for key, value, description in walk(self)
        ]

    def with_origins(self, sources: Mapping[str, str], foreign: Mapping[str, Any], warnings: tuple[str, ...]) -> Self:
        """Return the same settings, knowing where each came from."""
        self._sources, self._foreign, self._warnings = sources, foreign, warnings
        return self

    @classmethod
    def schema_document(cls) -> dict[str, Any]:
        """Return the JSON schema of `moongate.toml`."""
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **cls.model_json_schema()}


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of an explanation."""

    key: str
    variable: str
    value: str
    source: str
    description: str


def variable_of(key: str) -> str:
    """Return the environment twin of a key: `limits.rate_limit_rps` is `MOONGATE_LIMITS_RATE_LIMIT_RPS`."""
    return ENV_PREFIX + key.replace(".", "_").upper()


def walk(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield each setting's dotted key, value and description."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from walk(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value, field.description or ""


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from _keys(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


KEYS = frozenset(_keys(Config))
SECTIONS = frozenset(key.partition(".")[0] for key in KEYS if "." in key)


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return without_password(value) if key == "database_url" else str(value)


def without_password(url: str) -> str:
    """Return a URL whose password is masked."""
    scheme, separator, rest = url.partition("://")
    userinfo, at, place = rest.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    return f"{scheme}{separator}{user}{colon}{MASK}{at}{place}" if colon else url


def differences(old: Config, new: Config) -> frozenset[str]:
    """Return the keys whose values differ, for a reload."""
    before = {key: value for key, value, _ in walk(old)}
    return frozenset(key for key, value, _ in walk(new) if before[key] != value)
