"""Rules as the agent's API spells them: what is read, what is refused, and in which words."""

from pathlib import Path
from typing import Any

import pytest

from moongate.agent.rules import MAX_FIREWALL, flow_id, read_port, read_portmap, read_site, split_upstream
from moongate.errors import RuleInvalid

SAMPLE = {
    "domain": "api-test-1.spokes.domain.com",
    "secure": True,
    "destination": "127.0.0.1",
    "port": 8080,
    "webRoot": "/srv/www",
    "useLetsEnc": True,
    "firewall": [{"sequence": 1, "action": "allow", "network": "71.1.2.3/32"}],
    "redirect": True,
    "rewriteHost": "api-test-100.spokes.domain.com",
    "upstreamURL": "",
}


def test_flow_ids_are_fnv_1a_64_of_the_rules_name() -> None:
    assert flow_id("http:static.example.test") == 2396822809176400615
    assert flow_id("port:22470") == 14321902940647841843
    assert read_site(SAMPLE | {"domain": "shop.example.test"}).flow == 12468525709093320869
    assert read_port({"port": 22872}).flow == 16918155558408473101


def test_a_published_sample_is_shown_as_it_was_given_without_what_is_empty() -> None:
    shown = read_site(SAMPLE).members()
    assert shown == {name: value for name, value in SAMPLE.items() if value}


def test_members_that_are_not_known_are_kept() -> None:
    assert read_site({"domain": "a.test", "tls": 443, "x-note": {"of": [1]}}).members()["x-note"] == {"of": [1]}


def test_null_is_as_good_as_nothing() -> None:
    assert read_site({"domain": "a.test", "webRoot": "/srv", "firewall": None, "port": None}).members() == {
        "domain": "a.test",
        "webRoot": "/srv",
    }


def test_a_domain_is_kept_in_lower_case_without_its_final_dot() -> None:
    assert read_site({"domain": "Shop.Example.Test.", "webRoot": "/srv"}).domain == "shop.example.test"


def test_a_port_always_shows_where_it_leads_and_a_port_map_has_both_names_of_its_port() -> None:
    assert read_port({"port": 22132}).members() == {"port": 22132, "destination": "", "dstPort": 0}
    portmap = read_portmap({"listenPort": 15433, "dstPort": 22431})
    assert portmap.members() == {
        "port": 15433,
        "listenPort": 15433,
        "dstPort": 22431,
        "destination": "",
        "transport": "tcp",
    }


def test_a_network_is_written_whole_and_an_action_small() -> None:
    rules = [
        {"sequence": 5, "action": "Allow", "network": "198.51.100.7/24"},
        {"sequence": 0, "action": "DROP", "network": "203.0.113.9"},
        {"action": "drop", "network": "2001:DB8::5/32"},
    ]
    assert read_port({"port": 1, "firewall": rules}).members()["firewall"] == [
        {"sequence": 5, "action": "allow", "network": "198.51.100.0/24"},
        {"sequence": 0, "action": "drop", "network": "203.0.113.9/32"},
        {"sequence": 0, "action": "drop", "network": "2001:db8::/32"},
    ]


REFUSED_SITES: list[tuple[dict[str, Any], str]] = [
    ({"destination": "127.0.0.1", "port": 0}, "port is required with destination"),
    ({"port": 80}, "destination is required with port"),
    ({"destination": "127.0.0.1", "port": 70000}, "port must be from 1 to 65535, not 70000"),
    ({"destination": "127.0.0.1", "port": "80"}, "port must be a whole number"),
    ({"destination": "a b", "port": 80}, "destination is not a host: a b"),
    ({"webRoot": "/srv", "secure": "yes"}, "secure must be true or false"),
    ({"webRoot": 7}, "webRoot must be a text"),
    ({"webRoot": "/srv", "firewall": {}}, "firewall must be an array"),
    ({"webRoot": "/srv", "firewall": [7]}, "firewall[0] must be an object"),
    ({"webRoot": "/srv", "firewall": [{"network": 7}]}, "firewall[0].network must be a text"),
    ({"webRoot": "/srv", "firewall": [{"sequence": -1, "network": "::/0"}]}, "firewall[0].sequence is too small"),
    (
        {"webRoot": "/srv", "firewall": [{"sequence": 1, "action": "allow", "network": "300.1.1.1/32"}]},
        "invalid network: 300.1.1.1/32",
    ),
    (
        {"webRoot": "/srv", "firewall": [{"action": "deny", "network": "::/0"}]},
        "invalid action: deny; a firewall can allow or drop",
    ),
    (
        {"webRoot": "/srv", "firewall": [{"action": "drop", "network": "::1"}] * (MAX_FIREWALL + 1)},
        "firewall has more than 500 rules",
    ),
    (
        {"destination": "127.0.0.1", "port": 80, "upstreamURL": "http://127.0.0.1"},
        "destination and upstreamURL cannot both be set",
    ),
    ({}, "no destination"),
    ({"webRoot": "/srv", "redirect": True}, "secure is required with redirect"),
    ({"webRoot": "/srv", "useLetsEnc": True}, "secure is required with useLetsEnc"),
    ({"webRoot": "/srv", "ca": "/a.pem"}, "ca and privateKey belong together; only one of them is set"),
    ({"webRoot": "/srv", "ca": "a.pem", "privateKey": "/b"}, "ca must be an absolute path: a.pem"),
    (
        {"webRoot": "/srv", "secure": True, "useLetsEnc": True, "ca": "/a", "privateKey": "/b"},
        "useLetsEnc and ca cannot both be set",
    ),
    ({"webRoot": "srv"}, "webRoot must be an absolute path: srv"),
    ({"webRoot": "/"}, "webRoot must not be the whole file system"),
    ({"webRoot": "/srv/.."}, "webRoot must not be the whole file system"),
    ({"redirectURL": "javascript:1"}, "redirectURL must be an http or https address: javascript:1"),
    ({"webRoot": "/srv", "rewriteHost": "a\tb"}, "rewriteHost has control characters"),
    ({"webRoot": "/srv", "rewriteHost": "a b"}, "invalid rewriteHost: a b"),
    ({"webRoot": "/srv", "password": "x" * 1025}, "password has more than 1024 characters"),
    ({"webRoot": "/srv", "basicHttpAuth": "nobody"}, "basicHttpAuth must read user:password"),
    (
        {"webRoot": "/srv", "requires2FA": True},
        "requires2FA is not supported: this agent would leave the site without its second factor",
    ),
    ({"upstreamURL": "ftp://a"}, "upstreamURL must read like http://host:port, not ftp://a"),
    ({"upstreamURL": "http://a:99999"}, "upstreamURL must read like http://host:port, not http://a:99999"),
    ({"upstreamURL": "http://u@a"}, "upstreamURL can have a host, a port and a path, and nothing else"),
]


@pytest.mark.parametrize(("members", "reason"), REFUSED_SITES)
def test_a_site_that_cannot_be_is_refused_with_the_name_of_the_field(members: dict[str, Any], reason: str) -> None:
    with pytest.raises(RuleInvalid) as refused:
        read_site({"domain": "a.test", **members})
    assert refused.value.message == reason


@pytest.mark.parametrize("domain", ["a..b", "-a.test", "a_b.test", "*.a.test", "a" * 64 + ".test", "ä.test", "a b"])
def test_what_is_no_host_name_is_no_domain(domain: str) -> None:
    with pytest.raises(RuleInvalid, match="invalid domain: "):
        read_site({"domain": domain, "webRoot": "/srv"})


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"port": 70000}, "port must be from 1 to 65535, not 70000"),
        ({}, "port must be from 1 to 65535, not 0"),
        ({"port": 1, "destination": "a"}, "dstPort is required with destination"),
        ({"port": 1, "dstPort": 5}, "destination is required with dstPort"),
        ({"port": 1, "transport": "sctp"}, "transport must be tcp or udp, not 'sctp'"),
        ({"port": 1, "proxyProtocol": "v3"}, "proxyProtocol must be v1 or v2, not 'v3'"),
    ],
)
def test_a_port_that_cannot_be_is_refused(members: dict[str, Any], reason: str) -> None:
    with pytest.raises(RuleInvalid) as refused:
        read_port(members)
    assert refused.value.message == reason


def test_the_two_spellings_of_a_port_maps_port_must_agree() -> None:
    assert read_portmap({"port": 5, "listenPort": 5, "dstPort": 6}).port == 5
    with pytest.raises(RuleInvalid, match="port and listenPort differ: 5 and 7"):
        read_portmap({"port": 5, "listenPort": 7, "dstPort": 6})
    with pytest.raises(RuleInvalid, match="dstPort must be from 1 to 65535, not 0"):
        read_portmap({"port": 5})


def test_an_upstreams_address_has_a_usual_port_and_a_base_path() -> None:
    assert split_upstream("http://127.0.0.1:9001") == ("http", "127.0.0.1", 9001, "")
    assert split_upstream("https://[::1]/app/") == ("https", "::1", 443, "/app")


@pytest.mark.parametrize("place", [".", "..", "inside", "link"])
def test_a_web_root_neither_holds_the_agents_state_nor_lies_in_it(place: str, tmp_path: Path) -> None:
    state = tmp_path / "srv" / "state"
    (state / "inside").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "srv")
    root = tmp_path / "link" if place == "link" else state / place
    with pytest.raises(RuleInvalid, match="webRoot must not hold the agent's own state"):
        read_site({"domain": "a.test", "webRoot": str(root)}, state)
    assert read_site({"domain": "a.test", "webRoot": str(tmp_path / "outside")}, state).web_root


def test_a_sites_secrets_are_masked_where_they_are_shown() -> None:
    site = read_site({"domain": "a.test", "webRoot": "/srv", "password": "geheim", "basicHttpAuth": "u:geheim"})
    assert "geheim" not in repr(site)
    assert site.masked() == {"domain": "a.test", "webRoot": "/srv", "password": "***", "basicHttpAuth": "***"}
