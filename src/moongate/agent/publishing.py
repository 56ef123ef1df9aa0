"""From a rule to the routes that publish it: pure."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from moongate.agent.routes import NOTHING, OwnCertificate, Route, Upstream
from moongate.agent.rules import FwRule, PageOptions, PortRule, Rule, Site

UNPUBLISHED: Final = Upstream(NOTHING)


def routes_of(rule: Rule) -> dict[str, Route]:
    """Return the routes of a rule by their keys; a port map publishes nothing."""
    if isinstance(rule, Site):
        return _site_routes(rule)
    return {f"ports:{rule.key}": port_route(rule)} if isinstance(rule, PortRule) else {}


def _site_routes(site: Site) -> dict[str, Route]:
    routes: dict[str, Route] = {}
    key = f"https:{site.key}"
    if site.serves_http:
        own = OwnCertificate(Path(site.ca), Path(site.private_key)) if site.ca else None
        routes[key] = Route(
            "http", site_upstream(site), subdomain=site.domain, options=_site_options(site), certificate=own
        )
    if site.tls:
        options: dict[str, Any] = {"keep": True}
        if site.firewall:
            options["firewall"] = _firewall(site.firewall)
        behind = Upstream("tcp", site.tls_host, site.tls)
        routes[f"{key}/tls"] = Route("tls", behind, subdomain=site.domain, options=options)
    return routes


def kept_names_of(rules: Iterable[Rule]) -> set[tuple[str, str]]:
    """Return the kinds and names that the node keeps for these rules."""
    routes = [route for rule in rules for route in routes_of(rule).values() if route.options.get("keep")]
    return {(route.kind, route.wanted) for route in routes if route.wanted}


def site_upstream(site: Site) -> Upstream:
    """Return what answers the requests of a site: its directory first, then the program behind it."""
    directory = Path(site.web_root) if site.web_root else None
    if site.upstream is not None:
        scheme, host, port, base = site.upstream
        return Upstream(scheme, host, port, directory, base, site.insecure_upstream)
    return Upstream("static", directory=directory) if directory is not None else UNPUBLISHED


def _site_options(site: Site) -> dict[str, Any]:
    options = {
        "host_header": site.rewrite_host,
        "redirect": site.redirect,
        "redirect_url": site.redirect_url,
        "basic_auth": site.basic_http_auth,
        "password": site.password,
        "page": _page(site.auth_page_opts),
        "acme": site.use_lets_enc,
        "firewall": _firewall(site.firewall),
    }
    return {"keep": True, "secure": site.secure, **{name: value for name, value in options.items() if value}}


def _page(page: PageOptions | None) -> dict[str, str] | None:
    if page is None:
        return None
    return {"title": page.title, "logo_url": page.logo_url, "site_url": page.site_url}


def _firewall(rules: tuple[FwRule, ...]) -> list[list[str]]:
    """The rules in the order in which they are looked at; those of one number stay in theirs."""
    return [[rule.action, rule.network] for rule in sorted(rules, key=lambda rule: rule.sequence)]


def port_route(port: PortRule) -> Route:
    """Return the route of a port; without a destination its visitors are turned away here."""
    upstream = Upstream(port.transport, port.destination, port.dst_port) if port.destination else UNPUBLISHED
    options: dict[str, Any] = {"keep": True}
    if port.firewall:
        options["firewall"] = _firewall(port.firewall)
    return Route(
        port.transport, upstream, port=port.port, proxy_protocol=port.proxy_protocol, options=options, label=port.label
    )


def asked_port_route(port: int | None, transport: str) -> Route:
    """Return the route by which a port is asked for: kept only once we have written down that it is ours."""
    return Route(transport, UNPUBLISHED, port=port)
