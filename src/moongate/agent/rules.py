"""What an agent publishes and keeps: sites, ports and port maps, as the agent's API spells them.

Reading and checking one rule; which rules there are is agent.rulebook's business.
"""

import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, TypeVar, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moongate.errors import RuleInvalid
from moongate.identity.passwords import PASSWORD_MAX, is_password_hash

Kind = Literal["https", "ports", "portmaps"]
Members = Mapping[str, Any]
KINDS: Final[tuple[Kind, ...]] = ("https", "ports", "portmaps")

MASK: Final = "***"
MAX_FIREWALL: Final = 500
MAX_TEXT: Final = 2_048
MAX_PORT: Final = 65_535

NO_DESTINATION: Final = "no destination"

_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}")
_FNV_OFFSET: Final = 0xCBF29CE484222325
_FNV_PRIME: Final = 0x100000001B3


def flow_id(name: str) -> int:
    """Return the FNV-1a 64 of a rule's name, `http:<domain>` or `port:<number>`: stable for ever."""
    value = _FNV_OFFSET
    for byte in name.encode():
        value = ((value ^ byte) * _FNV_PRIME) & 0xFFFF_FFFF_FFFF_FFFF
    return value


class _Rule(BaseModel):
    """One rule; members that are not known are kept as they came."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, populate_by_name=True, hide_input_in_errors=True)

    # Members that are written also when they hold nothing.
    always: ClassVar[frozenset[str]] = frozenset()

    def members(self) -> dict[str, Any]:
        """Return the rule as the API shows it; what holds nothing is left out."""
        shown = self.model_dump(by_alias=True, exclude_defaults=True)
        if "firewall" in shown:
            shown["firewall"] = [rule.members() for rule in cast(Site | PortRule, self).firewall]
        return {**{spelled: getattr(self, name) for spelled, name in self._always().items()}, **shown}

    @classmethod
    def _always(cls) -> dict[str, str]:
        return {(one.alias or name): name for name, one in cls.model_fields.items() if name in cls.always}

    def masked(self) -> dict[str, Any]:
        """Return the rule without its secrets."""
        return self.members()


class FwRule(_Rule):
    """One line of a firewall."""

    always: ClassVar[frozenset[str]] = frozenset({"sequence", "action", "network"})

    sequence: int = Field(0, ge=0, le=2**31)
    action: str = ""
    network: str = ""


class PageOptions(_Rule):
    """How a password page looks."""

    title: str = ""
    logo_url: str = Field("", alias="logoURL")
    site_url: str = Field("", alias="siteURL")


class Site(_Rule):
    """An HTTP site, by its domain."""

    kind: ClassVar[Kind] = "https"
    always: ClassVar[frozenset[str]] = frozenset({"domain"})

    domain: str = ""
    secure: bool = False
    destination: str = ""
    port: int = 0
    tls: int = 0
    upstream_url: str = Field("", alias="upstreamURL")
    web_root: str = Field("", alias="webRoot")
    use_lets_enc: bool = Field(False, alias="useLetsEnc")
    ca: str = ""
    private_key: str = Field("", alias="privateKey")
    firewall: tuple[FwRule, ...] = ()
    redirect: bool = False
    password: str = Field("", repr=False)
    requires_2fa: bool = Field(False, alias="requires2FA")
    basic_http_auth: str = Field("", alias="basicHttpAuth", repr=False)
    redirect_url: str = Field("", alias="redirectURL")
    rewrite_host: str = Field("", alias="rewriteHost")
    insecure_upstream: bool = Field(False, alias="insecureUpstream")
    auth_page_opts: PageOptions | None = Field(None, alias="authPageOpts")

    @property
    def key(self) -> str:
        return self.domain

    @property
    def flow(self) -> int:
        return flow_id(f"http:{self.domain}")

    @property
    def serves_http(self) -> bool:
        """Whether anything is there for a plain or terminated request: a tunnel of kind http is needed."""
        return bool(self.destination or self.upstream_url or self.web_root or self.redirect_url or self.redirect)

    @property
    def upstream(self) -> tuple[str, str, int, str] | None:
        """Scheme, host, port and base path of the program behind the site."""
        if self.upstream_url:
            return split_upstream(self.upstream_url)
        return ("http", self.destination, self.port, "") if self.destination else None

    @property
    def tls_host(self) -> str:
        """Where the program listens that speaks TLS itself: with the other one, or here."""
        upstream = self.upstream
        return upstream[1] if upstream is not None else "127.0.0.1"

    def masked(self) -> dict[str, Any]:
        shown = self.members()
        return shown | {name: MASK for name in SITE_SECRETS if shown.get(name)}


class PortRule(_Rule):
    """A port of the node that is ours, and where it leads."""

    kind: ClassVar[Kind] = "ports"
    always: ClassVar[frozenset[str]] = frozenset({"port", "destination", "dst_port"})

    port: int = 0
    destination: str = ""
    dst_port: int = Field(0, alias="dstPort")
    firewall: tuple[FwRule, ...] = ()
    label: str = ""
    transport: str = "tcp"
    proxy_protocol: str = Field("", alias="proxyProtocol")

    @property
    def key(self) -> str:
        return port_key(self.port, self.transport)

    @property
    def flow(self) -> int:
        return flow_id(f"port:{self.key}")

    def emptied(self) -> "PortRule":
        """Return the allocation without its forwarding."""
        return PortRule(port=self.port, transport=self.transport)


class PortMap(_Rule):
    """A local port that leads to a service elsewhere; without a destination, to a port of the node."""

    kind: ClassVar[Kind] = "portmaps"
    always: ClassVar[frozenset[str]] = frozenset({"port", "dst_port", "destination", "transport"})

    port: int = 0
    dst_port: int = Field(0, alias="dstPort")
    destination: str = ""
    transport: str = "tcp"
    label: str = ""
    http: bool = False

    @property
    def key(self) -> str:
        return str(self.port)

    def members(self) -> dict[str, Any]:
        # Two families of programs spell this one differently.
        return super().members() | {"listenPort": self.port}


Rule = Site | PortRule | PortMap
R = TypeVar("R", Site, PortRule, PortMap)
SITE_SECRETS: Final = ("password", "basicHttpAuth")


def port_key(port: int, transport: str = "tcp") -> str:
    """Return the key of a port; one number may be ours for TCP and for UDP."""
    return str(port) if transport == "tcp" else f"{port}/{transport}"


# -- reading and checking one rule


def read_site(members: Members, forbidden: Path | None = None) -> Site:
    """Read a site; `forbidden` is a directory that no web root may hold.

    Raises:
        RuleInvalid: If the node or this agent could not do what it says.
    """
    site = _read(Site, members)
    _check_texts(site)
    site = site.model_copy(update={"domain": read_domain(site.domain), "firewall": _firewall(site.firewall)})
    if site.requires_2fa:
        raise RuleInvalid("requires2FA is not supported: this agent would leave the site without its second factor")
    _check_upstream(site)
    _check_encryption(site)
    _check_links(site)
    if site.web_root:
        check_web_root(site.web_root, forbidden)
    return site


def read_port(members: Members) -> PortRule:
    """Read a port.

    Raises:
        RuleInvalid: If there can be no such port, or it leads nowhere that can be dialed.
    """
    port = _read(PortRule, members)
    _check_texts(port)
    _check_port("port", port.port)
    _check_transport(port.transport)
    if port.destination:
        _check_host("destination", port.destination)
        if not port.dst_port:
            raise RuleInvalid("dstPort is required with destination")
        _check_port("dstPort", port.dst_port)
    elif port.dst_port:
        raise RuleInvalid("destination is required with dstPort")
    if port.proxy_protocol not in ("", "v1", "v2"):
        raise RuleInvalid(f"proxyProtocol must be v1 or v2, not {port.proxy_protocol!r}")
    return port.model_copy(update={"firewall": _firewall(port.firewall)})


def read_portmap(members: Members) -> PortMap:
    """Read a port map, whose local port is called `port` or `listenPort`.

    Raises:
        RuleInvalid: If there can be no such listener, or it leads nowhere.
    """
    listen, port = members.get("listenPort"), members.get("port")
    if listen and port and listen != port:
        raise RuleInvalid(f"port and listenPort differ: {port} and {listen}")
    given = {name: value for name, value in members.items() if name != "listenPort"}
    portmap = _read(PortMap, given | {"port": port or listen or 0})
    _check_texts(portmap)
    _check_port("port", portmap.port)
    _check_port("dstPort", portmap.dst_port)
    _check_transport(portmap.transport)
    if portmap.destination:
        _check_host("destination", portmap.destination)
    return portmap


_WORDS: Final = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "bool_type": "must be true or false",
    "string_type": "must be a text",
    "tuple_type": "must be an array",
    "list_type": "must be an array",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "greater_than_equal": "is too small",
    "less_than_equal": "is too large",
}


def _read(model: type[R], members: Members) -> R:
    # A member without a value is as good as none: that is how other programs write an empty one.
    given = {name: value for name, value in members.items() if value is not None and name != "kind"}
    firewall = given.get("firewall")
    if isinstance(firewall, list):
        given["firewall"] = tuple(firewall)
    try:
        return model.model_validate(given)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
        raise RuleInvalid(f"{place} {_WORDS.get(problem['type'], problem['msg'].lower())}") from None


def _check_texts(rule: Rule) -> None:
    for name, value in rule:
        if not isinstance(value, str):
            continue
        if len(value) > MAX_TEXT:
            raise RuleInvalid(f"{_spelled(rule, name)} has more than {MAX_TEXT} characters")
        if any(ord(character) < 32 or ord(character) == 127 for character in value):
            raise RuleInvalid(f"{_spelled(rule, name)} has control characters")


def _spelled(rule: Rule, name: str) -> str:
    known = type(rule).model_fields.get(name)
    return (known.alias if known is not None else None) or name


def read_domain(text: str) -> str:
    """Return a host name as it is kept; raises RuleInvalid if it is none."""
    domain = text.lower().rstrip(".")
    if not domain:
        raise RuleInvalid("domain is required")
    if len(domain) > 253 or not all(_LABEL.fullmatch(label) for label in domain.split(".")):
        raise RuleInvalid(f"invalid domain: {text}")
    return domain


def _check_upstream(site: Site) -> None:
    if site.upstream_url and (site.destination or site.port):
        raise RuleInvalid("destination and upstreamURL cannot both be set")
    if site.destination:
        _check_host("destination", site.destination)
        if not site.port:
            raise RuleInvalid("port is required with destination")
        _check_port("port", site.port)
    elif site.port:
        raise RuleInvalid("destination is required with port")
    if site.upstream_url:
        split_upstream(site.upstream_url)
    if site.tls:
        _check_port("tls", site.tls)
    if not (site.destination or site.upstream_url or site.web_root or site.redirect_url or site.tls):
        raise RuleInvalid(NO_DESTINATION)


def _check_encryption(site: Site) -> None:
    if site.redirect and not site.secure:
        raise RuleInvalid("secure is required with redirect")
    if site.use_lets_enc and not site.secure:
        raise RuleInvalid("secure is required with useLetsEnc")
    if bool(site.ca) != bool(site.private_key):
        raise RuleInvalid("ca and privateKey belong together; only one of them is set")
    if site.use_lets_enc and site.ca:
        raise RuleInvalid("useLetsEnc and ca cannot both be set")
    for name, path in (("ca", site.ca), ("privateKey", site.private_key)):
        if path and not Path(path).is_absolute():
            raise RuleInvalid(f"{name} must be an absolute path: {path}")


def _check_links(site: Site) -> None:
    links = {"redirectURL": site.redirect_url}
    if site.auth_page_opts is not None:
        links |= {
            "authPageOpts.logoURL": site.auth_page_opts.logo_url,
            "authPageOpts.siteURL": site.auth_page_opts.site_url,
        }
    for name, link in links.items():
        if link and not _is_link(link):
            raise RuleInvalid(f"{name} must be an http or https address: {link}")
    for name, secret in (("password", site.password), ("basicHttpAuth", site.basic_http_auth)):
        if len(secret) > PASSWORD_MAX:
            raise RuleInvalid(f"{name} has more than {PASSWORD_MAX} characters")
    _check_basic_auth(site.basic_http_auth)
    if site.rewrite_host and re.fullmatch(r"[!-~]{1,255}", site.rewrite_host) is None:
        raise RuleInvalid(f"invalid rewriteHost: {site.rewrite_host}")


def _check_basic_auth(text: str) -> None:
    if not text or text == MASK or is_password_hash(text):
        return
    user, _, password = text.partition(":")
    if not user or not password:
        raise RuleInvalid("basicHttpAuth must read user:password")


def _is_link(text: str) -> bool:
    if re.fullmatch(r"[!-~]+", text) is None:
        return False
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def split_upstream(url: str) -> tuple[str, str, int, str]:
    """Return scheme, host, port and base path (without a final slash) of an upstream's address.

    Raises:
        RuleInvalid: If it is none.
    """
    if not _is_link(url):
        raise RuleInvalid(f"upstreamURL must read like http://host:port, not {url}")
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.username is not None or parts.query or parts.fragment:
        raise RuleInvalid("upstreamURL can have a host, a port and a path, and nothing else")
    _check_host("upstreamURL", host)
    if not parts.path.isascii() or any(character.isspace() for character in parts.path):
        raise RuleInvalid(f"invalid path in upstreamURL: {parts.path}")
    return parts.scheme, host, parts.port or (443 if parts.scheme == "https" else 80), parts.path.rstrip("/")


def _check_host(name: str, host: str) -> None:
    try:
        ip_address(host)
    except ValueError:
        if _HOST.fullmatch(host) is None:
            raise RuleInvalid(f"{name} is not a host: {host}") from None


def _check_port(name: str, port: int) -> None:
    if not 1 <= port <= MAX_PORT:
        raise RuleInvalid(f"{name} must be from 1 to {MAX_PORT}, not {port}")


def _check_transport(transport: str) -> None:
    if transport not in ("tcp", "udp"):
        raise RuleInvalid(f"transport must be tcp or udp, not {transport!r}")


def _firewall(rules: tuple[FwRule, ...]) -> tuple[FwRule, ...]:
    if len(rules) > MAX_FIREWALL:
        raise RuleInvalid(f"firewall has more than {MAX_FIREWALL} rules")
    return tuple(_firewall_rule(rule) for rule in rules)


def _firewall_rule(rule: FwRule) -> FwRule:
    try:
        network = ip_network(rule.network, strict=False)
    except ValueError:
        raise RuleInvalid(f"invalid network: {rule.network}") from None
    action = rule.action.lower()
    if action not in ("allow", "drop"):
        raise RuleInvalid(f"invalid action: {rule.action}; a firewall can allow or drop")
    return rule.model_copy(update={"action": action, "network": str(network)})


def check_web_root(text: str, forbidden: Path | None) -> None:
    """Raises RuleInvalid if this directory must not become public as a whole."""
    path = Path(text)
    if not path.is_absolute():
        raise RuleInvalid(f"webRoot must be an absolute path: {text}")
    # Symbolic links are followed now, and again when a file is asked for.
    root = path.resolve()
    if root == Path(root.anchor):
        raise RuleInvalid("webRoot must not be the whole file system")
    if forbidden is None:
        return
    kept = forbidden.resolve()
    if kept.is_relative_to(root) or root.is_relative_to(kept):
        raise RuleInvalid(f"webRoot must not hold the agent's own state: {text}")
