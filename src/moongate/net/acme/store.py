"""What ACME keeps on disk: one folder per directory, in it the account and a file for each certificate.

A change of the directory, from a staging one to the real one say, thus never shows old certificates.
"""

import hashlib
import json
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from moongate.errors import ConfigurationError
from moongate.telemetry import get_logger

log = get_logger(__name__)

ACCOUNT_FILE: Final = "account.json"
EXPIRED_KEPT_S: Final = 30 * 86400.0
"""How long files of certificates stay that nobody renews any more."""

_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_FILE_NAME: Final = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,252}")


@dataclass(frozen=True, slots=True)
class Account:
    """An account at the authority; without `uri` it is still to be registered."""

    key: ec.EllipticCurvePrivateKey
    uri: str | None
    email: str | None


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate chain with its key, both PEM, and its lifetime in seconds since 1970."""

    chain: bytes
    key: bytes
    not_before: float
    not_after: float

    @classmethod
    def of(cls, chain: bytes, key: bytes) -> "Pair":
        """Read the lifetime off the first certificate.

        Raises:
            ValueError: If it is none, or not this key's.
        """
        try:
            leaf = x509.load_pem_x509_certificate(chain)
            private = serialization.load_pem_private_key(key, password=None)
            if leaf.public_key() != private.public_key():
                raise ValueError("the certificate is not this key's")
        except (TypeError, UnsupportedAlgorithm) as error:
            raise ValueError(str(error)) from None
        return cls(chain, key, leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp())


class AcmeStore:
    """The files of one directory's account and certificates; blocking."""

    def __init__(self, home: Path, directory: str) -> None:
        """Make the folder if it is not there.

        Raises:
            ConfigurationError: If it cannot be made.
        """
        digest = hashlib.sha256(directory.encode()).hexdigest()[:8]
        host = re.sub(r"[^a-z0-9.-]", "-", (urlsplit(directory).hostname or "").lower())
        self.folder = home / "acme" / f"{host}-{digest}"
        try:
            self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"cannot make {self.folder}: {(error.strerror or str(error)).lower()}") from None

    def load_account(self) -> Account:
        """Return the account that is kept, or a new one with a new key.

        Raises:
            ConfigurationError: If it cannot be read or written.
        """
        path = self.folder / ACCOUNT_FILE
        data = self._read(path)
        if data is not None:
            try:
                return _account_of(data)
            except (ValueError, TypeError, KeyError, UnsupportedAlgorithm) as error:
                self._put_aside(path, str(error))
        account = Account(ec.generate_private_key(ec.SECP256R1()), None, None)
        self.save_account(account)
        return account

    def save_account(self, account: Account) -> None:
        """Keep the account.

        Raises:
            ConfigurationError: If it cannot be written.
        """
        document = {"uri": account.uri, "email": account.email, "key": key_pem(account.key).decode()}
        self._write(self.folder / ACCOUNT_FILE, json.dumps(document, indent=1).encode() + b"\n")

    def load(self, name: str) -> Pair | None:
        """Return the certificate that is kept for a name; one that cannot be read is put aside.

        Raises:
            ConfigurationError: If the file is there but may not be read.
        """
        path = self._path(name)
        data = self._read(path)
        if data is None:
            return None
        key, marker, chain = data.partition(_CERTIFICATE)
        try:
            return Pair.of(marker + chain, key)
        except ValueError as error:
            self._put_aside(path, str(error))
            return None

    def has(self, name: str) -> bool:
        """Whether a certificate is kept for a name."""
        return _FILE_NAME.fullmatch(name) is not None and self._path(name).is_file()

    def save(self, name: str, pair: Pair) -> None:
        """Keep a certificate.

        Raises:
            ConfigurationError: If it cannot be written.
        """
        self._write(self._path(name), pair.key + pair.chain)

    def remove_expired(self, now: float) -> int:
        """Remove the certificates that ended long ago, and return how many there were."""
        removed = 0
        for path in self.folder.glob("*.pem"):
            with suppress(OSError, ValueError, TypeError):
                data = path.read_bytes()
                leaf = x509.load_pem_x509_certificate(data[data.index(_CERTIFICATE) :])
                if leaf.not_valid_after_utc.timestamp() < now - EXPIRED_KEPT_S:
                    path.unlink()
                    removed += 1
        return removed

    def _path(self, name: str) -> Path:
        if not _FILE_NAME.fullmatch(name):
            raise ConfigurationError(f"{name[:80]!r} is no name that a certificate can be had for")
        return self.folder / f"{name}.pem"

    def _read(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigurationError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None

    def _put_aside(self, path: Path, reason: str) -> None:
        aside = path.with_name(f"{path.name}.corrupt-{int(time.time())}")
        with suppress(OSError):
            path.replace(aside)
        log.error("a file of ACME cannot be used and was put aside; it is made anew", file=str(aside), reason=reason)

    def _write(self, path: Path, data: bytes) -> None:
        """Write a private file whole or not at all, and so that it outlives a power cut."""
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            with suppress(OSError):
                draft.unlink()
            raise ConfigurationError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key in PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _account_of(data: bytes) -> Account:
    document = json.loads(data)
    key = serialization.load_pem_private_key(str(document["key"]).encode(), password=None)
    uri, email = document["uri"], document["email"]
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("its key is not an elliptic curve key")
    if not isinstance(uri, str | None) or not isinstance(email, str | None):
        raise TypeError("uri and email must be texts")
    return Account(key, uri, email)
