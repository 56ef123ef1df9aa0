"""Sealing secrets."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from moongate.audit.sealing import KEY_BYTES, Sealer
from moongate.errors import StorageError


def test_a_sealed_secret_opens_for_its_record_alone() -> None:
    sealer = Sealer(bytes(KEY_BYTES))
    sealed = sealer.seal(b"hunter2", b"record 1")
    assert sealer.unseal(sealed, b"record 1") == b"hunter2"
    assert sealer.unseal(sealed, b"record 2") is None
    assert Sealer(b"x" * KEY_BYTES).unseal(sealed, b"record 1") is None


def test_another_process_with_the_same_key_can_open_it() -> None:
    sealed = Sealer(bytes(KEY_BYTES)).seal(b"hunter2", b"record")
    assert Sealer(bytes(KEY_BYTES)).unseal(sealed, b"record") == b"hunter2"


def test_the_same_secret_is_never_sealed_alike() -> None:
    sealer = Sealer(bytes(KEY_BYTES))
    sealed = {sealer.seal(b"hunter2", b"record") for _ in range(100)}
    assert len(sealed) == 100
    assert not any(b"hunter2" in one for one in sealed)


@pytest.mark.parametrize("position", [0, 1, 17, 29, -1])
def test_one_changed_byte_spoils_it(position: int) -> None:
    sealer = Sealer(bytes(KEY_BYTES))
    sealed = bytearray(sealer.seal(b"hunter2", b"record"))
    sealed[position] ^= 1
    assert sealer.unseal(bytes(sealed), b"record") is None


@pytest.mark.parametrize("garbage", [b"", b"\x01", b"\x01" * 28, b"\x01" * 29, b"\x01" * 40])
def test_garbage_is_not_a_seal(garbage: bytes) -> None:
    assert Sealer(bytes(KEY_BYTES)).unseal(garbage, b"record") is None


def test_the_key_is_made_once_and_readable_by_its_owner_alone(home: Path) -> None:
    with ThreadPoolExecutor(8) as several:
        sealers = list(several.map(Sealer.load, [home] * 8))
    assert stat.S_IMODE((home / "seal.key").stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == ["seal.key"]
    sealed = sealers[0].seal(b"hunter2", b"record")
    assert [sealer.unseal(sealed, b"record") for sealer in sealers] == [b"hunter2"] * 8


def test_a_key_of_the_wrong_length_is_a_storage_error(home: Path) -> None:
    (home / "seal.key").write_bytes(b"short")
    with pytest.raises(StorageError, match="5 bytes"):
        Sealer.load(home)
    with pytest.raises(StorageError, match="cannot be read or made"):
        Sealer.load(home / "nowhere")
