"""Commands that speak to the API of the agent on this machine."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from moongate.cli import places
from moongate.cli.admin import print_table
from moongate.cli.outcome import Exit, UsageError
from moongate.cli.text import neutralise, print_json
from moongate.cli.upstreams import parse_local
from moongate.config import load_config
from moongate.errors import MoongateError, TokenInvalid, UpstreamRefused, UpstreamTimeout

# Longer than any answer of an agent takes: it asks the node, and connects to every upstream.
TIMEOUT_S: Final = 60.0
PREFIX: Final = "/api/client/v1.0"
Rule = Mapping[str, Any]


class AgentApiError(MoongateError):
    """The agent could not do what it was asked."""

    code = "agent.failed"


@dataclass(frozen=True, slots=True)
class Manner:
    """Where the agent is, and how its answers are printed."""

    api_port: int | None
    token_file: Path | None
    as_json: bool


class AgentApi:
    """The API of an agent, with its failures turned into ours."""

    def __init__(self, manner: Manner) -> None:
        settings = load_config().agent_api
        self.base = f"http://127.0.0.1:{manner.api_port or settings.port}"
        known = settings.token.get_secret_value() if settings.token is not None else None
        self._token = places.read_secret(manner.token_file) if manner.token_file else known

    def call(self, method: str, path: str, body: Rule | None = None, **query: Any) -> Any:
        """Return the decoded answer.

        Raises:
            AgentApiError: If the agent could not do it.
            TokenInvalid, UpstreamRefused, UpstreamTimeout: As the agent, or its absence, answers.
        """
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        given = {name: value for name, value in query.items() if value is not None}
        try:
            with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as client:
                answer = client.request(method, f"{self.base}{PREFIX}/{path}", json=body, params=given, headers=headers)
        except httpx.TimeoutException:
            raise UpstreamTimeout(f"the agent at {self.base} did not answer within {TIMEOUT_S:.0f} s") from None
        except httpx.TransportError as error:
            raise UpstreamRefused(
                f"no agent answers at {self.base}: {error}",
                hint="`moongate agent start` starts one; --api-port says where it listens",
            ) from None
        return _decoded(answer)


def _decoded(answer: httpx.Response) -> Any:
    try:
        content = answer.json()
    except ValueError:
        raise AgentApiError("the answer is not JSON", hint="is this the API of a moongate agent?") from None
    if isinstance(content, list):
        return content
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        raise TokenInvalid(f"the agent refused: {content.get('error')}", hint="pass its token with --api-token-file")
    if not content.get("status"):
        raise AgentApiError(str(content.get("error") or f"the agent answered {answer.status_code}"))
    return content


# --- sites -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SiteWish:
    """A site as somebody typed it."""

    domain: str | None
    upstream: str | None = None
    destination: str | None = None
    port: int | None = None
    tls: int | None = None
    upstream_url: str | None = None
    web_root: Path | None = None
    secure: bool = False
    lets_encrypt: bool = False
    chain: Path | None = None
    key: Path | None = None
    redirect: bool = False
    redirect_url: str | None = None
    rewrite_host: str | None = None
    insecure_upstream: bool = False
    password_file: Path | None = None
    basic_auth_file: Path | None = None
    allow: list[str] = field(default_factory=list)
    drop: list[str] = field(default_factory=list)

    def members(self) -> dict[str, Any]:
        """Return the rule as the API spells it.

        Raises:
            UsageError: If it has no domain, or two upstreams.
        """
        if not self.domain:
            raise UsageError("which domain?", hint="for example `moongate route add shop.example.test 3000`")
        # What needs HTTPS says so by itself.
        secure = self.secure or self.lets_encrypt or self.redirect or self.chain is not None
        given = {
            "domain": self.domain,
            "secure": secure,
            **self._upstream(),
            "tls": self.tls,
            "webRoot": _absolute(self.web_root),
            "useLetsEnc": self.lets_encrypt,
            "ca": _absolute(self.chain),
            "privateKey": _absolute(self.key),
            "redirect": self.redirect,
            "redirectURL": self.redirect_url,
            "rewriteHost": self.rewrite_host,
            "insecureUpstream": self.insecure_upstream,
            "password": _hash_of(self.password_file),
            "basicHttpAuth": _hash_of(self.basic_auth_file),
            "firewall": firewall(self.allow, self.drop),
        }
        return {name: value for name, value in given.items() if value}

    def _upstream(self) -> dict[str, Any]:
        if self.upstream is None:
            # The older spelling leaves the host out when it is this machine.
            host = self.destination or ("127.0.0.1" if self.port else None)
            return {"destination": host, "port": self.port, "upstreamURL": self.upstream_url}
        if self.destination or self.port or self.upstream_url:
            raise UsageError("two upstreams are given", hint="give the upstream once, as an argument or with flags")
        if "://" in self.upstream:
            return {"upstreamURL": self.upstream}
        local = parse_local(self.upstream, "http")
        return {"destination": local.host, "port": local.port}


def _absolute(path: Path | None) -> str | None:
    return str(path.expanduser().absolute()) if path is not None else None


def _hash_of(path: Path | None) -> str | None:
    if path is None:
        return None
    from moongate.identity.passwords import hash_password

    return hash_password(places.read_secret(path))


def firewall(allow: Iterable[str], drop: Iterable[str]) -> list[dict[str, Any]]:
    """Return firewall rules: who is kept out comes first, so that it also keeps out a part of who is let in."""
    rules = [*(("drop", network) for network in drop), *(("allow", network) for network in allow)]
    return [
        {"sequence": number, "action": action, "network": network}
        for number, (action, network) in enumerate(rules, start=1)
    ]


def add_site(wish: SiteWish, manner: Manner, *, replace: bool = False) -> Exit:
    """Create a site, or replace it."""
    rule = wish.members()
    answer = AgentApi(manner).call("POST", f"traffic/{'update' if replace else 'create'}", {"https": [rule]})
    return _done(answer, f"{'replaced' if replace else 'added'} {rule['domain']}", manner)


def remove_sites(domains: list[str], manner: Manner) -> Exit:
    """Delete sites."""
    if not domains:
        raise UsageError("which domain?", hint="`moongate route ls` shows them")
    body = {"https": [{"domain": domain} for domain in domains]}
    answer = AgentApi(manner).call("POST", "traffic/delete", body)
    return _done(answer, f"removed {', '.join(domains)}", manner)


def list_sites(manner: Manner) -> Exit:
    """Print every site."""
    rules = AgentApi(manner).call("GET", "traffic/list")["https"]
    if manner.as_json:
        return _lines(rules)
    headings = ("domain", "upstream", "TLS", "secure", "protect", "site root", "firewall")
    print_table(headings, [_site_row(rule) for rule in rules])
    return Exit.OK


def _site_row(rule: Rule) -> tuple[str, ...]:
    protect = [name for name, key in (("password", "password"), ("basic", "basicHttpAuth")) if rule.get(key)]
    return (
        str(rule["domain"]),
        _place_of(rule),
        str(rule.get("tls") or "-"),
        _secured(rule),
        ", ".join(protect) or "-",
        str(rule.get("webRoot") or "-"),
        _firewall_text(rule),
    )


def _place_of(rule: Rule) -> str:
    if rule.get("upstreamURL"):
        return str(rule["upstreamURL"])
    if rule.get("destination"):
        # In a port's rule `port` is the public one.
        return f"{rule['destination']}:{rule.get('dstPort') or rule.get('port')}"
    return f"→ {rule['redirectURL']}" if rule.get("redirectURL") else "-"


def _secured(rule: Rule) -> str:
    if not rule.get("secure"):
        return "no"
    how = "ACME" if rule.get("useLetsEnc") else "own certificate" if rule.get("ca") else "node's certificate"
    return f"{how}, redirect" if rule.get("redirect") else how


def _firewall_text(rule: Rule) -> str:
    return ", ".join(f"{one['action']} {one['network']}" for one in rule.get("firewall") or ()) or "-"


def add_firewall(domain: str, action: str, network: str, manner: Manner) -> Exit:
    """Add one firewall rule to a site, behind those that it has."""
    api = AgentApi(manner)
    sites = {str(rule["domain"]): rule for rule in api.call("GET", "traffic/list")["https"]}
    if domain not in sites:
        raise AgentApiError(f"not found: https {domain}", hint="`moongate route ls` shows the domains")
    rules = list(sites[domain].get("firewall") or ())
    sequence = max((int(rule["sequence"]) for rule in rules), default=0) + 1
    rules.append({"sequence": sequence, "action": action, "network": network})
    answer = api.call("PATCH", "traffic/update", {"https": [{"domain": domain, "firewall": rules}]})
    return _done(answer, f"{domain}: {action} {network}", manner)


# --- ports -------------------------------------------------------------------------------


def allocate_port(port: int | None, transport: str, manner: Manner) -> Exit:
    """Take a port of the node."""
    answer = AgentApi(manner).call("POST", "ports/allocate", port=port, transport=transport)
    return _done(answer, f"allocated port {answer['port']}", manner)


def forward_port(
    port: int | None, upstream: str, transport: str | None, networks: tuple[list[str], list[str]], manner: Manner
) -> Exit:
    """Lead the connections of a port somewhere; without a port, one is allocated first."""
    local = parse_local(upstream, "tcp")
    api = AgentApi(manner)
    if port is None:
        port = int(api.call("POST", "ports/allocate", transport=transport or "tcp")["port"])
    rule = {"port": port, "destination": local.host, "dstPort": local.port}
    allow, drop = networks
    extra = {"transport": transport, "firewall": firewall(allow, drop)}
    body = {"ports": [rule | {name: value for name, value in extra.items() if value}]}
    answer = api.call("POST", "traffic/create", body)
    return _done({**answer, "port": port}, f"port {port} leads to {local}", manner)


def clear_port(port: int, manner: Manner) -> Exit:
    """Lead a port nowhere; it stays allocated."""
    answer = AgentApi(manner).call("POST", "traffic/delete", {"ports": [{"port": port}]})
    return _done(answer, f"port {port} leads nowhere now, and stays allocated", manner)


def release_port(port: int, transport: str | None, manner: Manner) -> Exit:
    """Give a port back to the node."""
    body = {"port": port} | ({"transport": transport} if transport else {})
    return _done(AgentApi(manner).call("POST", "ports/release", body), f"released port {port}", manner)


def list_ports(manner: Manner) -> Exit:
    """Print every port."""
    rules = AgentApi(manner).call("GET", "ports/list")
    if manner.as_json:
        return _lines(rules)
    rows = [(str(one["port"]), _transport(one), _place_of(one), _firewall_text(one)) for one in rules]
    print_table(("port", "transport", "leads to", "firewall"), rows)
    return Exit.OK


def _transport(rule: Rule) -> str:
    return str(rule.get("transport") or "tcp")


# --- port maps ---------------------------------------------------------------------------


def add_portmap(port: int, target: str, transport: str, label: str, manner: Manner) -> Exit:
    """Map a port of this machine to a port of the node, or to a public host."""
    rule: dict[str, Any] = {"port": port, "transport": transport, "label": label}
    if target.isdecimal():
        rule |= {"destination": "", "dstPort": int(target)}
    else:
        there = parse_local(target, "tcp")
        rule |= {"destination": there.host, "dstPort": there.port}
    answer = AgentApi(manner).call("POST", "traffic/create", {"portmaps": [rule]})
    return _done(answer, f"127.0.0.1:{port} leads to {_far(rule)}", manner)


def remove_portmaps(ports: list[int], manner: Manner) -> Exit:
    """Delete port maps."""
    answer = AgentApi(manner).call("POST", "traffic/delete", {"portmaps": [{"port": port} for port in ports]})
    return _done(answer, f"removed {', '.join(map(str, ports))}", manner)


def list_portmaps(manner: Manner) -> Exit:
    """Print every port map."""
    rules = AgentApi(manner).call("GET", "traffic/list")["portmaps"]
    if manner.as_json:
        return _lines(rules)
    rows = [(f"127.0.0.1:{one['port']}", _transport(one), _far(one), str(one.get("label") or "-")) for one in rules]
    print_table(("here", "transport", "leads to", "label"), rows)
    return Exit.OK


def _far(rule: Rule) -> str:
    return (
        f"{rule['destination']}:{rule['dstPort']}" if rule.get("destination") else f"port {rule['dstPort']} of the node"
    )


# --- the agent ---------------------------------------------------------------------------


def show_info(manner: Manner) -> Exit:
    """Print the agent's state and its sites; the exit code is 0 only if it has a session."""
    api = AgentApi(manner)
    info = api.call("GET", "info")
    connected = Exit.OK if info["isTunConnected"] else Exit.FAILED
    if manner.as_json:
        print_json({**info, "api": api.base})
        return connected
    lines = [
        ("state", "connected" if info["isTunConnected"] else f"not connected, {info.get('desired', 'stopped')}"),
        ("version", str(info["runtimeVersion"])),
        ("server", str(info.get("server") or "-")),
        ("local API", api.base),
        ("last error", str(info.get("lastError") or "-")),
    ]
    if info.get("rulesKeptAside"):
        lines.append(("unreadable", f"the rules; they are kept in {info['rulesKeptAside']}"))
    for name, value in lines:
        print(f"{name:<12}{neutralise(value)}")
    return connected


def show_health(manner: Manner) -> Exit:
    """Print whether each upstream can be reached; the exit code is 0 only if all can."""
    services = AgentApi(manner).call("GET", "health")["services"]
    healthy = Exit.OK if all(one["available"] for one in services) else Exit.FAILED
    if manner.as_json:
        _lines(services)
        return healthy
    print_table(("rule", "available", "leads to", "error"), [_service_row(one) for one in services])
    return healthy


def _service_row(service: Rule) -> tuple[str, ...]:
    rule = service.get("http") or service.get("port") or {}
    name = str(rule.get("domain") or f"port {rule.get('port', '?')}")
    return (name, "yes" if service["available"] else "no", _place_of(rule), str(service.get("error") or "-"))


def _done(answer: Rule, sentence: str, manner: Manner) -> Exit:
    if manner.as_json:
        print_json(answer)
    else:
        print(neutralise(sentence))
    return Exit.OK


def _lines(rules: Iterable[Rule]) -> Exit:
    for rule in rules:
        print_json(rule)
    return Exit.OK
