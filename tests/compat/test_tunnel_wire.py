"""The tunnel protocol's bytes, written out by hand from docs/protocol/tunnel.md."""

import re
from pathlib import Path

import pytest

from moongate.errors import ProtocolError
from moongate.relay.channels import MAX_DIALED
from moongate.relay.datagrams import IDLE_S
from moongate.wire import tunnel
from moongate.wire.tunnel import FrameReader

PAGE = (Path(__file__).parents[2] / "docs" / "protocol" / "tunnel.md").read_text(encoding="utf-8")
KINDS = {
    int(number): (name, channel)
    for number, name, channel in re.findall(r"^\| (\d+) \| ([A-Z_]+) \| ([^|]+) \|", PAGE, re.MULTILINE)
}
CODES = {int(code): text for code, text in re.findall(r"^\| (\d) \| ([a-z][^|]+) \|$", PAGE, re.MULTILINE)}
ID = bytes(range(16))

FRAMES = [
    (tunnel.serialize_control({"type": "goodbye"}), "01 00000000 00000012" + b'{"type":"goodbye"}'.hex()),
    (tunnel.serialize_ping(7, 1500), "02 00000000 0000000c 0000000000000007 000005dc"),
    (tunnel.serialize(tunnel.PONG, 0, (7).to_bytes(8, "big")), "03 00000000 00000008 0000000000000007"),
    (
        tunnel.serialize_open(1, 2, ID, "192.0.2.7:5"),
        "10 00000001 0000001f 00000002 000102030405060708090a0b0c0d0e0f" + b"192.0.2.7:5".hex(),
    ),
    (tunnel.serialize(tunnel.DATA, 1, b"hi"), "11 00000001 00000002 6869"),
    (tunnel.serialize_number(tunnel.CREDIT, 1, 131072), "12 00000001 00000004 00020000"),
    (tunnel.serialize(tunnel.EOF, 1), "13 00000001 00000000"),
    (tunnel.serialize(tunnel.CANCEL, 1), "14 00000001 00000000"),
    (tunnel.serialize_reset(1, tunnel.NO_TUNNEL, "gone"), "15 00000001 00000006 0004 676f6e65"),
    (tunnel.serialize(tunnel.WANT_LANE, 1), "16 00000001 00000000"),
    (tunnel.serialize_number(tunnel.MOVE, 1, 3), "17 00000001 00000004 00000003"),
    (tunnel.serialize(tunnel.DATAGRAM, 1, b""), "19 00000001 00000000"),
    (tunnel.serialize(tunnel.DATAGRAM, 0x80000001, b"hi"), "19 80000001 00000002 6869"),
    (tunnel.serialize_dial(0x80000001, 20001, "tcp"), "1a 80000001 00000003 4e21 06"),
    (tunnel.serialize_dial(0x80000001, 20001, "udp"), "1a 80000001 00000003 4e21 11"),
]


@pytest.mark.parametrize(("written", "golden"), FRAMES)
def test_a_frame_is_these_bytes_and_these_bytes_are_that_frame(written: bytes, golden: str) -> None:
    assert written == bytes.fromhex(golden.replace(" ", ""))
    ((kind, channel, payload),) = FrameReader().receive_data(written)
    assert tunnel.serialize(kind, channel, bytes(payload)) == written


def test_the_page_lists_every_kind_by_its_number() -> None:
    assert {number: name for number, (name, _) in KINDS.items()} == {
        number: name for name, number in vars(tunnel).items() if isinstance(number, int) and name in _names()
    }
    assert set(KINDS) == set(tunnel.LIMITS)


def _names() -> set[str]:
    return {name for name, _ in KINDS.values()}


def test_the_page_tells_which_frames_have_no_channel() -> None:
    assert {number for number, (_, channel) in KINDS.items() if channel == "0"} == tunnel.OF_THE_LINK


def test_every_kind_is_written_out_here() -> None:
    assert {bytes.fromhex(golden[:2])[0] for _, golden in FRAMES} == set(tunnel.LIMITS)


def test_the_page_lists_every_reset_code() -> None:
    names: tuple[str, ...] = ("CANCELLED", "UPSTREAM_REFUSED", "UPSTREAM_TIMEOUT", "UPSTREAM_UNRESOLVED", "NO_TUNNEL")
    names += ("PROTOCOL", "LIMIT", "INTERNAL", "LINK_LOST")
    assert sorted(CODES) == [getattr(tunnel, name) for name in names]


@pytest.mark.parametrize(
    "number", [tunnel.MAX_DATAGRAM, tunnel.INITIAL_CREDIT, tunnel.MAX_CONTROL, tunnel.MAX_DATA, MAX_DIALED, int(IDLE_S)]
)
def test_the_page_names_the_limits(number: int) -> None:
    assert f"{number:,}".replace(",", " ") in PAGE or str(number) in PAGE


@pytest.mark.parametrize("golden", ["18 00000001 00000000", "1b 00000001 00000000", "19 00000000 00000000"])
def test_a_number_that_the_page_does_not_list_ends_the_link(golden: str) -> None:
    with pytest.raises(ProtocolError):
        FrameReader().receive_data(bytes.fromhex(golden.replace(" ", "")))
