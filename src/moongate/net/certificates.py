"""Certificates: the node's own authority, a leaf per public name, and given PEM files that are reloaded when they change.

Who asks for which name is the listener's business; what is shown to them is decided here.
"""

import asyncio
import os
import re
import ssl
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from moongate.errors import ConfigurationError
from moongate.telemetry import get_logger

log = get_logger(__name__)

CONTEXTS_MAX = 1024
"""How many names keep their TLS context; the one unused longest is made again when it is asked for."""

CA_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(days=90)
RENEW_LEAF_AFTER_S = 30 * 86400.0
BACKDATED = timedelta(days=1)
"""Certificates begin a day ago, so that peers whose clocks are behind accept them."""

RELOAD_INTERVAL_S = 2.0
"""How often given PEM files are looked at."""

# Secure for TLS 1.2 by today's measure: forward secrecy and authenticated encryption only. TLS 1.3 has no others.
TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

PairSource = Literal["agent", "acme"]
_BEST_FIRST: tuple[PairSource, ...] = ("agent", "acme")
PAIR_BYTES_MAX = 65_536
"""A chain and its key in PEM form; the longest in use have a tenth of it."""

PROOF_ALPN = "acme-tls/1"
"""What an authority offers alone when it comes for a proof (RFC 8737 §4)."""

HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_](?:[a-z0-9_-]{0,62}))*\Z")


class Certificates:
    """Chooses, and where needed makes, the certificate that a TLS peer is shown."""

    def __init__(
        self,
        home: Path,
        domain: str,
        names: Iterable[str] = (),
        given: tuple[Path, Path | None] | None = None,
        *,
        issuable: Callable[[str], bool] | None = None,
    ) -> None:
        """Load the authority from the state directory, or make it; load the given PEM files.

        Raises:
            ConfigurationError: If the authority's files or the given ones cannot be used.
        """
        self.issuable = issuable if issuable is not None else self._is_under_domain
        self._domain = domain.lower()
        self._names = tuple(dict.fromkeys(name.lower() for name in (domain, *names)))
        self._authority = Authority.open(home)
        self._contexts: OrderedDict[str, tuple[ssl.SSLContext, float]] = OrderedDict()
        self._given = GivenPair(*given) if given is not None else None
        self._home = home
        self._pairs: dict[str, dict[PairSource, ssl.SSLContext]] = {}
        self._proofs: dict[str, ssl.SSLContext] = {}

    @property
    def ca_pem(self) -> bytes:
        """The authority's certificate."""
        return self._authority.pem

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the authority's certificate (DER), in lower-case hexadecimal digits."""
        return self._authority.fingerprint

    def context_for(
        self, server_name: str | None, *, own: bool = False, local_address: str | None = None
    ) -> ssl.SSLContext:
        """Return the TLS settings for a peer that asked for this name, or came to this address without a name.

        With `own` the answer is our authority's even where PEM files are given.
        """
        name = server_name.rstrip(".") if server_name else None
        if name in self._pairs and not own:
            return next(context for source in _BEST_FIRST if (context := self._pairs[name].get(source)) is not None)
        may_have_leaf = name is not None and (name in self._names or self._may_issue(name))
        if self._given is not None and not own and (name is None or self._given.covers(name) or not may_have_leaf):
            return self._given.context
        if name is not None and may_have_leaf and name not in self._names:
            return self._leaf_context(name, (name,))
        if name is None and local_address and not ip_address(local_address.partition("%")[0]).is_loopback:
            # TLS names no host when an agent dials an address, so the certificate must hold it.
            return self._leaf_context(local_address, (*self._default_names(), local_address))
        return self._leaf_context("", self._default_names())

    def set_pair(self, name: str, chain: bytes, key: bytes, *, source: "PairSource" = "agent") -> float:
        """Show this certificate to those who ask for the name, from the next handshake on; return when it ends (epoch).

        Raises:
            ConfigurationError: If chain and key cannot be used, or are for another name; what was there stays.
        """
        context, not_after = _read_pair(name, chain, key, self._home)
        self._pairs.setdefault(name, {})[source] = context
        return not_after

    def drop_pair(self, name: str, *, source: "PairSource" = "agent") -> None:
        """Forget a name's certificate; the next best is shown again."""
        pairs = self._pairs.get(name, {})
        pairs.pop(source, None)
        if not pairs:
            self._pairs.pop(name, None)

    def show_proof(self, name: str, context: ssl.SSLContext) -> None:
        """Show this to an authority that comes to see that a name is ours (RFC 8737)."""
        self._proofs[name] = context

    def hide_proof(self, name: str) -> None:
        """Show a name's proof no more."""
        self._proofs.pop(name, None)

    def proof_for(self, server_name: str | None, alpn: tuple[str, ...]) -> ssl.SSLContext | None:
        """Return what is shown to a peer that comes for the proof of this name, if one is awaited."""
        if not self._proofs or server_name is None or alpn != (PROOF_ALPN,):
            return None
        return self._proofs.get(server_name)

    async def watch(self, interval_s: float = RELOAD_INTERVAL_S) -> None:
        """Reload the given PEM files whenever they change, until cancelled."""
        if self._given is None:
            return
        while True:
            await asyncio.sleep(interval_s)
            await asyncio.to_thread(self._given.reload)

    def reload(self) -> None:
        """Look at the given PEM files now."""
        if self._given is not None:
            self._given.reload()

    def _default_names(self) -> tuple[str, ...]:
        wildcard = (f"*.{self._domain}",) if "." in self._domain else ()
        return tuple(dict.fromkeys((*self._names, *wildcard, "localhost", "127.0.0.1", "::1")))

    def _is_under_domain(self, name: str) -> bool:
        label, _, parent = name.partition(".")
        return parent == self._domain and bool(label)

    def _may_issue(self, name: str) -> bool:
        return HOST_NAME.match(name) is not None and self.issuable(name)

    def _leaf_context(self, key: str, names: tuple[str, ...]) -> ssl.SSLContext:
        now = time.time()
        cached = self._contexts.get(key)
        # Compared both ways: a clock that jumped back would otherwise leave us with a leaf of the future.
        if cached is not None and abs(now - cached[1]) < RENEW_LEAF_AFTER_S:
            self._contexts.move_to_end(key)
            return cached[0]
        context = self._authority.issue(names)
        self._contexts[key] = (context, now)
        self._contexts.move_to_end(key)
        while len(self._contexts) > CONTEXTS_MAX:
            self._contexts.popitem(last=False)
        return context


class Authority:
    """The node's own certificate authority."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, home: Path) -> None:
        self._key = key
        self._certificate = certificate
        self._home = home
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.fingerprint = certificate.fingerprint(hashes.SHA256()).hex()

    @classmethod
    def open(cls, home: Path) -> "Authority":
        """Load the authority from `ca.pem` and `ca.key`, or make them.

        Raises:
            ConfigurationError: If one of them cannot be read, or they do not belong together.
        """
        key_path, certificate_path = home / "ca.key", home / "ca.pem"
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            key = _load_key(_read_or_make(key_path, _new_key, mode=0o600))
            certificate = x509.load_pem_x509_certificate(
                _read_or_make(certificate_path, lambda: _new_authority(key), mode=0o644)
            )
        except OSError as failure:
            raise ConfigurationError(f"cannot use {failure.filename or home}: {failure.strerror}") from failure
        except (ValueError, TypeError) as failure:
            raise ConfigurationError(
                f"the certificate authority in {home} cannot be read: {failure}",
                hint="restore ca.key and ca.pem from a backup, or remove both; agents then need a new join string",
            ) from failure
        if key.public_key() != certificate.public_key():
            raise ConfigurationError(
                f"{certificate_path} does not belong to {key_path}",
                hint="restore the pair from a backup, or remove both; agents then need a new join string",
            )
        return cls(key, certificate, home)

    def issue(self, names: tuple[str, ...]) -> ssl.SSLContext:
        """Make a certificate for these names and return the TLS settings that show it."""
        leaf = self._sign(names)
        chain = leaf.public_bytes(serialization.Encoding.PEM) + self.pem
        return _context_of(_key_pem(self._leaf_key) + chain, self._home)

    def _sign(self, names: tuple[str, ...]) -> x509.Certificate:
        now = datetime.now(UTC)
        first = names[0]
        # The common name holds 64 characters (RFC 5280, ub-common-name); what counts are the alternative names.
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, first if len(first) <= 64 else "moongate")])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._certificate.subject)
            .public_key(self._leaf_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATED)
            .not_valid_after(min(now + LEAF_LIFETIME, self._certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._leaf_key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )


class GivenPair:
    """A certificate chain and its key from PEM files, which somebody else renews."""

    def __init__(self, certificate: Path, key: Path | None) -> None:
        """Load the pair.

        Raises:
            ConfigurationError: If it cannot be used.
        """
        self._certificate = certificate
        self._key = key if key is not None else certificate
        self._signature = self._look()
        self.context, self._names = self._load()

    def covers(self, name: str) -> bool:
        """Whether the certificate is good for this host name."""
        return _covers(self._names, name)

    def reload(self) -> None:
        """Load the files again if they changed; a broken pair is reported once and the old one stays."""
        try:
            signature = self._look()
            if signature == self._signature:
                return
            self._signature = signature
            self.context, self._names = self._load()
        except ConfigurationError as failure:
            log.error("the TLS certificate was not reloaded, the old one stays", reason=failure.message)
        else:
            log.info("the TLS certificate was reloaded", certificate=str(self._certificate))

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        seen = []
        for path in (self._certificate, self._key):
            with suppress(OSError):
                status = path.stat()
                seen.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(seen)

    def _load(self) -> tuple[ssl.SSLContext, frozenset[str]]:
        context = server_context()
        try:
            # Without a password function OpenSSL would ask the terminal, and the whole node would wait for it.
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
            leaf = x509.load_pem_x509_certificates(self._certificate.read_bytes())[0]
        except _PasswordNeeded as failure:
            raise ConfigurationError(
                f"{self._key} is encrypted", hint="give a key without a passphrase, readable by this user only"
            ) from failure
        except ssl.SSLError as failure:
            raise ConfigurationError(
                f"{self._certificate} and {self._key} are not a certificate and its key: {failure.reason or failure}"
            ) from failure
        except OSError as failure:
            path = failure.filename or f"{self._certificate} and {self._key}"
            raise ConfigurationError(f"cannot read {path}: {failure.strerror}") from failure
        except ValueError as failure:
            raise ConfigurationError(f"{self._certificate} is no certificate: {failure}") from failure
        return context, _names_of(leaf)


def _read_pair(name: str, chain: bytes, key: bytes, home: Path) -> tuple[ssl.SSLContext, float]:
    if len(chain) + len(key) > PAIR_BYTES_MAX:
        raise ConfigurationError(f"certificate and key of {name} have more than {PAIR_BYTES_MAX} bytes")
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
        names = _names_of(leaf)
        context = _context_of(key.rstrip() + b"\n" + chain, home)
    except _PasswordNeeded:
        raise ConfigurationError(f"the key of {name} is encrypted", hint="give a key without a passphrase") from None
    except ssl.SSLError as failure:
        # No cause: what OpenSSL knows of the key stays here.
        reason = failure.reason or "they cannot be read"
        raise ConfigurationError(f"certificate and key of {name} do not belong together: {reason}") from None
    except OSError as failure:
        raise ConfigurationError(f"the certificate of {name} cannot be loaded: {failure.strerror}") from None
    except ValueError as failure:
        raise ConfigurationError(f"the certificate of {name} cannot be read: {failure}") from None
    if not _covers(names, name):
        shown = ", ".join(sorted(names)[:3]) or "no host name"
        raise ConfigurationError(f"the certificate is for {shown}, not for {name}")
    return context, leaf.not_valid_after_utc.timestamp()


def _context_of(pem: bytes, home: Path) -> ssl.SSLContext:
    """Return the TLS settings that show the chain in a PEM text that begins with its key."""
    # The ssl module reads keys from files only; this one is readable by us alone and gone at once.
    with tempfile.NamedTemporaryFile(dir=home, prefix=".leaf-", suffix=".pem") as file:
        file.write(pem)
        file.flush()
        context = server_context()
        context.load_cert_chain(file.name, password=_no_password)
    return context


def _covers(names: frozenset[str], name: str) -> bool:
    """Whether a certificate with these names is good for a host (RFC 6125 §6.4.3)."""
    _, _, parent = name.partition(".")
    return name in names or f"*.{parent}" in names


def server_context() -> ssl.SSLContext:
    """Return the TLS settings that every listener of ours uses, still without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(TLS12_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    return context


class _PasswordNeeded(Exception):
    """A key is encrypted."""


def _no_password() -> str:
    raise _PasswordNeeded


def _read_or_make(path: Path, make: Callable[[], bytes], *, mode: int) -> bytes:
    """Read a file, or make it whole and at once, so that of several processes one wins and all read the same."""
    with suppress(FileNotFoundError):
        return path.read_bytes()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, mode)
            file.write(make())
            file.flush()
            os.fsync(handle)
        with suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink()
    return path.read_bytes()


def _new_key() -> bytes:
    return _key_pem(ec.generate_private_key(ec.SECP256R1()))


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("ca.key is not an elliptic curve key")
    return key


def _new_authority(key: ec.EllipticCurvePrivateKey) -> bytes:
    now = datetime.now(UTC)
    # The serial number in the name keeps authorities apart in a trust store that holds several of ours.
    serial = x509.random_serial_number()
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Moongate"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Moongate node CA {serial & 0xFFFFFFFF:08x}"),
        ]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name.partition("%")[0]))
    except ValueError:
        return x509.DNSName(name)


def _names_of(leaf: x509.Certificate) -> frozenset[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(name.lower() for name in names.get_values_for_type(x509.DNSName))
