"""How visitors' passwords are kept."""

from base64 import b64encode

import pytest

from moongate.errors import ConfigurationError
from moongate.identity.passwords import (
    HASH_TEXT_MAX,
    PASSWORD_MAX,
    hash_password,
    is_password_hash,
    verify_password,
)

# RFC 7914 §12, cut to 32 bytes: PBKDF2's output of a shorter length is the beginning of the longer one.
RFC_7914 = bytes.fromhex("7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2")
SALT = b64encode(b"SodiumChloride").decode()
KNOWN = f"scrypt$16384$8$1${SALT}${b64encode(RFC_7914).decode()}"


def test_a_password_is_known_again_and_another_is_not() -> None:
    kept = hash_password("anna:open sesame")
    assert verify_password("anna:open sesame", kept)
    assert not verify_password("anna:open Sesame", kept)
    assert not verify_password("", kept)
    assert is_password_hash(kept)
    assert "sesame" not in kept


def test_two_hashes_of_one_password_differ() -> None:
    assert hash_password("same") != hash_password("same")


def test_a_hash_that_another_program_made_by_the_standard_is_understood() -> None:
    assert verify_password("pleaseletmein", KNOWN)


def test_one_letter_spelled_in_two_ways_is_one_password() -> None:
    assert verify_password("caf\u00e9", hash_password("cafe\u0301"))


@pytest.mark.parametrize("text", ["", "x" * (PASSWORD_MAX + 1)])
def test_a_password_that_nobody_could_type_has_no_hash(text: str) -> None:
    with pytest.raises(ConfigurationError, match="1 to 1024 characters"):
        hash_password(text)
    assert not verify_password(text, KNOWN)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "open sesame",
        "anna:open",
        "scrypt$16384$8$1$$",
        KNOWN + "\n",
        KNOWN.replace("16384", "16383"),
        KNOWN.replace("16384", "0"),
        KNOWN.replace("16384", "1"),
        KNOWN.replace("$8$", "$0$"),
        KNOWN.replace("$8$1$", "$8$0$"),
        KNOWN.replace("16384", "1073741824"),
        KNOWN.replace("16384", "65536"),
        KNOWN.replace("$8$1$", "$8$9999$"),
        KNOWN.replace(SALT, "A"),
        KNOWN.replace(SALT, "AAAA"),
        KNOWN.replace("scrypt", "bcrypt"),
        f"scrypt$16384$8$1${SALT}${b64encode(bytes(8)).decode()}",
        KNOWN + "A" * HASH_TEXT_MAX,
    ],
)
def test_a_text_that_is_no_hash_or_too_costly_a_one_opens_nothing(text: str) -> None:
    assert not is_password_hash(text)
    assert not verify_password("pleaseletmein", text)
