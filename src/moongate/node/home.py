"""The state directory: files of fixed names, made at the first start and kept."""

import os
import secrets
import uuid
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from moongate.errors import ConfigurationError

PRIVATE = 0o600


class Home:
    """One node's state directory."""

    def __init__(self, path: Path) -> None:
        """Make the directory if it is not there.

        Raises:
            ConfigurationError: If it cannot be made or written.
        """
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            (path / "recordings").mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"the state directory {path} cannot be used: {(error.strerror or str(error)).lower()}",
                hint="set MOONGATE_HOME to a directory that this user may write",
            ) from None

    def read(self, name: str) -> str | None:
        """Return a file's text without its line end, or None if there is no such file."""
        try:
            return (self.path / name).read_text(encoding="utf-8").strip() or None
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"cannot read {self.path / name}: {error}") from None

    def write(self, name: str, text: str | bytes, mode: int = PRIVATE) -> None:
        """Write a file whole or not at all; nobody else can read a private one, not even for a moment."""
        path = self.path / name
        aside = path.with_name(f".{name}.{os.getpid()}")
        data = text if isinstance(text, bytes) else text.encode() + b"\n"
        try:
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except OSError as error:
            raise ConfigurationError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None

    def admin_token(self, configured: str | None) -> tuple[str, bool]:
        """Return the admin token, and whether it was made just now.

        A configured one is not copied into the directory.
        """
        if configured is not None:
            return configured, False
        known = self.read("admin-token")
        if known is not None:
            return known, False
        made = secrets.token_urlsafe(32)
        self.write("admin-token", made)
        return made, True

    def node_id(self) -> str:
        """Return this node's own id, a UUID that survives restarts."""
        known = self.read("node-id")
        if known is None:
            known = str(uuid.uuid4())
            self.write("node-id", known, 0o644)
        return known

    def visitor_key(self) -> bytes:
        """Return the key that signs the cookies of visitors who gave a tunnel's password; it survives restarts."""
        known = self.read("visitor-key")
        if known is None:
            known = secrets.token_hex(32)
            self.write("visitor-key", known)
        return known.encode()

    def make_provisioner_key(self) -> None:
        """Make the key pair that signs session tokens (RSA-2048, PKCS#8; the public half as SPKI)."""
        if self.read("provisioner.key") is not None:
            return
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.write("provisioner.pem", public, 0o644)
        self.write("provisioner.key", private)
