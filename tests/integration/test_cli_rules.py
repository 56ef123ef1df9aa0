"""The commands over the agent's API, against an agent that keeps its rules in memory."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import structlog
from pydantic import SecretStr

from agent_bed import MemoryAgent
from moongate.api.agent.local import LocalApi
from moongate.api.agent.parts import LocalParts
from moongate.cli.app import run
from moongate.cli.outcome import Exit
from moongate.identity.passwords import verify_password

Said = tuple[int, str, str]
Run = Callable[..., Awaitable[Said]]


@pytest.fixture
def agent() -> MemoryAgent:
    # What the agent logs is not what the command says.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    return MemoryAgent()


@pytest.fixture
async def moongate(agent: MemoryAgent, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Run]:
    api = LocalApi(LocalParts(agent=agent), port=0)
    await api.start()

    async def command(*words: str) -> Said:
        code = await asyncio.to_thread(run, [*words, "--api-port", str(api.port)])
        said = capsys.readouterr()
        return code, said.out, said.err

    yield command
    await api.aclose()


def rules(agent: MemoryAgent) -> list[dict[str, object]]:
    return [rule.members() for rule in agent.book.rules()]


@pytest.mark.parametrize(
    ("words", "members"),
    [
        (["shop.example.test", "3000"], {"destination": "localhost", "port": 3000}),
        (["shop.example.test", "db:80"], {"destination": "db", "port": 80}),
        (["shop.example.test", "https://127.0.0.1:8443/x"], {"upstreamURL": "https://127.0.0.1:8443/x"}),
        (["--domain", "shop.example.test", "--http", "80"], {"destination": "127.0.0.1", "port": 80}),
        (["shop.example.test", "--destination", "db", "--http", "80"], {"destination": "db", "port": 80}),
        (["shop.example.test", "--upstream-url", "http://x:1"], {"upstreamURL": "http://x:1"}),
        (["shop.example.test", "--tls", "8443"], {"tls": 8443}),
        (["shop.example.test", "--webroot", "/srv/www"], {"webRoot": "/srv/www"}),
        (
            ["shop.example.test", "80", "--redirect"],
            {"destination": "localhost", "port": 80, "secure": True, "redirect": True},
        ),
        (
            ["shop.example.test", "80", "--letsencrypt"],
            {"destination": "localhost", "port": 80, "secure": True, "useLetsEnc": True},
        ),
        (
            ["shop.example.test", "80", "--ca", "/c.pem", "--key", "/k.pem"],
            {"destination": "localhost", "port": 80, "secure": True, "ca": "/c.pem", "privateKey": "/k.pem"},
        ),
        (
            ["shop.example.test", "80", "--rewrite-host", "h", "--insecure-upstream"],
            {"destination": "localhost", "port": 80, "rewriteHost": "h", "insecureUpstream": True},
        ),
        (["shop.example.test", "--redirect-url", "https://x.example/"], {"redirectURL": "https://x.example/"}),
        (
            ["shop.example.test", "80", "--allow", "10.0.0.0/8", "--drop", "10.1.0.0/16"],
            {
                "destination": "localhost",
                "port": 80,
                "firewall": [
                    {"sequence": 1, "action": "drop", "network": "10.1.0.0/16"},
                    {"sequence": 2, "action": "allow", "network": "10.0.0.0/8"},
                ],
            },
        ),
    ],
)
@pytest.mark.parametrize("spelling", [["route", "add"], ["route", "http", "add"], ["tunnel", "http", "add"]])
async def test_each_flag_becomes_its_member(
    moongate: Run, agent: MemoryAgent, spelling: list[str], words: list[str], members: dict[str, object]
) -> None:
    code, out, err = await moongate(*spelling, *words)
    assert (code, out, err) == (Exit.OK, "added shop.example.test\n", "")
    assert rules(agent) == [{"domain": "shop.example.test", **members}]


async def test_passwords_are_read_from_files_and_leave_them_hashed(
    moongate: Run, agent: MemoryAgent, tmp_path: Path
) -> None:
    (tmp_path / "page").write_text("open sesame\n")
    (tmp_path / "basic").write_text("ann:open sesame\n")
    files = ["--password-file", str(tmp_path / "page"), "--basic-auth-file", str(tmp_path / "basic")]
    assert (await moongate("route", "add", "a.example.test", "80", *files))[0] == Exit.OK
    site = agent.book.https["a.example.test"]
    assert verify_password("open sesame", site.password)
    assert verify_password("ann:open sesame", site.basic_http_auth)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which domain?"),
        (["a.example.test", "80", "--http", "81"], "two upstreams are given"),
        (["a.example.test", "nonsense"], "'nonsense' names no port"),
    ],
)
async def test_what_cannot_be_meant_is_a_usage_error(moongate: Run, words: list[str], message: str) -> None:
    code, out, err = await moongate("route", "add", *words)
    assert (code, out) == (Exit.USAGE, "")
    assert message in err


async def test_what_the_agent_refuses_is_said_in_its_words(moongate: Run) -> None:
    assert (await moongate("route", "add", "a.example.test", "80"))[0] == Exit.OK
    code, _, err = await moongate("route", "add", "a.example.test", "81")
    assert (code, err) == (Exit.FAILED, "error: domain already exists: a.example.test\n")
    code, out, _ = await moongate("route", "add", "a.example.test", "81", "--json")
    assert json.loads(out) == {
        "event": "error",
        "code": "agent.failed",
        "message": "domain already exists: a.example.test",
        "hint": "",
    }


async def test_a_site_is_replaced_listed_and_removed(moongate: Run, agent: MemoryAgent) -> None:
    await moongate("route", "add", "a.example.test", "80", "--redirect")
    assert (await moongate("route", "add", "a.example.test", "81", "--replace"))[1] == "replaced a.example.test\n"
    assert rules(agent) == [{"domain": "a.example.test", "destination": "localhost", "port": 81}]
    _, out, _ = await moongate("route", "ls")
    assert "a.example.test" in out
    assert "localhost:81" in out
    assert json.loads((await moongate("route", "ls", "--json"))[1]) == rules(agent)[0]
    assert (await moongate("route", "rm", "a.example.test"))[1] == "removed a.example.test\n"
    assert rules(agent) == []
    assert (await moongate("route", "ls"))[1] == ""


async def test_a_firewall_grows_rule_by_rule(moongate: Run, agent: MemoryAgent) -> None:
    await moongate("route", "add", "a.example.test", "80")
    for action, network in (("drop", "10.1.0.0/16"), ("allow", "10.0.0.0/8")):
        words = ["route", "http", "firewall", action, "--domain", "a.example.test", "--network", network]
        assert (await moongate(*words))[0] == Exit.OK
    assert agent.book.https["a.example.test"].members()["firewall"] == [
        {"sequence": 1, "action": "drop", "network": "10.1.0.0/16"},
        {"sequence": 2, "action": "allow", "network": "10.0.0.0/8"},
    ]
    words = ["route", "http", "firewall", "drop", "--domain", "b.example.test", "--network", "10.0.0.0/8"]
    code, _, err = await moongate(*words)
    assert code == Exit.FAILED
    assert "not found: https b.example.test" in err


async def test_a_ports_life(moongate: Run, agent: MemoryAgent) -> None:
    assert (await moongate("port", "allocate", "--port", "22872"))[1] == "allocated port 22872\n"
    code, out, _ = await moongate("port", "forward", "22872", "127.0.0.1:2200", "--allow", "71.1.2.3")
    assert (code, out) == (Exit.OK, "port 22872 leads to 127.0.0.1:2200\n")
    assert json.loads((await moongate("port", "ls", "--json"))[1]) == {
        "port": 22872,
        "destination": "127.0.0.1",
        "dstPort": 2200,
        "firewall": [{"sequence": 1, "action": "allow", "network": "71.1.2.3/32"}],
    }
    assert "127.0.0.1:2200" in (await moongate("port", "ls"))[1]
    assert (await moongate("port", "clear", "22872"))[0] == Exit.OK
    assert rules(agent) == [{"port": 22872, "destination": "", "dstPort": 0}]
    assert (await moongate("port", "release", "22872"))[1] == "released port 22872\n"
    code, _, err = await moongate("port", "release", "22872")
    assert (code, err) == (Exit.FAILED, "error: port not allocated: 22872\n")


@pytest.mark.parametrize("group", ["route", "tunnel"])
async def test_the_older_spelling_of_ports_is_known_too(moongate: Run, agent: MemoryAgent, group: str) -> None:
    forward = [group, "tcp", "forward", "--destination", "127.0.0.1", "--dstport", "22"]
    # The agent of this test gives 22431 to whoever does not say which port.
    assert (await moongate(*forward))[1] == "port 22431 leads to 127.0.0.1:22\n"
    assert (await moongate(group, "tcp", "allocate", "--json"))[0] == Exit.OK
    assert (await moongate(group, "tcp", "ls"))[0] == Exit.OK
    assert (await moongate(group, "tcp", "release", "--port", "22431"))[0] == Exit.OK
    assert rules(agent) == []


async def test_port_maps_lead_to_ports_of_the_node_and_to_public_hosts(moongate: Run, agent: MemoryAgent) -> None:
    assert (await moongate("portmap", "add", "15001", "22132", "--label", "db"))[
        1
    ] == "127.0.0.1:15001 leads to port 22132 of the node\n"
    assert (await moongate("portmap", "add", "15002", "db.example.net:53", "--udp"))[0] == Exit.OK
    assert rules(agent) == [
        {"port": 15001, "dstPort": 22132, "destination": "", "transport": "tcp", "label": "db", "listenPort": 15001},
        {"port": 15002, "dstPort": 53, "destination": "db.example.net", "transport": "udp", "listenPort": 15002},
    ]
    assert "db.example.net:53" in (await moongate("portmap", "ls"))[1]
    assert (await moongate("portmap", "rm", "15001", "15002"))[1] == "removed 15001, 15002\n"
    assert (await moongate("portmap", "ls", "--json"))[1] == ""


async def test_info_and_health_tell_scripts_by_their_exit_code(moongate: Run, agent: MemoryAgent) -> None:
    code, out, _ = await moongate("agent", "info")
    assert code == Exit.OK
    assert "connected" in out
    agent.connected = False
    code, out, _ = await moongate("agent", "info", "--json")
    assert code == Exit.FAILED
    assert json.loads(out)["isTunConnected"] is False
    await moongate("route", "add", "a.example.test", "80")
    code, out, _ = await moongate("agent", "health")
    assert code == Exit.OK
    assert "a.example.test" in out
    assert json.loads((await moongate("agent", "health", "--json"))[1])["available"] is True


async def test_a_token_is_shown_where_one_is_asked_for(
    agent: MemoryAgent, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api = LocalApi(LocalParts(agent=agent, token=SecretStr("only-for-this-test")), port=0)
    await api.start()
    (tmp_path / "token").write_text("only-for-this-test\n")
    words = ["agent", "info", "--api-port", str(api.port)]
    try:
        assert await asyncio.to_thread(run, words) == Exit.REFUSED
        assert "--api-token-file" in capsys.readouterr().err
        assert await asyncio.to_thread(run, [*words, "--api-token-file", str(tmp_path / "token")]) == Exit.OK
    finally:
        await api.aclose()


async def test_without_an_agent_the_remedy_is_said(
    free_port: Callable[[], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert await asyncio.to_thread(run, ["route", "ls", "--api-port", str(free_port())]) == Exit.UNREACHABLE
    assert "`moongate agent start` starts one" in capsys.readouterr().err
