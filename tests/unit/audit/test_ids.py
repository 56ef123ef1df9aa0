"""Ids for records."""

from uuid import RFC_4122, UUID

import pytest

from moongate.audit.ids import Ids, id_text, parse_id


def test_every_id_is_a_random_uuid_of_version_4() -> None:
    ids = Ids()
    drawn = [ids.next() for _ in range(1000)]
    assert len(set(drawn)) == 1000
    assert {(UUID(bytes=one).version, UUID(bytes=one).variant) for one in drawn} == {(4, RFC_4122)}


def test_an_id_is_written_the_way_uuids_are() -> None:
    octets = bytes.fromhex("0b6d1f6e8c1b4f5e9d3a1c2b3a4d5e6f")
    assert id_text(octets) == "0b6d1f6e-8c1b-4f5e-9d3a-1c2b3a4d5e6f" == str(UUID(bytes=octets))
    assert parse_id(id_text(octets)) == octets
    assert parse_id(id_text(octets).upper()) == octets


@pytest.mark.parametrize(
    "text", ["", "x", "0b6d1f6e8c1b4f5e9d3a1c2b3a4d5e6f", "{0b6d1f6e-8c1b-4f5e-9d3a-1c2b3a4d5e6f}", "\ud800" * 36]
)
def test_any_other_text_is_no_id(text: str) -> None:
    assert parse_id(text) is None
