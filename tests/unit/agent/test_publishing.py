"""From a rule to what is asked of the node."""

from pathlib import Path

from moongate.agent.publishing import routes_of
from moongate.agent.routes import NOTHING, OwnCertificate, Upstream
from moongate.agent.rules import read_port, read_portmap, read_site


def test_a_site_is_one_tunnel_with_its_rules_as_options() -> None:
    site = read_site(
        {
            "domain": "a.test",
            "secure": True,
            "redirect": True,
            "upstreamURL": "https://127.0.0.1:9/base",
            "webRoot": "/srv",
            "insecureUpstream": True,
            "rewriteHost": "b.test",
            "authPageOpts": {"title": "T", "logoURL": "https://a.test/l"},
            "firewall": [
                {"sequence": 2, "action": "drop", "network": "::/0"},
                {"sequence": 1, "action": "allow", "network": "192.0.2.0/24"},
                {"sequence": 1, "action": "drop", "network": "192.0.2.1"},
            ],
        }
    )
    (route,) = routes_of(site).values()
    assert (route.kind, route.wanted) == ("http", "a.test")
    assert route.upstream == Upstream("https", "127.0.0.1", 9, Path("/srv"), "/base", True)
    assert route.options == {
        "keep": True,
        "secure": True,
        "redirect": True,
        "host_header": "b.test",
        "page": {"title": "T", "logo_url": "https://a.test/l", "site_url": ""},
        "firewall": [["allow", "192.0.2.0/24"], ["drop", "192.0.2.1/32"], ["drop", "::/0"]],
    }


def test_tls_that_is_passed_through_is_a_tunnel_of_its_own() -> None:
    routes = routes_of(read_site({"domain": "a.test", "destination": "10.0.0.1", "port": 80, "tls": 8443}))
    assert {key: (route.kind, str(route.upstream)) for key, route in routes.items()} == {
        "https:a.test": ("http", "http://10.0.0.1:80"),
        "https:a.test/tls": ("tls", "10.0.0.1:8443"),
    }
    assert list(routes_of(read_site({"domain": "a.test", "tls": 8443}))) == ["https:a.test/tls"]


def test_a_site_that_only_redirects_reaches_nobody() -> None:
    (route,) = routes_of(read_site({"domain": "a.test", "redirectURL": "https://b.test/"})).values()
    assert route.upstream.scheme == NOTHING
    assert route.options == {"keep": True, "secure": False, "redirect_url": "https://b.test/"}


def test_a_certificate_of_ones_own_goes_with_the_route() -> None:
    (route,) = routes_of(
        read_site({"domain": "a.test", "webRoot": "/srv", "ca": "/c.pem", "privateKey": "/k.pem"})
    ).values()
    assert route.certificate == OwnCertificate(Path("/c.pem"), Path("/k.pem"))


def test_a_port_is_kept_and_without_a_destination_leads_nowhere() -> None:
    (route,) = routes_of(read_port({"port": 22000})).values()
    assert (route.kind, route.wanted, route.upstream.scheme, route.options) == ("tcp", "22000", NOTHING, {"keep": True})
    (route,) = routes_of(read_port({"port": 22000, "transport": "udp", "destination": "::1", "dstPort": 53})).values()
    assert (route.kind, str(route.upstream)) == ("udp", "udp://[::1]:53")


def test_a_port_map_asks_nothing_of_the_node() -> None:
    assert routes_of(read_portmap({"port": 1, "dstPort": 2})) == {}
