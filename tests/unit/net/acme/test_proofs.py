"""The certificate that an authority is shown instead of a web page."""

import contextlib
import hashlib
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from moongate.net.acme.proofs import ACME_IDENTIFIER, Proof, proof_certificate, proof_context
from moongate.net.certificates import PROOF_ALPN

PROOF = Proof("tls-alpn-01", "shop.example.test", "token", "token.thumbprint")


def test_the_certificate_is_for_the_one_name_and_holds_the_hash_marked_critical() -> None:
    certificate = proof_certificate(PROOF, ec.generate_private_key(ec.SECP256R1()))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["shop.example.test"]
    extension = certificate.extensions.get_extension_for_oid(ACME_IDENTIFIER)
    assert extension.critical
    assert isinstance(extension.value, x509.UnrecognizedExtension)
    # An OCTET STRING of 32 bytes in DER.
    assert extension.value.value == b"\x04\x20" + hashlib.sha256(b"token.thumbprint").digest()


def test_a_handshake_for_the_proof_speaks_nothing_else_and_leaves_no_key_behind(home: Path) -> None:
    server = proof_context(PROOF, home)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.set_alpn_protocols([PROOF_ALPN])
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname="shop.example.test"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(2):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    assert [end.selected_alpn_protocol() for end in ends] == [PROOF_ALPN, PROOF_ALPN]
    assert list(home.iterdir()) == []
