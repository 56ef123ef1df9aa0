"""What ACME keeps on disk survives restarts, and what is broken there is put aside."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from moongate.errors import ConfigurationError
from moongate.net.acme.store import ACCOUNT_FILE, EXPIRED_KEPT_S, AcmeStore, Pair
from testbed.pem import write_pair

DIRECTORY = "https://acme.example.test/directory"
NAME = "shop.example.test"


@pytest.fixture
def store(home: Path) -> AcmeStore:
    return AcmeStore(home, DIRECTORY)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    certificate, key = write_pair(tmp_path / "made", NAME)
    return Pair.of(certificate.read_bytes(), key.read_bytes())


def test_a_certificate_is_found_again_with_its_key_and_lifetime(home: Path, store: AcmeStore, pair: Pair) -> None:
    store.save(NAME, pair)
    assert AcmeStore(home, DIRECTORY).load(NAME) == pair
    assert store.load("other.example.test") is None


def test_an_account_is_found_again_with_its_key(home: Path, store: AcmeStore) -> None:
    account = replace(store.load_account(), uri="https://acme.example.test/account/7", email="a@example.test")
    store.save_account(account)
    found = AcmeStore(home, DIRECTORY).load_account()
    assert (found.uri, found.email) == (account.uri, account.email)
    assert found.key.private_numbers() == account.key.private_numbers()


def test_a_new_account_keeps_its_key_before_anybody_has_seen_it(home: Path, store: AcmeStore) -> None:
    first, second = store.load_account(), AcmeStore(home, DIRECTORY).load_account()
    assert first.key.private_numbers() == second.key.private_numbers()


def test_only_the_user_can_read_what_is_kept(home: Path, store: AcmeStore, pair: Pair) -> None:
    store.save(NAME, pair)
    store.load_account()
    files = [path for path in (home / "acme").rglob("*") if path.is_file()]
    folders = [home / "acme", store.folder]
    assert len(files) == 2
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}


def test_another_directory_has_another_account_and_other_certificates(home: Path, store: AcmeStore, pair: Pair) -> None:
    store.save(NAME, pair)
    other = AcmeStore(home, "https://acme.example.test/staging")
    assert other.load(NAME) is None
    assert other.load_account().key.private_numbers() != store.load_account().key.private_numbers()


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data[: len(data) // 2], id="cut"),
        pytest.param(lambda data: b"\0" * len(data), id="zeros after a power cut"),
    ],
)
def test_a_broken_certificate_is_put_aside_and_said(
    store: AcmeStore, pair: Pair, broken: Callable[[bytes], bytes]
) -> None:
    store.save(NAME, pair)
    path = store.folder / f"{NAME}.pem"
    damaged = broken(path.read_bytes())
    path.write_bytes(damaged)
    with structlog.testing.capture_logs() as logs:
        assert store.load(NAME) is None
    (aside,) = store.folder.glob(f"{NAME}.pem.corrupt-*")
    assert aside.read_bytes() == damaged
    assert not path.exists()
    assert [(entry["log_level"], entry["file"]) for entry in logs] == [("error", str(aside))]


def test_a_certificate_of_another_key_counts_as_broken(tmp_path: Path, store: AcmeStore, pair: Pair) -> None:
    _, other_key = write_pair(tmp_path / "other", NAME)
    store.save(NAME, replace(pair, key=other_key.read_bytes()))
    assert store.load(NAME) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}', '{"key": "x", "uri": null, "email": null}'])
def test_a_broken_account_is_put_aside_for_a_new_one(store: AcmeStore, text: str) -> None:
    path = store.folder / ACCOUNT_FILE
    path.write_text(text, encoding="utf-8")
    assert store.load_account().uri is None
    (aside,) = store.folder.glob(f"{ACCOUNT_FILE}.corrupt-*")
    assert aside.read_text(encoding="utf-8") == text


def test_what_ended_long_ago_is_removed(store: AcmeStore, pair: Pair) -> None:
    store.save(NAME, pair)
    assert store.remove_expired(pair.not_after + EXPIRED_KEPT_S - 1) == 0
    assert store.remove_expired(pair.not_after + EXPIRED_KEPT_S + 1) == 1
    assert store.load(NAME) is None


@pytest.mark.parametrize("name", ["../account", "", ".hidden", "a/b", "x" * 300, "Ünicode.test"])
def test_a_name_that_is_no_host_name_never_becomes_a_path(store: AcmeStore, name: str) -> None:
    with pytest.raises(ConfigurationError):
        store.load(name)


def test_a_file_that_cannot_be_written_is_named_and_the_old_one_stays(store: AcmeStore, pair: Pair) -> None:
    store.save(NAME, pair)
    (store.folder / f".{NAME}.pem.{os.getpid()}").mkdir()
    with pytest.raises(ConfigurationError, match=NAME):
        store.save(NAME, replace(pair, chain=b"another"))
    assert store.load(NAME) == pair


def test_a_state_directory_that_cannot_hold_a_folder_is_named(home: Path) -> None:
    (home / "acme").write_text("in the way", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="acme"):
        AcmeStore(home, DIRECTORY)
