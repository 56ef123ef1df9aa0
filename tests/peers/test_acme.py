"""Certificates from a real ACME server: pebble looks at the node by both challenges, and people visit by curl."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509

from cli_bed import Program
from moongate.agent.reports import CertificateTold
from peers_bed import Site, curl, running
from testbed import free_port, require_peer, until, until_async
from testbed.authority import Pebble, pebble
from testbed.house import House, http_route, open_house, serving
from testbed.origin import Origin

pytestmark = [pytest.mark.timeout(120)]

NAME = "gate.example.test"
SHOP = "shop.example.test"
READY_S = 40.0


class CertifiedSite(Site):
    """A node in a process of its own, on the port that the authority visits."""

    def __init__(self, home: Path, authority: Pebble, port: int, **settings: str) -> None:
        super().__init__(
            home,
            MOONGATE_LISTEN=f"127.0.0.1:{port}",
            MOONGATE_DOMAIN=NAME,
            MOONGATE_ACME_DIRECTORY=authority.directory,
            MOONGATE_ACME_CA_FILE=str(authority.ca_file),
            MOONGATE_ACME_OWN_NAME="true",
            **settings,
        )
        self.port = port

    def certificates(self) -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in self.api("/api/certificates").json()}

    def wait_until(self, state: str, name: str = NAME) -> dict[str, Any]:
        until(lambda: self.certificates()[name]["state"] == state, timeout_s=READY_S, what=f"{name} is {state}")
        return self.certificates()[name]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def authority(tmp_path: Path, port: int) -> Iterator[Pebble]:
    with pebble(tmp_path / "pebble", visits=port) as running:
        yield running


def root_file(authority: Pebble, folder: Path) -> Path:
    """The authority's root in a file, for programs."""
    path = folder / "root.pem"
    path.write_bytes(authority.root)
    return path


def shown_to(name: str, port: int) -> x509.Certificate:
    """Return the certificate that openssl is shown for a name, whoever made it."""
    command = [require_peer("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-servername", name]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=20)
    return x509.load_pem_x509_certificate(done.stdout)


def is_of_pebble(certificate: x509.Certificate) -> bool:
    return "Pebble" in certificate.issuer.rfc4514_string()


@pytest.mark.parametrize("challenge", ["http-01", "tls-alpn-01", "both"])
def test_a_node_gets_a_certificate_for_its_own_name_and_serves_it(
    tmp_path: Path, authority: Pebble, port: int, challenge: str
) -> None:
    with CertifiedSite(tmp_path / "home", authority, port, MOONGATE_ACME_CHALLENGE=challenge) as site:
        told = site.wait_until("ready")
        assert told["message"] == ""
        there = ("--resolve", f"{NAME}:{port}:127.0.0.1", "--cacert", str(root_file(authority, tmp_path)))
        status = curl(*there, f"https://{NAME}:{port}/api/status").stdout
        assert '"certificates":{"ready":1,"pending":0,"failed":0}' in status
        counted = curl(f"http://127.0.0.1:{port}/metrics").stdout
        assert "moongate_certificates_ready 1.0" in counted
        assert "moongate_certificate_orders_total 1.0" in counted
        code, shown, errors = site.command("status", "--api", f"http://127.0.0.1:{port}")
        assert code == 0, errors
        assert f"{NAME}  ready" in shown


def test_a_certificate_outlives_a_killed_node_without_being_ordered_again(
    tmp_path: Path, authority: Pebble, port: int
) -> None:
    with CertifiedSite(tmp_path / "home", authority, port) as site:
        site.wait_until("ready")
        before = shown_to(NAME, port).serial_number
        account = next((tmp_path / "home" / "acme").rglob("account.json")).read_bytes()
        site.restart(signal.SIGKILL)
        site.wait_until("ready")
        assert shown_to(NAME, port).serial_number == before
        assert "moongate_certificate_orders_total 0.0" in curl(f"http://127.0.0.1:{port}/metrics").stdout
        assert next((tmp_path / "home" / "acme").rglob("account.json")).read_bytes() == account


def test_a_broken_file_is_kept_aside_and_a_new_certificate_is_got(tmp_path: Path, authority: Pebble, port: int) -> None:
    with CertifiedSite(tmp_path / "home", authority, port) as site:
        site.wait_until("ready")
        site.program.end(signal.SIGTERM)
        file = next((tmp_path / "home" / "acme").rglob(f"{NAME}.pem"))
        file.write_bytes(file.read_bytes()[:200])
        site.program = site.start()
        site.wait_until("ready")
        assert is_of_pebble(shown_to(NAME, port))
        assert [len(path.read_bytes()) for path in file.parent.glob(f"{NAME}.pem.corrupt-*")] == [200]
        assert "was put aside" in site.program.err


def test_a_directory_that_has_forgotten_the_account_is_told_again(tmp_path: Path, port: int) -> None:
    where = free_port()
    with (
        pebble(tmp_path / "pebble", visits=port, listen=where) as first,
        CertifiedSite(tmp_path / "home", first, port) as site,
    ):
        site.wait_until("ready")
    next((tmp_path / "home" / "acme").rglob(f"{NAME}.pem")).unlink()
    # Pebble remembers nothing: our account is unknown to the next one, whose roots are new as well.
    with (
        pebble(tmp_path / "pebble", visits=port, listen=where) as second,
        CertifiedSite(tmp_path / "home", second, port) as site,
    ):
        site.wait_until("ready")
        there = ("--resolve", f"{NAME}:{port}:127.0.0.1", "--cacert", str(root_file(second, tmp_path)))
        assert curl(*there, f"https://{NAME}:{port}/api/status").stdout.startswith('{"ok":true')


def test_a_certificate_is_renewed_in_time_and_open_connections_stay(tmp_path: Path, port: int) -> None:
    lifetime_s = 9
    with (
        pebble(tmp_path / "pebble", visits=port, lifetime_s=lifetime_s) as authority,
        CertifiedSite(tmp_path / "home", authority, port) as site,
        httpx.Client(verify=authority.context, trust_env=False) as visitor,
    ):
        site.wait_until("ready")
        first = shown_to(NAME, port)

        def visit_again() -> tuple[int, object]:
            url = f"https://127.0.0.1:{port}/api/status"
            answer = visitor.get(url, headers={"Host": NAME}, extensions={"sni_hostname": NAME})
            return answer.status_code, answer.extensions["network_stream"].get_extra_info("client_addr")

        before = visit_again()
        assert before[0] == 200
        until(
            lambda: visit_again() == before and shown_to(NAME, port).serial_number != first.serial_number,
            timeout_s=lifetime_s,
            what="another certificate before the first one ends",
        )
        assert time.time() < first.not_valid_after_utc.timestamp()
        assert visit_again() == before


def test_a_name_that_leads_elsewhere_is_told_with_its_remedy_and_gets_nothing(
    tmp_path: Path, authority: Pebble, port: int
) -> None:
    authority.point(NAME, "127.0.0.2")
    with CertifiedSite(tmp_path / "home", authority, port, MOONGATE_ACME_CHALLENGE="http-01") as site:
        told = site.wait_until("failed")
        assert "must lead to this node, on port 80" in told["message"]
        assert told["not_after"] is None
        assert not is_of_pebble(shown_to(NAME, port))


def test_a_node_that_is_reached_by_http_alone_gets_its_certificate_that_way(tmp_path: Path, port: int) -> None:
    with (
        pebble(tmp_path / "pebble", visits=port, by_tls=free_port()) as authority,
        CertifiedSite(tmp_path / "home", authority, port) as site,
    ):
        assert site.wait_until("ready")["message"] == ""
        assert is_of_pebble(shown_to(NAME, port))


def test_what_was_mended_is_tried_again_on_sighup(tmp_path: Path, authority: Pebble, port: int) -> None:
    authority.point(NAME, "127.0.0.2")
    with CertifiedSite(tmp_path / "home", authority, port) as site:
        site.wait_until("failed")
        authority.point_back(NAME)
        site.program.process.send_signal(signal.SIGHUP)
        site.wait_until("ready")


def test_another_email_address_is_told_to_the_authority(tmp_path: Path, authority: Pebble, port: int) -> None:
    accounts = []
    for email in ("first@example.test", "second@example.test", ""):
        with CertifiedSite(tmp_path / "home", authority, port, MOONGATE_ACME_EMAIL=email) as site:
            site.wait_until("ready")
        kept = next((tmp_path / "home" / "acme").rglob("account.json"))
        accounts.append(json.loads(kept.read_bytes()))
        next(kept.parent.glob(f"{NAME}.pem")).unlink()
    assert [account["email"] for account in accounts] == ["first@example.test", "second@example.test", None]
    assert len({account["uri"] for account in accounts}) == 1


def test_a_directory_that_does_not_answer_is_named(tmp_path: Path, authority: Pebble, port: int) -> None:
    nowhere = f"https://localhost:{free_port()}/dir"
    with CertifiedSite(tmp_path / "home", replace(authority, directory=nowhere), port) as site:
        told = site.wait_until("failed")
        assert f"{nowhere} cannot be reached" in told["message"]


# -- tunnels


def house_settings(authority: Pebble, port: int, **more: Any) -> dict[str, Any]:
    acme = {"directory": authority.directory, "ca_file": str(authority.ca_file), **more}
    return {"listen": f"127.0.0.1:{port}", "domain": NAME, "acme": acme}


async def says_hello(reader: Any, writer: Any) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
    await writer.drain()


async def until_ready(house: House, name: str) -> None:
    def state() -> str:
        status = house.node._keeper.statuses().get(name)
        return status.state if status is not None else "none"

    await until_async(lambda: state() == "ready", timeout_s=READY_S, what=f"a certificate for {name}")


async def visit(house: House, authority: Pebble, name: str) -> httpx.Response:
    """Visit a name as a browser does that trusts this authority alone."""
    async with httpx.AsyncClient(verify=authority.context, trust_env=False, timeout=20) as browser:
        url = f"https://127.0.0.1:{house.port}/"
        return await browser.get(url, headers={"Host": name}, extensions={"sni_hostname": name})


@pytest.mark.parametrize("challenge", ["http-01", "tls-alpn-01"])
@pytest.mark.parametrize("name", [SHOP, f"shop.{NAME}"])
async def test_a_tunnel_that_wants_a_certificate_gets_one_and_its_agent_is_told(
    home: Path, authority: Pebble, port: int, challenge: str, name: str
) -> None:
    async with (
        open_house(home, **house_settings(authority, port, challenge=challenge)) as house,
        serving(says_hello) as upstream,
    ):
        agent = await house.agent(http_route(upstream, name, acme=True))

        def told() -> list[str]:
            return [event.status.state for event in agent.events if isinstance(event, CertificateTold)]

        await until_async(lambda: "ready" in told(), timeout_s=READY_S, what=f"a certificate; told {agent.events}")
        assert told()[0] == "pending"
        assert (await visit(house, authority, name)).text == "hello"
        await agent.stop()
        await until_async(lambda: house.node._keeper.statuses() == {}, what="nobody wants it any more")


async def test_the_proof_comes_before_redirects_and_passwords(home: Path, authority: Pebble, port: int) -> None:
    async with (
        open_house(home, **house_settings(authority, port, challenge="http-01")) as house,
        serving(says_hello) as upstream,
    ):
        options = {"redirect": True, "secure": True, "redirect_url": "https://elsewhere.example.test/"}
        await house.agent(http_route(upstream, SHOP, acme=True, **options))
        await until_ready(house, SHOP)
        assert (await visit(house, authority, SHOP)).status_code == 302


async def test_a_tunnel_works_and_its_agent_is_told_why_when_there_is_no_certificate(
    home: Path, authority: Pebble, port: int
) -> None:
    authority.point(SHOP, "127.0.0.2")
    async with (
        open_house(home, **house_settings(authority, port)) as house,
        serving(says_hello) as upstream,
    ):
        agent = await house.agent(http_route(upstream, SHOP, acme=True))

        def failures() -> list[str]:
            told = [event.status for event in agent.events if isinstance(event, CertificateTold)]
            return [status.message for status in told if status.state == "failed"]

        await until_async(failures, timeout_s=READY_S, what="a failure that is told")
        assert "on port 443" in failures()[0]
        assert "on port 80" in failures()[0]
        async with house.visitor() as visitor:
            visitor.request(SHOP)
            assert (await visitor.answer()).body == b"hello"


async def test_a_kept_name_shows_its_certificate_after_a_restart_before_its_agent_is_back(
    home: Path, authority: Pebble, port: int
) -> None:
    settings = house_settings(authority, port)
    async with open_house(home, **settings) as house, serving(says_hello) as upstream:
        agent = await house.agent(http_route(upstream, SHOP, acme=True, keep=True))
        await until_ready(house, SHOP)
        await agent.vanish()
    async with open_house(home, **settings) as house:
        await until_ready(house, SHOP)
        assert (await visit(house, authority, SHOP)).status_code == 503
        assert house.node._keeper.orders == 0


def test_a_site_of_an_agent_gets_a_certificate_and_health_tells_of_it(
    tmp_path: Path, authority: Pebble, port: int
) -> None:
    api = str(free_port())
    with (
        CertifiedSite(tmp_path / "home", authority, port) as site,
        Origin(lambda request: request.say(b"welcome")) as origin,
    ):
        start = ["agent", "start", "--server", f"@{site.home / 'join'}", "--api-port", api]
        with running(Program([*start, "--home", str(tmp_path / "agent")], site.env)) as agent:
            until(lambda: site.command("agent", "info", "--api-port", api)[0] == 0, timeout_s=READY_S, what=agent.err)
            wanted = ("route", "add", SHOP, str(origin.port), "--letsencrypt", "--redirect")
            code, _, errors = site.command(*wanted, "--api-port", api)
            assert code == 0, errors

            def health() -> dict[str, Any]:
                said = site.command("agent", "health", "--api-port", api, "--json")[1]
                (service,) = [json.loads(line) for line in said.splitlines() if SHOP in line]
                return dict(service.get("services", [service])[0].get("certificate", {}))

            until(lambda: health().get("state") == "ready", timeout_s=READY_S, what=f"a certificate, not {health()}")
            there = ("--resolve", f"{SHOP}:{port}:127.0.0.1", "--cacert", str(root_file(authority, tmp_path)))
            assert curl(*there, f"https://{SHOP}:{port}/").stdout == "welcome"
