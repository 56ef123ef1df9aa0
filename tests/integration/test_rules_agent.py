"""An agent that stays: its rules through a node, its session, and what outlives what."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moongate.agent import supervisor
from moongate.agent.session import State
from moongate.agent.store import RuleStore
from moongate.agent.supervisor import RulesAgent
from moongate.errors import ConfigurationError
from moongate.net.dialing import NodeAddress
from testbed import free_port, until_async
from testbed.house import House, http_route, open_house, serving, tcp_route
from testbed.pem import write_pair


@asynccontextmanager
async def agent_of(home: Path, house: House | None, *, wait: bool = True, **more: Any) -> AsyncIterator[RulesAgent]:
    address = more.pop("address", NodeAddress.parse(house.join) if house is not None else None)
    agent = RulesAgent(RuleStore(home / "agent"), address, **more)
    await agent.open()
    try:
        if wait:
            await until_async(lambda: agent.is_connected, what=f"a session; {agent.info()}")
        yield agent
    finally:
        await agent.aclose()


@pytest.fixture
async def house(home: Path) -> AsyncIterator[House]:
    async with open_house(home / "node") as house:
        yield house


@pytest.fixture
async def agent(home: Path, house: House) -> AsyncIterator[RulesAgent]:
    async with agent_of(home, house) as agent:
        yield agent


def saying(word: bytes) -> Any:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(word), word))

    return answer


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)


async def get(house: House, name: str, path: str = "/") -> tuple[int, bytes]:
    async with house.visitor() as visitor:
        visitor.request(name, path)
        answer = await visitor.answer()
        return answer.status, answer.body


def site(name: str, port: int, **more: Any) -> dict[str, Any]:
    return {"https": [{"domain": name, "destination": "127.0.0.1", "port": port, **more}]}


async def ready(agent: RulesAgent, name: str) -> None:
    """Wait until the agent knows that the node has published this site."""
    assert agent._agent is not None
    leases = agent._agent.leases
    await until_async(lambda: (shown := leases.state_of(f"https:{name}")) is not None and shown.state == "ready")


async def done(answer: Any) -> dict[str, Any]:
    told: dict[str, Any] = await answer
    assert told["status"], told
    return told


# -- rules


async def test_a_site_is_published_changed_and_taken_away(house: House, agent: RulesAgent) -> None:
    async with serving(saying(b"one")) as one, serving(saying(b"two")) as two:
        await done(agent.create(site("shop.localhost", one)))
        assert await get(house, "shop.localhost") == (200, b"one")
        await done(agent.update(site("shop.localhost", two)))
        assert await get(house, "shop.localhost") == (200, b"two")
        await done(agent.delete({"https": [{"domain": "shop.localhost"}]}))
        assert (await get(house, "shop.localhost"))[0] == 404


async def test_a_connection_under_a_changed_rule_finishes_on_the_old_one(house: House, agent: RulesAgent) -> None:
    port = (await done(agent.allocate()))["port"]
    async with serving(echo) as old, serving(saying(b"new")) as new:
        rule = {"port": port, "destination": "127.0.0.1", "dstPort": old}
        await done(agent.create({"ports": [rule]}))
        async with house.visitor(port) as visitor:
            visitor.send(b"before")
            assert await visitor.reader.readexactly(6) == b"before"
            await done(agent.update({"ports": [rule | {"dstPort": new}]}))
            visitor.send(b"after!")
            assert await visitor.reader.readexactly(6) == b"after!"
            async with house.visitor(port) as second:
                second.request("x")
                assert (await second.answer()).body == b"new"


async def test_other_rules_connections_notice_nothing(house: House, agent: RulesAgent) -> None:
    port = (await done(agent.allocate()))["port"]
    async with serving(echo) as upstream, serving(saying(b"one")) as web:
        await done(agent.create({"ports": [{"port": port, "destination": "127.0.0.1", "dstPort": upstream}]}))
        async with house.visitor(port) as visitor:
            for number in range(5):
                await done(agent.create(site(f"s{number}-x.localhost", web)))
                await done(agent.update(site(f"s{number}-x.localhost", web, rewriteHost="y")))
                await done(agent.delete(site(f"s{number}-x.localhost", web)))
                visitor.send(b"still")
                assert await visitor.reader.readexactly(5) == b"still"


async def test_what_the_node_refuses_is_not_created_and_the_rest_is(house: House, agent: RulesAgent) -> None:
    token = await house.token(label="somebody else")
    async with serving(saying(b"theirs")) as port:
        await house.agent(http_route(port, "taken"), token=token)
        told = await agent.create(
            {"https": site("taken.localhost", port)["https"] + site("free.localhost", port)["https"]}
        )
        assert not told["status"]
        assert [one["status"] for one in told["results"]] == [False, True]
        assert "is held by 'somebody else'" in told["results"][0]["error"]
        assert [one["domain"] for one in agent.config()["https"]] == ["free.localhost"]
        assert await get(house, "free.localhost") == (200, b"theirs")


async def test_an_update_that_the_node_refuses_leaves_the_old_rule(
    house: House, agent: RulesAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(saying(b"one")) as one, serving(saying(b"two")) as two:
        await done(agent.create(site("shop.localhost", one)))

        def refuse(*_: Any, **__: Any) -> None:
            raise ConfigurationError("not today")

        monkeypatch.setattr(house.node._routes, "update", refuse)
        told = await agent.update(site("shop.localhost", two))
        assert told["error"] == "https shop.localhost: not today"
        assert agent.config()["https"][0]["port"] == one
        assert await get(house, "shop.localhost") == (200, b"one")


async def test_a_rule_made_without_a_link_is_published_when_there_is_one(home: Path, house: House) -> None:
    async with serving(saying(b"one")) as port, agent_of(home, house) as agent:
        await agent.shutdown()
        await done(agent.create(site("later.localhost", port)))
        assert (await get(house, "later.localhost"))[0] == 404
        await agent.start(10)
        await ready(agent, "later.localhost")
        assert await get(house, "later.localhost") == (200, b"one")


async def test_rules_are_there_again_after_the_agent_was_killed(home: Path, house: House) -> None:
    async with serving(saying(b"one")) as web, serving(echo) as raw:
        async with agent_of(home, house) as agent:
            port = (await done(agent.allocate()))["port"]
            await done(agent.create(site("shop.localhost", web)))
            await done(agent.create({"ports": [{"port": port, "destination": "127.0.0.1", "dstPort": raw}]}))
        async with agent_of(home, house) as agent:
            await until_async(lambda: len(house.node._routes.tunnels()) == 2)
            await ready(agent, "shop.localhost")
            assert await get(house, "shop.localhost") == (200, b"one")
            async with house.visitor(port) as visitor:
                visitor.send(b"ping")
                assert await visitor.reader.readexactly(4) == b"ping"


async def test_a_sites_name_is_kept_while_its_agent_is_away_and_free_once_the_rule_is_deleted(home: Path) -> None:
    async with serving(saying(b"one")) as port, open_house(home / "node", lease_hold_s=0) as house:
        stranger = await house.token(label="stranger")
        async with agent_of(home, house) as agent:
            await done(agent.create(site("shop.localhost", port)))
            assert await get(house, "shop.localhost") == (200, b"one")
        assert (await get(house, "shop.localhost"))[0] == 503
        refused = await house.agent(http_route(port, "shop"), token=stranger)
        assert refused.refused[0].code == "name.taken"
        async with agent_of(home, house) as agent:
            await done(agent.delete({"https": [{"domain": "shop.localhost"}]}))
        await house.agent(http_route(port, "shop"), token=stranger)
        assert await get(house, "shop.localhost") == (200, b"one")


async def test_a_name_is_given_up_though_its_rule_was_deleted_without_a_link_and_the_agent_ended_then(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "TEND_S", 0.1)
    owed = home / "agent" / "rules.json"
    async with serving(saying(b"one")) as port, open_house(home / "node", lease_hold_s=0) as house:
        async with agent_of(home, house) as agent:
            await done(agent.create(site("shop.localhost", port)))
            await done(agent.create(site("again.localhost", port)))
            await agent.shutdown()
            await done(agent.delete({"https": [{"domain": "shop.localhost"}, {"domain": "again.localhost"}]}))
            await done(agent.create(site("again.localhost", port)))
            assert json.loads(owed.read_text())["givenUp"] == [["http", "shop.localhost"]]
        assert (await get(house, "shop.localhost"))[0] == 503
        async with agent_of(home, house):
            await until_async(lambda: house.node._routes.by_host("again.localhost"))
            assert (await get(house, "shop.localhost"))[0] == 404
            await until_async(lambda: json.loads(owed.read_text())["givenUp"] == [])


async def test_a_full_disk_changes_nothing(home: Path, agent: RulesAgent, house: House) -> None:
    local = free_port()
    # Where the new file would be written, nothing can be: this device is always full.
    (home / "agent" / f".rules.json.{os.getpid()}").symlink_to("/dev/full")
    told = await agent.create(
        site("a-b.localhost", 1) | {"portmaps": [{"port": local, "dstPort": 1, "destination": "127.0.0.1"}]}
    )
    assert not told["status"]
    assert "no space left on device" in told["error"]
    assert agent.config()["https"] == []
    assert house.node._routes.tunnels() == []
    with pytest.raises(OSError, match="refused|failed"):
        await asyncio.open_connection("127.0.0.1", local)


async def test_passwords_are_kept_as_hashes_only(home: Path, house: House) -> None:
    async with serving(saying(b"one")) as port, agent_of(home, house) as agent:
        await done(agent.create(site("shop.localhost", port, basicHttpAuth="me:geheim", password="geheim")))
        assert "geheim" not in (home / "agent" / "rules.json").read_text()
        assert agent.config()["https"][0]["password"] == "***"
        assert agent.config(secrets=True)["https"][0]["basicHttpAuth"].startswith("scrypt$")
        assert (await get(house, "shop.localhost"))[0] == 401


async def test_a_firewall_is_the_nodes_and_changes_live(house: House, agent: RulesAgent) -> None:
    drop = {"sequence": 1, "action": "drop", "network": "127.0.0.0/8"}
    async with serving(saying(b"one")) as port:
        await done(agent.create(site("shop.localhost", port)))
        await done(agent.update(site("shop.localhost", port, firewall=[drop])))
        async with house.visitor() as visitor:
            visitor.request("shop.localhost")
            assert await visitor.ended()
        await done(agent.patch({"https": [{"domain": "shop.localhost", "firewall": []}]}))
        assert await get(house, "shop.localhost") == (200, b"one")


async def test_an_own_certificate_is_brought_shown_in_health_and_renewed(
    home: Path, house: House, agent: RulesAgent
) -> None:
    chain, key = write_pair(home, "shop.localhost")
    async with serving(saying(b"one")) as port:
        rule = site("shop.localhost", port, secure=True, ca=str(chain), privateKey=str(key))
        await done(agent.create(rule))

        async def state() -> str:
            return str((await agent.health())["services"][0].get("certificate", {}).get("state"))

        async def until_state(wanted: str) -> None:
            for _ in range(200):
                if await state() == wanted:
                    return
                await asyncio.sleep(0.02)
            pytest.fail(f"not {wanted}: {await agent.health()}")

        await until_state("ready")
        chain.write_text("no certificate")
        assert agent._agent is not None
        agent._agent.leases.send_changed_certificates()
        await until_state("failed")
        write_pair(home, "shop.localhost")
        agent._agent.leases.send_changed_certificates()
        await until_state("ready")


# -- ports


async def test_a_port_is_allocated_listed_refused_to_visitors_and_released(house: House, agent: RulesAgent) -> None:
    told = await done(agent.allocate())
    port = told["port"]
    assert told["message"] == "new port allocated"
    assert agent.ports() == [{"port": port, "destination": "", "dstPort": 0}]
    async with house.visitor(port) as visitor:
        assert await visitor.ended()
    async with serving(echo) as raw:
        await done(agent.create({"ports": [{"port": port, "destination": "127.0.0.1", "dstPort": raw}]}))
        async with house.visitor(port) as visitor:
            visitor.send(b"ping")
            assert await visitor.reader.readexactly(4) == b"ping"
            await done(agent.release(port))
            assert await visitor.ended()
    assert agent.ports() == []
    assert (await agent.release(port))["error"] == f"port not allocated: {port}"
    with pytest.raises(OSError, match="refused|failed"):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_named_port_is_given_and_one_that_is_ours_is_given_again(house: House, agent: RulesAgent) -> None:
    wanted = house.config.tcp_ports.low + 3
    assert (await done(agent.allocate(wanted)))["port"] == wanted
    assert (await done(agent.allocate(wanted)))["port"] == wanted
    assert (await agent.allocate(1))["error"] == f"port 1 is not in {house.config.tcp_ports}"


async def test_when_no_port_is_left_it_is_said_so(house: House, agent: RulesAgent) -> None:
    for _ in house.config.tcp_ports:
        await done(agent.allocate())
    told = await agent.allocate()
    assert (told["status"], told["port"], told["error"]) == (False, 0, "no ports available")
    assert (await done(agent.allocate(transport="udp")))["port"]


async def test_ports_need_a_link(agent: RulesAgent) -> None:
    port = (await done(agent.allocate()))["port"]
    await agent.shutdown()
    assert (await agent.allocate())["error"] == "tunnel is not connected"
    assert (await agent.release(port))["error"] == "tunnel is not connected"
    assert [one["port"] for one in agent.ports()] == [port]


async def test_an_allocation_outlives_agent_and_node(home: Path) -> None:
    async with open_house(home / "node", lease_hold_s=0) as house:
        settings = house.config
        async with agent_of(home, house) as agent:
            port = (await done(agent.allocate()))["port"]
        stranger = await house.token(label="stranger")
    join = (home / "node" / "join").read_text().strip()
    assert join
    host = settings.listen_address
    async with open_house(
        home / "node", lease_hold_s=0, tcp_ports=str(settings.tcp_ports), listen=f"{host[0]}:{host[1]}"
    ) as house:
        refused = await house.agent(tcp_route(1, port=port), token=stranger)
        assert refused.refused[0].code == "port.unavailable"
        async with agent_of(home, house) as agent:
            await until_async(house.node._routes.tunnels)
            assert [one["port"] for one in agent.ports()] == [port]


# -- port maps


async def test_a_port_map_leads_to_ones_own_port_of_the_node(agent: RulesAgent, house: House) -> None:
    port, local = (await done(agent.allocate()))["port"], free_port()
    async with serving(echo) as raw:
        rule = {"port": port, "destination": "127.0.0.1", "dstPort": raw}
        await done(agent.create({"ports": [rule], "portmaps": [{"listenPort": local, "dstPort": port}]}))
        reader, writer = await asyncio.open_connection("127.0.0.1", local)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        await done(agent.delete({"portmaps": [{"port": local}]}))
        with pytest.raises(OSError, match="refused|failed"):
            await asyncio.open_connection("127.0.0.1", local)


async def test_a_local_port_in_use_is_said_and_nothing_is_done(agent: RulesAgent, house: House) -> None:
    async with serving(echo) as busy:
        good: dict[str, Any] = {"port": free_port(), "dstPort": 1, "destination": "127.0.0.1"}
        told = await agent.create(
            site("shop.localhost", 1) | {"portmaps": [good, {"port": busy, "dstPort": 1, "destination": "127.0.0.1"}]}
        )
        assert told["error"] == f"cannot listen on {busy}: another program uses it"
        assert [one["status"] for one in told["results"]] == [False, False, False]
        assert agent.config()["portmaps"] == []
        assert house.node._routes.tunnels() == []
        await until_async(lambda: agent._local_ports._portmaps._maps == {}, what="the good one is closed again")


async def test_a_kept_port_map_whose_port_is_taken_is_opened_later(
    home: Path, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "TEND_S", 0.05)
    local = free_port()
    async with serving(echo) as raw:
        mapped = {"portmaps": [{"port": local, "dstPort": raw, "destination": "127.0.0.1"}]}
        async with agent_of(home, house) as agent:
            await done(agent.create(mapped))
        other = await asyncio.start_server(echo, "127.0.0.1", local)
        async with agent_of(home, house) as agent:
            assert not agent._local_ports.is_complete
            other.close()
            await other.wait_closed()
            await until_async(lambda: agent._local_ports.is_complete)
            reader, writer = await asyncio.open_connection("127.0.0.1", local)
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            writer.close()


async def test_a_port_map_that_was_deleted_while_its_port_was_taken_is_not_opened_later(
    home: Path, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = free_port()
    async with agent_of(home, house) as agent:
        await done(agent.create({"portmaps": [{"port": local, "dstPort": 1, "destination": "127.0.0.1"}]}))
    monkeypatch.setattr(supervisor, "TEND_S", 0.02)
    other = await asyncio.start_server(echo, "127.0.0.1", local)
    async with agent_of(home, house) as agent:
        assert agent._local_ports._unopened == {str(local)}
        await agent.shutdown()
        await done(agent.delete({"portmaps": [{"port": local}]}))
        other.close()
        await other.wait_closed()
        await agent.start(10)
        assert agent._local_ports.is_complete
        with pytest.raises(OSError, match="refused|failed"):
            await asyncio.open_connection("127.0.0.1", local)


# -- the session


async def test_the_session_is_stopped_started_and_renewed(house: House, agent: RulesAgent) -> None:
    assert await agent.start(0) == {"status": True, "error": "", "isTunConnected": True}
    assert await agent.shutdown() == {"status": True, "error": ""}
    assert await agent.shutdown() == {"status": True, "error": ""}
    assert (agent.state, agent.info()["isTunConnected"], agent.info()["desired"]) == (State.STOPPED, False, "stopped")
    await until_async(lambda: house.node._routes.session_count == 0)
    told = await agent.start(10)
    assert told == {"status": True, "error": "", "isTunConnected": False, "connected": True}
    links = agent.info()["reconnects"]
    assert (await agent.restart(10))["connected"]
    assert agent.info()["reconnects"] == links + 1


async def test_shutdown_ends_an_attempt_that_is_under_way(home: Path) -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(deaf) as port:
        address = NodeAddress.parse(f"http://127.0.0.1:{port}")
        async with agent_of(home, None, wait=False, address=address, token="x") as agent:
            assert agent.info()["state"] == State.CONNECTING
            began = time.monotonic()
            assert (await agent.shutdown())["status"]
            assert time.monotonic() - began < 4
            assert agent.info()["state"] == State.STOPPED


async def test_the_session_ends_after_as_many_attempts_as_there_may_be_and_can_be_begun_again(home: Path) -> None:
    address = NodeAddress.parse(f"http://127.0.0.1:{free_port()}")
    async with agent_of(home, None, wait=False, address=address, token="x", max_attempts=2) as agent:
        await until_async(lambda: agent.state is State.FAILED)
        assert "refused the connection" in agent.info()["lastError"]
        assert (await agent.start(0))["isTunConnected"] is False
        assert agent.info()["state"] == State.CONNECTING
        await until_async(lambda: agent.state is State.FAILED)
        assert (await agent.shutdown())["status"]
        assert agent.info()["state"] == State.STOPPED
        await agent.start(0)
        await until_async(lambda: agent.state is State.FAILED)


async def test_an_agent_without_a_node_says_so(home: Path) -> None:
    async with agent_of(home, None, wait=False) as agent:
        assert (await agent.start(0))["error"] == "there is no node to connect to"
        assert (await agent.create(site("a-b.test", 1)))["status"]
        assert (await agent.allocate())["error"] == "tunnel is not connected"


async def test_a_token_that_the_node_does_not_know_does_not_end_the_agent(home: Path, house: House) -> None:
    address = replace(NodeAddress.parse(house.join), token="unknown")
    async with agent_of(home, None, wait=False, address=address) as agent:
        await until_async(lambda: agent.state is State.WAITING)
        assert "token" in agent.info()["lastError"]
        assert agent.is_alive


async def test_a_fault_of_our_own_ends_no_agent(agent: RulesAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FAULT_PAUSE_S", 0.01)
    assert agent._agent is not None
    dial = agent._agent._dialer.dial
    faults: list[str] = []

    async def fail_first(receiver: Any) -> Any:
        if not faults:
            faults.append("once")
            raise ZeroDivisionError("a fault")
        return await dial(receiver)

    monkeypatch.setattr(agent._agent._dialer, "dial", fail_first)
    await agent.restart(0)
    await until_async(lambda: faults and agent.is_connected)


async def test_all_rules_are_back_after_the_link_was_cut(house: House, agent: RulesAgent) -> None:
    async with serving(saying(b"one")) as port:
        for name in ("one", "two", "three"):
            await done(agent.create(site(f"{name}.localhost", port)))
        assert agent._agent is not None
        mux = agent._agent._mux
        assert mux is not None
        mux.link.fail("cut by the test")
        await until_async(lambda: agent.state is State.WAITING)
        await until_async(lambda: agent.is_connected and len(house.node._routes.tunnels()) == 3)
        for name in ("one", "two", "three"):
            await ready(agent, f"{name}.localhost")
            assert await get(house, f"{name}.localhost") == (200, b"one")


async def test_what_an_administrator_has_closed_comes_back_with_a_restart_only(house: House, agent: RulesAgent) -> None:
    async with serving(saying(b"one")) as port:
        await done(agent.create(site("shop.localhost", port)))
        (tunnel,) = house.node._routes.tunnels()
        await house.node._control.close_tunnel(tunnel.id, "not wanted here")
        await until_async(lambda: "not wanted here" in agent.info()["lastError"])
        (service,) = (await agent.health())["services"]
        assert service["tunnel"]["state"] == "closed"
        await agent.restart(10)
        await ready(agent, "shop.localhost")
        assert await get(house, "shop.localhost") == (200, b"one")


# -- health and events


async def test_health_says_of_each_rule_whether_its_service_answers(home: Path, agent: RulesAgent) -> None:
    port = (await done(agent.allocate()))["port"]
    (home / "www").mkdir()
    async with serving(echo) as raw:
        dead = free_port()
        rules: list[dict[str, Any]] = [
            {"domain": "up-x.localhost", "destination": "127.0.0.1", "port": raw},
            {"domain": "down.localhost", "upstreamURL": f"http://127.0.0.1:{dead}"},
            {"domain": "files.localhost", "webRoot": str(home / "www")},
            {"domain": "both.localhost", "webRoot": str(home / "none"), "destination": "127.0.0.1", "port": raw},
            {"domain": "away.localhost", "redirectURL": "https://example.test/"},
        ]
        await done(
            agent.create({"https": rules, "ports": [{"port": port, "destination": "127.0.0.1", "dstPort": dead}]})
        )
        await done(agent.allocate())
        services = (await agent.health())["services"]
    shown = [(one.get("http", one.get("port")), one["available"], one["error"]) for one in services]
    refused = f"127.0.0.1:{dead} refused the connection: nothing listens there"
    assert shown == [
        (rules[0], True, ""),
        (rules[1], False, refused),
        (rules[2], True, ""),
        (rules[3], False, f"there is no directory {home / 'none'}"),
        (rules[4], True, ""),
        ({"port": port, "destination": "127.0.0.1", "dstPort": dead}, False, refused),
    ]
    assert all(one["flow"] == str(one["flowID"]) for one in services)


async def test_what_happens_is_told_to_whoever_listens(house: House, agent: RulesAgent) -> None:
    heard = agent.events()
    await done(agent.create(site("shop.localhost", 1)))
    await agent.restart(10)

    async def next_name() -> tuple[str, Any]:
        async with asyncio.timeout(5):
            return await anext(heard)

    assert await next_name() == ("rule_changed", {"kind": "https", "key": "shop.localhost"})
    assert (await next_name())[0] == "tunnel_down"
    assert (await next_name())[0] == "tunnel_up"


async def test_a_service_that_goes_down_is_told_to_whoever_listens(
    agent: RulesAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = agent.events()
    async with serving(echo) as port:
        await done(agent.create(site("shop.localhost", port)))
        assert await anext(heard) == ("rule_changed", {"kind": "https", "key": "shop.localhost"})
        monkeypatch.setattr(supervisor, "HEALTH_WATCH_S", 0.05)
        agent._health_due.set()
        await until_async(lambda: agent._health._known)
    async with asyncio.timeout(5):
        name, service = await anext(heard)
    assert (name, service["available"]) == ("health_changed", False)
    assert service["http"]["domain"] == "shop.localhost"


async def test_a_thousand_rules_are_created_in_two_seconds_and_checked_in_five(house: House, agent: RulesAgent) -> None:
    async with serving(echo) as up:
        dead = free_port()
        sites = [
            {"domain": f"s-{n}.localhost", "destination": "127.0.0.1", "port": dead if n % 20 == 0 else up}
            for n in range(1000)
        ]
        began = time.monotonic()
        await done(agent.create({"https": sites}))
        created = time.monotonic()
        services = (await agent.health())["services"]
        checked = time.monotonic()
    assert len(house.node._routes.tunnels()) == 1000
    assert sum(not one["available"] for one in services) == 50
    assert created - began < 2
    assert checked - created < 5
    assert len(json.loads((agent._store.path).read_text())["https"]) == 1000
