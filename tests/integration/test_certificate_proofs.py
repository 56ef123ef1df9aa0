"""What a certificate authority finds when it looks whether a name is ours: over HTTP, and in a TLS handshake."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from moongate.net.acme.proofs import Proof, proof_context
from moongate.net.certificates import PROOF_ALPN
from testbed.house import House, Visitor, http_route, open_house, serving, tcp_route

TOKEN = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
AT = f"/.well-known/acme-challenge/{TOKEN}"
SHOWN = f"{TOKEN}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI".encode()
SHOP = "shop.localhost"


async def upstream_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        path = line.split()[1]
        while await reader.readline() != b"\r\n":
            pass
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(path), path))


@pytest.mark.parametrize("host", [SHOP, "localhost", "nobody.localhost", "elsewhere.example.test"])
async def test_a_proof_is_found_under_every_name(home: Path, host: str) -> None:
    async with open_house(home) as house, house.visitor() as visitor:
        house.node._edge.proofs[TOKEN] = SHOWN
        visitor.request(host, AT)
        answer = await visitor.answer()
        assert (answer.status, answer.body) == (200, SHOWN)


@pytest.mark.parametrize(
    "options",
    [
        {"redirect": True, "secure": True},
        {"redirect_url": "https://elsewhere.example.test/"},
        {"firewall": [["drop", "192.0.2.0/24"]]},
    ],
)
async def test_a_proof_is_found_whatever_the_rules_of_the_name_are(home: Path, options: dict[str, Any]) -> None:
    async with open_house(home) as house, serving(upstream_answers) as port, house.visitor() as visitor:
        await house.agent(http_route(port, "shop", **options))
        house.node._edge.proofs[TOKEN] = SHOWN
        visitor.request(SHOP, AT)
        assert (await visitor.answer()).body == SHOWN


async def test_other_tokens_are_the_upstreams_also_while_a_proof_is_awaited(home: Path) -> None:
    async with open_house(home) as house, serving(upstream_answers) as port, house.visitor() as visitor:
        await house.agent(http_route(port, "shop"))
        house.node._edge.proofs[TOKEN] = SHOWN
        other = AT[:-1] + "1"
        for path, body in ((other, other.encode()), (AT, SHOWN), (f"{AT}?x", f"{AT}?x".encode()), ("/", b"/")):
            visitor.request(SHOP, path)
            assert (await visitor.answer()).body == body


async def test_a_question_for_the_head_of_a_proof_gets_no_body(home: Path) -> None:
    async with open_house(home) as house, house.visitor() as visitor:
        house.node._edge.proofs[TOKEN] = SHOWN
        visitor.request(SHOP, AT, "HEAD")
        answer = await visitor.answer("HEAD")
        assert (answer.status, answer.header("content-length")) == (200, str(len(SHOWN)))
        visitor.request(SHOP, AT)
        assert (await visitor.answer()).body == SHOWN


async def test_a_proof_that_nobody_awaits_is_not_found(home: Path) -> None:
    async with open_house(home) as house, house.visitor() as visitor:
        visitor.request("nobody.localhost", AT)
        assert (await visitor.answer()).status == 404


async def look(house: House, name: str, *alpn: str) -> tuple[x509.Certificate, str | None, Visitor]:
    """Come for a proof, and return the certificate that was shown, the protocol that was agreed, and the connection."""
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    trust.set_alpn_protocols(list(alpn))
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port, ssl=trust, server_hostname=name)
    tls = writer.get_extra_info("ssl_object")
    certificate = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True))
    return certificate, tls.selected_alpn_protocol(), Visitor(reader, writer)


def names_of(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName)


def await_proof(house: House, name: str, home: Path) -> None:
    proof = Proof("tls-alpn-01", name, TOKEN, SHOWN.decode())
    house.node._certificates.show_proof(name, proof_context(proof, home))


async def test_an_authority_is_shown_the_proof_and_nothing_more(home: Path) -> None:
    async with open_house(home) as house:
        await_proof(house, SHOP, home)
        certificate, protocol, connection = await look(house, SHOP, PROOF_ALPN)
        assert (names_of(certificate), protocol) == ([SHOP], PROOF_ALPN)
        assert "ACME proof" in certificate.subject.rfc4514_string()
        assert await connection.ended()
        connection.writer.close()


async def test_visitors_are_shown_the_usual_certificate_while_a_proof_is_awaited(home: Path) -> None:
    async with open_house(home) as house:
        await_proof(house, SHOP, home)
        for name, alpn in ((SHOP, ("http/1.1",)), (SHOP, ("http/1.1", PROOF_ALPN)), ("other.localhost", (PROOF_ALPN,))):
            certificate, protocol, connection = await look(house, name, *alpn)
            assert "ACME proof" not in certificate.subject.rfc4514_string()
            assert protocol != PROOF_ALPN
            connection.writer.close()


async def test_a_proof_is_shown_also_for_a_name_whose_tls_ends_elsewhere(home: Path) -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pytest.fail("the authority was passed through")

    async with open_house(home) as house, serving(never) as port:
        route = tcp_route(port)
        await house.agent(type(route)("tls", route.upstream, subdomain="shop"))
        await_proof(house, SHOP, home)
        certificate, protocol, connection = await look(house, SHOP, PROOF_ALPN)
        assert (names_of(certificate), protocol) == ([SHOP], PROOF_ALPN)
        connection.writer.close()
