"""Passwords of visitors: kept as salted scrypt hashes, checked without telling how much of them was right.

A hash is the text `scrypt$n$r$p$salt$hash`, its last two parts in base64. Both functions take a quarter of a second on
purpose: whoever calls them from a loop does so in a thread.
"""

import binascii
import hmac
import re
import secrets
import unicodedata
from base64 import b64decode, b64encode
from hashlib import scrypt
from typing import Final, NamedTuple

from moongate.errors import ConfigurationError

# OWASP's password storage cheat sheet, the smallest of its equal choices: 16 MiB and five passes.
COST: Final = 2**14
BLOCK: Final = 8
PASSES: Final = 5
SALT_BYTES: Final = 16
HASH_BYTES: Final = 32
# A hash comes from whoever publishes, and is worked out by the node: what it may cost there.
MEMORY_MAX: Final = 64 * 2**20  # bytes
WORK_MAX: Final = 4 * COST * BLOCK * PASSES
HASH_TEXT_MAX: Final = 512
# Beyond this nobody types; longer ones are wrong without any work.
PASSWORD_MAX: Final = 1024  # characters

_FORM: Final = re.compile(r"scrypt\$(\d{1,10})\$(\d{1,4})\$(\d{1,4})\$([0-9A-Za-z+/]+={0,2})\$([0-9A-Za-z+/]+={0,2})")


class _Hash(NamedTuple):
    cost: int
    block: int
    passes: int
    salt: bytes
    hash: bytes


def hash_password(text: str) -> str:
    """Return the hash under which a password, or `user:password`, is kept; it differs each time.

    Raises:
        ConfigurationError: If the password is empty or longer than PASSWORD_MAX.
    """
    if not 1 <= len(text) <= PASSWORD_MAX:
        raise ConfigurationError(f"a password has 1 to {PASSWORD_MAX} characters, this one has {len(text)}")
    salt = secrets.token_bytes(SALT_BYTES)
    worked = _work_out(text, _Hash(COST, BLOCK, PASSES, salt, bytes(HASH_BYTES)))
    return f"scrypt${COST}${BLOCK}${PASSES}${b64encode(salt).decode()}${b64encode(worked).decode()}"


def verify_password(text: str, hash: str) -> bool:  # noqa: A002 - it is one
    """Whether this is the password of that hash; nothing is the password of a text that is no hash."""
    try:
        parsed = _parse(hash)
    except ConfigurationError:
        return False
    if not 1 <= len(text) <= PASSWORD_MAX:
        return False
    return hmac.compare_digest(_work_out(text, parsed), parsed.hash)


def is_password_hash(text: str) -> bool:
    """Whether a text is a hash of ours, of a cost that a node will bear."""
    try:
        _parse(text)
    except ConfigurationError:
        return False
    return True


def _parse(text: str) -> _Hash:
    match = _FORM.fullmatch(text) if len(text) <= HASH_TEXT_MAX else None
    if match is None:
        raise ConfigurationError("a password's hash has the form scrypt$n$r$p$salt$hash")
    cost, block, passes = int(match[1]), int(match[2]), int(match[3])
    if cost < 2 or cost & (cost - 1) or not block or not passes:
        raise ConfigurationError("the n of a password's hash is a power of two, its r and p are at least 1")
    if 128 * block * (cost + passes + 2) > MEMORY_MAX or cost * block * passes > WORK_MAX:
        raise ConfigurationError("a password's hash asks for more work than a node does for one")
    try:
        salt, worked = b64decode(match[4], validate=True), b64decode(match[5], validate=True)
    except binascii.Error as error:
        raise ConfigurationError("the salt and the hash of a password's hash are base64") from error
    if len(salt) < SALT_BYTES // 2 or not HASH_BYTES // 2 <= len(worked) <= 2 * HASH_BYTES:
        raise ConfigurationError("the salt or the hash of a password's hash is too short or too long")
    return _Hash(cost, block, passes, salt, worked)


def _work_out(text: str, like: _Hash) -> bytes:
    # Programs spell one and the same letter in several ways (RFC 8265 §4.2.2: NFC before comparing).
    plain = unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")
    memory = 2 * 128 * like.block * (like.cost + like.passes + 2)
    return scrypt(plain, salt=like.salt, n=like.cost, r=like.block, p=like.passes, dklen=len(like.hash), maxmem=memory)
