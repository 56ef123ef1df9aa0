"""The agent's API as it is specified: its vectors, and each row of its tables, against an agent with a node."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from moongate.agent.publishing import routes_of
from moongate.agent.rules import flow_id, read_site
from moongate.edge.firewall import parse_rules, verdict
from moongate.net.dialing import NodeAddress
from testbed import free_port
from testbed.house import House
from testbed.rules import Publisher, published, publisher

DONE = {"status": True, "error": ""}
SHOP = {"domain": "shop.example.test", "secure": True, "upstreamURL": "http://127.0.0.1:9001", "redirect": True}


@pytest.fixture
async def pair(home: Path) -> AsyncIterator[tuple[House, Publisher]]:
    async with published(home) as made:
        yield made


@pytest.fixture
def house(pair: tuple[House, Publisher]) -> House:
    return pair[0]


@pytest.fixture
def api(pair: tuple[House, Publisher]) -> Publisher:
    return pair[1]


@pytest.fixture
async def alone(home: Path) -> AsyncIterator[Publisher]:
    """An agent whose node is not there."""
    async with publisher(home, NodeAddress.parse(f"http://127.0.0.1:{free_port()}"), token="none") as made:
        yield made


def part(shown: Any, like: Any) -> Any:
    """Return of an answer what the published API knows of it."""
    if isinstance(like, dict) and isinstance(shown, dict):
        return {name: part(shown[name], value) for name, value in like.items() if name in shown}
    if isinstance(like, list) and isinstance(shown, list) and len(like) == len(shown):
        return [part(one, other) for one, other in zip(shown, like, strict=True)]
    return shown


async def is_there(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


# --- the vectors -------------------------------------------------------------------------


async def test_info_has_every_member_with_its_type(api: Publisher) -> None:
    shown = await api.ask("GET", "info")
    kinds = {"status": bool, "error": str, "version": str, "runtimeVersion": str} | {
        "isUpdated": bool,
        "isTunConnected": bool,
    }
    assert {name: type(shown[name]) for name in kinds} == kinds
    assert (shown["status"], shown["error"], shown["isUpdated"], shown["isTunConnected"]) == (True, "", False, True)
    assert shown["version"] == shown["runtimeVersion"]
    assert re.fullmatch(r"v\d+\.\d+\.\d+\S*", shown["version"])


async def test_a_site_is_created_once(api: Publisher) -> None:
    result = {"kind": "https", "key": "shop.example.test", "status": True, "error": ""}
    assert await api.ask("POST", "traffic/create", {"https": [SHOP]}) == {**DONE, "results": [result]}
    error = "domain already exists: shop.example.test"
    again = {"status": False, "error": error, "results": [{**result, "status": False, "error": error}]}
    assert await api.ask("POST", "traffic/create", {"https": [SHOP]}) == again


async def test_the_life_of_a_port(api: Publisher) -> None:
    allocated = await api.ask("GET", "ports/allocate")
    port = allocated["port"]
    assert allocated == {**DONE, "port": port, "message": "new port allocated"}
    empty = [{"port": port, "destination": "", "dstPort": 0}]
    assert await api.ask("GET", "ports/list") == empty
    rule = {"port": port, "destination": "127.0.0.1", "dstPort": 2222}
    wall = [{"sequence": 5, "action": "allow", "network": "198.51.100.0/24"}]
    created = await api.ask("POST", "traffic/create", {"ports": [{**rule, "firewall": wall}]})
    assert part(created, DONE) == DONE
    assert await api.ask("GET", "ports/list") == [{**rule, "firewall": wall}]
    assert part(await api.ask("GET", "traffic/delete", {"ports": [{"port": port}]}), DONE) == DONE
    assert await api.ask("GET", "ports/list") == empty
    assert await api.ask("POST", "ports/release", {"port": port}) == DONE
    gone = {"status": False, "error": f"port not allocated: {port}"}
    assert await api.ask("POST", "ports/release", {"port": port}) == gone
    assert await api.ask("GET", "ports/list") == []


async def test_an_update_replaces_and_a_patch_does_not(api: Publisher) -> None:
    stored = {"domain": "a.test", "destination": "127.0.0.1", "port": 80, "redirect": True, "secure": True}
    await api.ask("POST", "traffic/create", {"https": [stored]})
    assert (await api.ask("GET", "config"))["https"] == [stored]
    update = {"domain": "a.test", "upstreamURL": "http://127.0.0.1:81"}
    assert (await api.ask("POST", "traffic/update", {"https": [update]}))["status"] is True
    assert (await api.ask("GET", "config"))["https"] == [update]
    assert (await api.ask("PATCH", "traffic/update", {"https": [{"domain": "a.test", "secure": True}]}))["status"]
    assert (await api.ask("GET", "config"))["https"] == [{**update, "secure": True}]


async def test_port_maps_are_read_and_written_in_both_spellings(api: Publisher) -> None:
    first, second = free_port(), free_port()
    rule = {"port": first, "dstPort": 5432, "destination": "db.example.net", "transport": "tcp", "label": "db"}
    alias = {"listenPort": second, "dstPort": 22431, "destination": "", "transport": "tcp"}
    assert (await api.ask("POST", "traffic/create", {"portmaps": [rule, alias]}))["status"] is True
    assert (await api.ask("GET", "config"))["portmaps"] == [
        {**rule, "listenPort": first},
        {**alias, "port": second},
    ]
    assert await is_there(first)
    assert (await api.ask("GET", "traffic/delete", {"portmaps": [{"listenPort": first}, {"port": second}]}))["status"]
    assert not await is_there(first)


async def test_health_names_its_rules_by_flow_and_by_child(api: Publisher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        open_port = listener.getsockname()[1]
        port = (await api.ask("GET", "ports/allocate"))["port"]
        rules = {
            "https": [
                {"domain": "shop.example.test", "upstreamURL": f"http://127.0.0.1:{free_port()}"},
                {"domain": "static.example.test", "redirectURL": "https://example.test/"},
            ],
            "ports": [{"port": port, "destination": "127.0.0.1", "dstPort": open_port}],
        }
        assert (await api.ask("POST", "traffic/create", rules))["status"] is True
        shown = await api.ask("GET", "health")
    assert part(shown, DONE) == DONE
    shop, static, forwarded = shown["services"]
    assert (shop["flowID"], shop["flow"], shop["available"]) == (12468525709093320869, "12468525709093320869", False)
    assert shop["http"] == rules["https"][0]
    assert "refused" in shop["error"] or "nothing listens" in shop["error"]
    assert (static["flowID"], static["available"], static["error"]) == (2396822809176400615, True, "")
    assert forwarded["flowID"] == flow_id(f"port:{port}")
    assert forwarded["flow"] == str(forwarded["flowID"])
    assert (forwarded["available"], forwarded["port"]) == (True, rules["ports"][0])
    assert {"checkedAt", "latencyMs", "error"} <= forwarded.keys()


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("http:shop.example.test", 12468525709093320869),
        ("http:static.example.test", 2396822809176400615),
        ("port:22872", 16918155558408473101),
        ("port:22470", 14321902940647841843),
    ],
)
def test_flow_ids_are_those_of_the_specification(name: str, number: int) -> None:
    assert flow_id(name) == number


@pytest.mark.parametrize(
    ("rules", "address", "expected"),
    [
        ("", "192.0.2.1", "allow"),
        ("", "2001:db8::5", "allow"),
        ("1 allow 203.0.113.0/24", "203.0.113.9", "allow"),
        ("1 allow 203.0.113.0/24", "192.0.2.1", "drop"),
        ("1 drop 203.0.113.0/24", "203.0.113.9", "drop"),
        ("1 drop 203.0.113.0/24", "192.0.2.1", "allow"),
        ("1 drop 203.0.113.9, 2 allow 203.0.113.0/24", "203.0.113.9", "drop"),
        ("1 drop 203.0.113.9, 2 allow 203.0.113.0/24", "203.0.113.10", "allow"),
        ("1 drop 203.0.113.9, 2 allow 203.0.113.0/24", "192.0.2.1", "drop"),
        ("2 allow 203.0.113.0/24, 1 drop 203.0.113.9", "203.0.113.9", "drop"),
        ("0 allow 10.0.0.0/8, 0 drop 10.1.0.0/16", "10.1.2.3", "allow"),
        ("1 allow 2001:db8::/32", "2001:db8::5", "allow"),
        ("1 allow 2001:db8::/32", "192.0.2.1", "drop"),
        ("1 allow 192.0.2.1", "::ffff:192.0.2.1", "allow"),
        ("1 DROP 192.0.2.77/24", "192.0.2.1", "drop"),
    ],
)
def test_a_firewall_of_the_api_judges_as_specified(rules: str, address: str, expected: str) -> None:
    words = [rule.split() for rule in rules.split(",") if rule]
    wall = [{"sequence": int(number), "action": action, "network": network} for number, action, network in words]
    (route,) = routes_of(read_site({**SHOP, "firewall": wall})).values()
    assert verdict(parse_rules(route.options.get("firewall", [])), address) == expected


BAD: list[tuple[dict[str, Any], str]] = [
    ({"ports": [{"port": 70000}]}, "port"),
    ({"https": [{"domain": "b.test", "destination": "127.0.0.1"}]}, "port is required with destination"),
    ({"https": [{"domain": "b.test", "destination": "127.0.0.1", "port": 0}]}, "port is required with destination"),
    ({"https": [{"domain": "b.test"}]}, "no destination"),
    ({"https": [{"upstreamURL": "http://127.0.0.1:1"}]}, "domain"),
    ({"https": [{"domain": "b_.test", "webRoot": "/srv"}]}, "domain"),
    ({"https": [{"domain": "b.test", "destination": "h", "port": 1, "upstreamURL": "http://h:1"}]}, "upstreamURL"),
    ({"https": [{"domain": "b.test", "upstreamURL": "ftp://h:1"}]}, "upstreamURL"),
    ({"https": [{"domain": "b.test", "webRoot": "srv"}]}, "webRoot"),
    ({"https": [{"domain": "b.test", "webRoot": "/"}]}, "webRoot"),
    ({"https": [{"domain": "b.test", "destination": "h", "port": 1, "useLetsEnc": True}]}, "secure"),
    ({"https": [{"domain": "b.test", "destination": "h", "port": 1, "redirect": True}]}, "secure"),
    ({"https": [{"domain": "b.test", "destination": "h", "port": "80"}]}, "port"),
    (
        {"https": [{**SHOP, "firewall": [{"action": "allow", "network": "300.1.1.1/32"}]}]},
        "invalid network: 300.1.1.1/32",
    ),
    ({"https": [{**SHOP, "firewall": [{"action": "permit", "network": "10.0.0.0/8"}]}]}, "action"),
    ({"https": [SHOP, SHOP]}, "shop.example.test"),
    ({"portmaps": [{"port": 15001, "listenPort": 15002, "dstPort": 1}]}, "listenPort"),
    ({"portmaps": [{"port": 15001, "dstPort": 1, "transport": "sctp"}]}, "transport"),
    ({"portmaps": [{"port": 15001}]}, "dstPort"),
]


@pytest.mark.parametrize(("body", "named"), BAD)
async def test_bad_input_is_named_and_nothing_of_the_request_is_applied(
    api: Publisher, body: dict[str, Any], named: str
) -> None:
    good = {"domain": "good.test", "redirectURL": "https://example.test/"}
    request = {**body, "https": [good, *body.get("https", [])]}
    answer = await api.ask("POST", "traffic/create", request)
    assert answer["status"] is False
    assert named in answer["error"]
    assert [result["status"] for result in answer["results"]] == [False] * len(answer["results"])
    config = await api.ask("GET", "config")
    assert (config["https"], config["ports"], config["portmaps"]) == ([], [], [])


async def test_a_body_that_is_no_object_is_400(api: Publisher) -> None:
    answer = await api.raw("POST", "traffic/create", "[1]")
    assert answer.status_code == 400
    assert answer.json() == {"status": False, "error": "request body must be a JSON object"}


async def test_a_body_that_is_no_json_is_400(api: Publisher) -> None:
    answer = await api.raw("POST", "traffic/create", '{"https": [')
    assert answer.status_code == 400
    assert answer.json()["status"] is False


# --- config ------------------------------------------------------------------------------


async def test_config_has_the_envelope_and_the_example_in_one(api: Publisher) -> None:
    shown = await api.ask("GET", "config")
    assert list(shown) == ["status", "error", "version", "os", "arch", "https", "ports", "portmaps"]
    assert (shown["status"], shown["error"], shown["https"], shown["ports"], shown["portmaps"]) == (
        True,
        "",
        [],
        [],
        [],
    )
    assert shown["os"] in ("linux", "darwin")
    assert shown["arch"] in ("amd64", "arm64", "arm", "386", "riscv64")
    assert shown["version"] == (await api.ask("GET", "info"))["runtimeVersion"]


async def test_rules_stand_in_the_order_of_their_creation(api: Publisher) -> None:
    for name in ("c", "a", "b"):
        site = {"domain": f"{name}.test", "redirectURL": "https://example.test/"}
        await api.ask("POST", "traffic/create", {"https": [site]})
    await api.ask("POST", "traffic/update", {"https": [{"domain": "c.test", "redirectURL": "https://example.net/"}]})
    assert [site["domain"] for site in (await api.ask("GET", "config"))["https"]] == ["c.test", "a.test", "b.test"]


async def test_secrets_are_masked_and_a_masked_rule_sent_back_keeps_them(api: Publisher) -> None:
    site = {"domain": "a.test", "redirectURL": "https://example.test/", "password": "open", "basicHttpAuth": "ann:open"}
    await api.ask("POST", "traffic/create", {"https": [site]})
    (shown,) = (await api.ask("GET", "config"))["https"]
    assert (shown["password"], shown["basicHttpAuth"]) == ("***", "***")
    (hashed,) = (await api.ask("GET", "config?secrets=true"))["https"]
    assert hashed["password"].startswith("scrypt$")
    assert "open" not in str(hashed)
    await api.ask("POST", "traffic/update", {"https": [shown]})
    assert (await api.ask("GET", "config?secrets=true"))["https"] == [hashed]
    assert "open" not in (await api.raw("GET", "health")).text
    assert "scrypt" not in (await api.raw("GET", "health")).text


async def test_members_that_are_not_known_are_kept(api: Publisher) -> None:
    site = {"domain": "a.test", "redirectURL": "https://example.test/", "theirOwn": {"x": [1]}}
    assert (await api.ask("POST", "traffic/create", {"https": [site], "more": 1}))["status"] is True
    assert (await api.ask("GET", "config"))["https"] == [site]


# --- the session -------------------------------------------------------------------------


async def test_starting_what_runs_changes_nothing(api: Publisher) -> None:
    before = (await api.ask("GET", "info"))["reconnects"]
    for method in ("GET", "POST"):
        assert await api.ask(method, "tun/start") == {**DONE, "isTunConnected": True}
    assert (await api.ask("GET", "info"))["reconnects"] == before


async def test_shutdown_then_start_tells_of_the_time_before(api: Publisher) -> None:
    for _ in range(2):
        assert await api.ask("GET", "tun/shutdown") == DONE
        info = await api.ask("GET", "info")
        assert (info["isTunConnected"], info["desired"]) == (False, "stopped")
    answer = await api.ask("GET", "tun/start?wait=20")
    assert answer == {**DONE, "isTunConnected": False, "connected": True}
    assert (await api.ask("GET", "info"))["isTunConnected"] is True


async def test_a_start_answers_at_once_unless_it_is_asked_to_wait(api: Publisher) -> None:
    await api.ask("GET", "tun/shutdown")
    assert await api.ask("GET", "tun/start") == {**DONE, "isTunConnected": False}
    await api.connected()


async def test_restart_makes_a_new_session(api: Publisher) -> None:
    for method in ("GET", "POST"):
        answer = await api.ask(method, "tun/restart?wait=20")
        assert part(answer, DONE) == DONE
        assert answer["connected"] is True
    await api.ask("GET", "tun/shutdown")
    assert part(await api.ask("GET", "tun/restart?wait=20"), {**DONE, "connected": True})["connected"] is True


async def test_a_start_while_it_is_trying_does_not_start_twice(alone: Publisher) -> None:
    for _ in range(2):
        assert await alone.ask("GET", "tun/start") == {**DONE, "isTunConnected": False}
    info = await alone.ask("GET", "info")
    assert (info["status"], info["isTunConnected"], info["desired"]) == (True, False, "running")
    assert await alone.ask("GET", "tun/start?wait=0.1") == {**DONE, "isTunConnected": False, "connected": False}


async def test_without_a_node_a_start_says_so(home: Path) -> None:
    async with publisher(home, None) as made:
        answer = await made.ask("GET", "tun/start")
        assert (answer["status"], answer["isTunConnected"]) == (False, False)
        assert answer["error"]
        assert (await made.ask("GET", "info"))["status"] is True


async def test_local_listeners_close_with_the_session_and_open_with_it(api: Publisher) -> None:
    port = free_port()
    await api.ask("POST", "traffic/create", {"portmaps": [{"port": port, "dstPort": 5432, "destination": "127.0.0.1"}]})
    assert await is_there(port)
    await api.ask("GET", "tun/shutdown")
    assert not await is_there(port)
    await api.ask("GET", "tun/start?wait=20")
    assert await is_there(port)


# --- health ------------------------------------------------------------------------------


async def test_health_checks_each_kind_of_rule_as_specified(api: Publisher, tmp_path: Path) -> None:
    dead, unforwarded = free_port(), (await api.ask("GET", "ports/allocate"))["port"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        alive = listener.getsockname()[1]
        (tmp_path / "www").mkdir()
        root, missing = str(tmp_path / "www"), str(tmp_path / "missing")
        sites: dict[str, tuple[dict[str, Any], bool]] = {
            "static.test": ({"webRoot": root}, True),
            "missing.test": ({"webRoot": missing}, False),
            "alive.test": ({"destination": "127.0.0.1", "port": alive}, True),
            "dead.test": ({"upstreamURL": f"http://127.0.0.1:{dead}"}, False),
            "both.test": ({"webRoot": root, "upstreamURL": f"http://127.0.0.1:{alive}"}, True),
            "half.test": ({"webRoot": root, "upstreamURL": f"http://127.0.0.1:{dead}"}, False),
            "redirect.test": ({"redirectURL": "https://example.test/"}, True),
        }
        rules = {
            "https": [{"domain": domain, **members} for domain, (members, _) in sites.items()],
            "portmaps": [{"port": free_port(), "dstPort": dead, "destination": "127.0.0.1"}],
        }
        created = await api.ask("POST", "traffic/create", rules)
        assert created["status"] is True, created
        shown = await api.ask("GET", "health")
    assert shown["status"] is True
    answered = {one["http"]["domain"]: one["available"] for one in shown["services"]}
    assert answered == {domain: available for domain, (_, available) in sites.items()}
    assert str(unforwarded) not in str([one.get("port") for one in shown["services"]])


# --- creating, updating, deleting --------------------------------------------------------


async def test_creating_on_ports_sets_and_clears_them(api: Publisher) -> None:
    port = (await api.ask("GET", "ports/allocate"))["port"]
    for rule in ({"destination": "127.0.0.1", "dstPort": 22}, {"destination": "127.0.0.1", "dstPort": 23}, {}):
        assert (await api.ask("POST", "traffic/create", {"ports": [{"port": port, **rule}]}))["status"] is True
        expected = {"port": port, "destination": "", "dstPort": 0} | rule
        assert await api.ask("GET", "ports/list") == [expected]


@pytest.mark.parametrize(
    ("path", "body", "error"),
    [
        ("traffic/create", {"ports": [{"port": 22999}]}, "port not allocated: 22999"),
        ("traffic/update", {"https": [{"domain": "a.test", "webRoot": "/srv"}]}, "not found: https a.test"),
        ("traffic/update", {"ports": [{"port": 22999}]}, "not found: ports 22999"),
        ("traffic/update", {"portmaps": [{"port": 15001, "dstPort": 1}]}, "not found: portmaps 15001"),
        ("traffic/delete", {"https": [{"domain": "a.test"}]}, "not found: https a.test"),
        ("traffic/delete", {"ports": [{"port": 22999}]}, "not found: ports 22999"),
        ("traffic/delete", {"portmaps": [{"port": 15001}]}, "not found: portmaps 15001"),
    ],
)
async def test_what_is_not_there_is_named(api: Publisher, path: str, body: Any, error: str) -> None:
    answer = await api.ask("POST", path, body)
    assert (answer["status"], answer["error"]) == (False, error)


async def test_a_local_port_in_use_is_said_and_one_that_is_mapped_too(api: Publisher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        rule = {"port": taken, "dstPort": 5432, "destination": "127.0.0.1"}
        answer = await api.ask("POST", "traffic/create", {"portmaps": [rule]})
    assert answer["status"] is False
    assert f"cannot listen on {taken}" in answer["error"]
    assert (await api.ask("GET", "config"))["portmaps"] == []
    assert (await api.ask("POST", "traffic/create", {"portmaps": [rule]}))["status"] is True
    again = await api.ask("POST", "traffic/create", {"portmaps": [rule]})
    assert again["error"] == f"port mapping already exists: {taken}"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_deleting_keeps_the_port_and_forgets_the_rest(api: Publisher, method: str) -> None:
    port, local = (await api.ask("GET", "ports/allocate"))["port"], free_port()
    wall = [{"sequence": 1, "action": "drop", "network": "10.0.0.0/8"}]
    rules = {
        "https": [{"domain": "a.test", "redirectURL": "https://example.test/"}],
        "ports": [{"port": port, "destination": "127.0.0.1", "dstPort": 22, "firewall": wall}],
        "portmaps": [{"port": local, "dstPort": 5432, "destination": "127.0.0.1"}],
    }
    assert (await api.ask("POST", "traffic/create", rules))["status"] is True
    keys = {"https": [{"domain": "A.test."}], "ports": [{"port": port, "dstPort": "x"}], "portmaps": [{"port": local}]}
    assert (await api.ask(method, "traffic/delete", keys))["status"] is True
    config = await api.ask("GET", "config")
    assert config["https"] == config["portmaps"] == []
    assert config["ports"] == [{"port": port, "destination": "", "dstPort": 0}]


# --- ports -------------------------------------------------------------------------------


async def test_a_port_that_is_asked_for_is_given(house: House, api: Publisher) -> None:
    low = int(str(house.config.tcp_ports).partition("-")[0])
    for method, port in (("GET", low + 5), ("POST", low + 3)):
        answer = await api.ask(method, f"ports/allocate?port={port}")
        assert answer == {**DONE, "port": port, "message": "new port allocated"}
    assert [one["port"] for one in await api.ask("GET", "ports/list")] == [low + 3, low + 5]


async def test_a_port_can_be_had_for_datagrams_too(api: Publisher) -> None:
    port = (await api.ask("GET", "ports/allocate"))["port"]
    answer = await api.ask("GET", f"ports/allocate?port={port}&transport=udp")
    assert answer == {**DONE, "port": port, "message": "new port allocated"}
    assert [one.get("transport", "tcp") for one in await api.ask("GET", "ports/list")] == ["tcp", "udp"]
    assert await api.ask("POST", "ports/release", {"port": port, "transport": "udp"}) == DONE
    assert [one.get("transport", "tcp") for one in await api.ask("GET", "ports/list")] == ["tcp"]


async def test_without_a_session_ports_are_neither_given_nor_taken_back(api: Publisher) -> None:
    port = (await api.ask("GET", "ports/allocate"))["port"]
    await api.ask("GET", "tun/shutdown")
    refused = {"status": False, "error": "tunnel is not connected"}
    assert await api.ask("GET", "ports/allocate") == {**refused, "port": 0, "message": ""}
    assert await api.ask("POST", "ports/release", {"port": port}) == refused
    assert [one["port"] for one in await api.ask("GET", "ports/list")] == [port]


async def test_when_every_port_is_given_that_is_said(home: Path) -> None:
    port = free_port()
    async with published(home, tcp_ports=f"{port}-{port}") as (_, made):
        assert (await made.ask("GET", "ports/allocate"))["port"] == port
        answer = await made.ask("GET", "ports/allocate")
        assert answer == {"status": False, "port": 0, "message": "", "error": "no ports available"}
