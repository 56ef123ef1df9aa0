"""Sealing what must be kept but never shown: AES-GCM under a key that lies beside the database."""

import os
from contextlib import suppress
from pathlib import Path
from tempfile import mkstemp

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from moongate.errors import StorageError

KEY_BYTES = 32
_FORMAT = b"\x01"
_SALT_BYTES = 16
_NONCE_BYTES = 12
_OVERHEAD = len(_FORMAT) + _SALT_BYTES + _NONCE_BYTES
_OPENERS_MAX = 64


class Sealer:
    """Seals short secrets, each bound to the record it belongs to.

    Every process derives a key of its own from the stored one (HKDF with a random salt), and counts its nonces:
    random nonces under one long-lived key would run out (NIST SP 800-38D §8.3 allows 2^32 of them).
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._salt = os.urandom(_SALT_BYTES)
        self._sealing = self._derive(self._salt)
        self._sealed = 0
        self._openers: dict[bytes, AESGCM] = {}

    @classmethod
    def load(cls, home: Path) -> "Sealer":
        """Read the key in `home/seal.key`, or make it (0600) when there is none.

        Raises:
            StorageError: If the file cannot be made, or is not a key.
        """
        path = home / "seal.key"
        try:
            key = _read_or_make(path)
        except OSError as error:
            raise StorageError(f"the key {path} cannot be read or made: {error.strerror}") from error
        if len(key) != KEY_BYTES:
            raise StorageError(
                f"the key {path} holds {len(key)} bytes instead of {KEY_BYTES}",
                hint="move it away; what was sealed under it cannot be sent again",
            )
        return cls(key)

    def seal(self, secret: bytes, record: bytes) -> bytes:
        """Seal a secret for one record."""
        self._sealed += 1
        nonce = self._sealed.to_bytes(_NONCE_BYTES, "big")
        return _FORMAT + self._salt + nonce + self._sealing.encrypt(nonce, secret, record)

    def unseal(self, sealed: bytes, record: bytes) -> bytes | None:
        """Return the secret, or None when another key or record sealed it."""
        if len(sealed) < _OVERHEAD or sealed[:1] != _FORMAT:
            return None
        salt, nonce = sealed[1 : 1 + _SALT_BYTES], sealed[1 + _SALT_BYTES : _OVERHEAD]
        try:
            return self._opener(salt).decrypt(nonce, sealed[_OVERHEAD:], record)
        except InvalidTag:
            return None

    def _opener(self, salt: bytes) -> AESGCM:
        opener = self._openers.get(salt)
        if opener is None:
            if len(self._openers) >= _OPENERS_MAX:
                self._openers.clear()
            opener = self._openers[salt] = self._derive(salt)
        return opener

    def _derive(self, salt: bytes) -> AESGCM:
        kdf = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=b"moongate captures")
        return AESGCM(kdf.derive(self._key))


def _read_or_make(path: Path) -> bytes:
    with suppress(FileNotFoundError):
        return path.read_bytes()
    # Written whole and then linked, so that two processes starting together agree on one key.
    descriptor, draft = mkstemp(prefix="seal.key.", dir=path.parent)  # 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        Path(draft).unlink()
    return path.read_bytes()
