"""What an authority looks at to see that a name is ours: a line of text over HTTP, or a certificate over TLS."""

import hashlib
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from moongate.net.certificates import PROOF_ALPN, server_context

Kind = Literal["http-01", "tls-alpn-01"]

ACME_IDENTIFIER: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
PROOF_LIFETIME: Final = timedelta(days=1)
_OCTET_STRING: Final = 0x04


@dataclass(frozen=True, slots=True)
class Proof:
    """What the authority must find: for `http-01` under the token, for `tls-alpn-01` under the name."""

    kind: Kind
    name: str
    token: str
    key_authorization: str


def proof_context(proof: Proof, folder: Path) -> ssl.SSLContext:
    """Return TLS settings that show the certificate of a `tls-alpn-01` proof (RFC 8737 §3).

    Its key is in a file in this folder for a moment.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    chain = proof_certificate(proof, key).public_bytes(serialization.Encoding.PEM)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    context = server_context()
    context.set_alpn_protocols([PROOF_ALPN])
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".proof-", suffix=".pem") as file:
        file.write(pem + chain)
        file.flush()
        context.load_cert_chain(file.name)
    return context


def proof_certificate(proof: Proof, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """Return the self-signed certificate that holds the hash of the key authorization (RFC 8737 §3)."""
    digest = hashlib.sha256(proof.key_authorization.encode()).digest()
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "moongate ACME proof")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - PROOF_LIFETIME)
        .not_valid_after(now + PROOF_LIFETIME)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(proof.name)]), critical=False)
        .add_extension(
            x509.UnrecognizedExtension(ACME_IDENTIFIER, bytes((_OCTET_STRING, len(digest))) + digest), critical=True
        )
        .sign(key, hashes.SHA256())
    )
