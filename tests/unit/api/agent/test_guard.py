import pytest
from pydantic import SecretStr

from agent_bed import PREFIX, MemoryAgent, client_of
from moongate.api.agent.guard import Policy

INFO = f"{PREFIX}/info"
TOKEN = "a-token-of-the-test"


def verdict(*headers: tuple[str, str], policy: Policy | None = None) -> int | None:
    policy = policy or Policy((), (), None)
    refusal = policy.refusal([(name.lower().encode(), value.encode("latin-1")) for name, value in headers])
    return refusal.status if refusal is not None else None


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:4100", "localhost", "LocalHost:4100", "localhost.", "[::1]", "[::1]:4100", "localhost:9"],
)
def test_the_names_of_loopback_are_served(host: str) -> None:
    assert verdict(("Host", host)) is None


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "attacker.example:4100",
        "127.0.0.1.attacker.example",
        "localhost.attacker.example",
        "192.0.2.1:4100",
        "0.0.0.0:4100",
        "[::]:4100",
        "[::1",
        "::1",
        "",
        "127.0.0.1@attacker.example",
        "moongate",
    ],
)
def test_a_name_that_was_rebound_to_loopback_is_refused(host: str) -> None:
    assert verdict(("Host", host)) == 403


@pytest.mark.parametrize("hosts", [[], ["localhost", "localhost"], ["localhost", "attacker.example"]])
def test_exactly_one_host_header_is_needed(hosts: list[str]) -> None:
    assert verdict(*(("Host", host) for host in hosts)) == 400


def test_a_name_that_was_configured_is_served() -> None:
    policy = Policy(["Box.lan"], (), None)
    assert verdict(("Host", "box.LAN:4100"), policy=policy) is None
    assert verdict(("Host", "other.lan:4100"), policy=policy) == 403


@pytest.mark.parametrize(
    "origin", ["https://attacker.example", "null", "", "http://localhost:3000", "http://127.0.0.1:4100", "file://"]
)
def test_pages_may_not_call(origin: str) -> None:
    assert verdict(("Host", "localhost"), ("Origin", origin)) == 403


@pytest.mark.parametrize(
    ("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", None), ("none", None)]
)
def test_pages_that_a_browser_tells_of_may_not_call(site: str, status: int | None) -> None:
    assert verdict(("Host", "localhost"), ("Sec-Fetch-Site", site)) == status


def test_a_page_that_was_allowed_may_call_and_read() -> None:
    policy = Policy((), ["http://localhost:3000/"], None)
    known = ("Origin", "http://localhost:3000")
    assert verdict(("Host", "localhost"), known, ("Sec-Fetch-Site", "same-site"), policy=policy) is None
    assert verdict(("Host", "localhost"), known, ("Origin", "http://x.example"), policy=policy) == 403
    assert verdict(("Host", "localhost"), ("Origin", "http://localhost:3001"), policy=policy) == 403


async def test_a_page_that_was_allowed_may_ask_first_and_read_the_answer() -> None:
    origin = "http://localhost:3000"
    asking = {"Origin": origin, "Access-Control-Request-Method": "PATCH"}
    async with client_of(MemoryAgent(), origins=(origin,), token=SecretStr(TOKEN)) as client:
        # A browser asks without the token.
        asked = await client.request("OPTIONS", f"{PREFIX}/traffic/update", headers=asking)
        assert asked.status_code == 204
        assert "PATCH" in asked.headers["access-control-allow-methods"]
        assert asked.headers["access-control-allow-origin"] == origin
        refused = await client.request("OPTIONS", INFO, headers={**asking, "Origin": "http://x.example"})
        assert refused.status_code == 403
        assert "access-control-allow-origin" not in refused.headers
        answer = await client.get(INFO, headers={"Origin": origin, "Authorization": f"Bearer {TOKEN}"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)
        assert (await client.get(INFO, headers={"Origin": origin})).status_code == 401


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer wrong", 401),
        ("Bearer \xe9", 401),
        (f"Basic {TOKEN}", 401),
        (f"Bearer {TOKEN}", None),
        (f"bearer  {TOKEN} ", None),
    ],
)
def test_a_token_is_asked_for_where_there_is_one(header: str | None, status: int | None) -> None:
    policy = Policy((), (), SecretStr(TOKEN))
    headers = [("Host", "localhost"), *([("Authorization", header)] if header is not None else [])]
    assert verdict(*headers, policy=policy) == status


def test_a_body_too_large_is_refused_before_it_is_read() -> None:
    assert verdict(("Host", "localhost"), ("Content-Length", "1048577")) == 413
    assert verdict(("Host", "localhost"), ("Content-Length", "1048576")) is None


@pytest.mark.parametrize(
    ("headers", "status", "message"),
    [
        ({"Host": "attacker.example"}, 403, "this Host is not served here; use 127.0.0.1 or localhost"),
        ({"Origin": "https://attacker.example"}, 403, "web pages of this Origin may not call"),
        ({"Sec-Fetch-Site": "cross-site"}, 403, "web pages of other sites may not call"),
    ],
)
async def test_a_refused_request_changes_nothing_and_gets_the_envelope(
    headers: dict[str, str], status: int, message: str
) -> None:
    agent = MemoryAgent()
    async with client_of(agent) as client:
        answer = await client.get(f"{PREFIX}/tun/shutdown", headers=headers)
    assert (answer.status_code, answer.json()) == (status, {"status": False, "error": message})
    assert agent.connected


async def test_strangers_learn_nothing_but_that_a_token_is_missing() -> None:
    async with client_of(MemoryAgent(), token=SecretStr(TOKEN)) as client:
        for path in (INFO, f"{PREFIX}/nothing", "/"):
            answer = await client.post(path, content=b"{")
            assert (answer.status_code, answer.json()) == (401, {"status": False, "error": "missing token"})
            assert answer.headers["www-authenticate"] == "Bearer"
        answer = await client.get(INFO, headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 200


async def test_every_answer_forbids_sniffing_and_framing() -> None:
    async with client_of(MemoryAgent()) as client:
        answer = await client.get(INFO)
    assert (answer.headers["x-content-type-options"], answer.headers["x-frame-options"]) == ("nosniff", "DENY")
