import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moongate.errors import ProtocolError
from moongate.wire import tunnel
from moongate.wire.tunnel import DATA, HEADER, LIMITS, MAX_DATA, OF_THE_LINK, FrameReader

CHANNELS = st.integers(1, tunnel.OPENED_BY_AGENT | tunnel.MAX_CHANNEL)


@st.composite
def frames(draw: st.DrawFn) -> tuple[int, int, bytes]:
    """A frame that the protocol allows."""
    kind = draw(st.sampled_from(sorted(LIMITS)))
    least, most = LIMITS[kind]
    payload = draw(st.binary(min_size=least, max_size=min(most, least + 40)))
    if kind in (DATA, tunnel.DATAGRAM, tunnel.CONTROL) and draw(st.booleans()):
        payload = (payload * 20_000)[:20_000]  # beyond the size from which pieces are views
    return kind, 0 if kind in OF_THE_LINK else draw(CHANNELS), payload


def read_all(chunks: list[bytes]) -> list[tuple[int, int, bytes]]:
    """Return the frames, with pieces of DATA that follow each other on one channel put together again."""
    reader = FrameReader()
    read: list[tuple[int, int, bytes]] = []
    for data in chunks:
        for kind, channel, payload in reader.receive_data(data):
            if kind == DATA and read and read[-1][:2] == (DATA, channel):
                read[-1] = (DATA, channel, read[-1][2] + bytes(payload))
            else:
                read.append((kind, channel, bytes(payload)))
    return read


def in_chunks(stream: bytes, size: int) -> list[bytes]:
    return [stream[at : at + size] for at in range(0, len(stream), size)]


def joined(sent: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Return what `read_all` makes of these frames when nothing is lost."""
    return read_all([tunnel.serialize(*frame) for frame in sent])


@given(st.lists(frames(), max_size=6), st.sampled_from([1, 2, 3, 8, 9, 10, 1000, 16_384, 70_000]))
def test_frames_survive_however_the_network_cuts_them(sent: list[tuple[int, int, bytes]], size: int) -> None:
    stream = b"".join(tunnel.serialize(*frame) for frame in sent)
    if size < 1000:
        stream = stream[:4000]
        whole = read_all([stream])
    else:
        whole = joined(sent)
        assert [frame for frame in whole if frame[0] != DATA] == [frame for frame in sent if frame[0] != DATA]
    assert read_all(in_chunks(stream, size)) == whole


@given(st.lists(frames(), min_size=1, max_size=6))
def test_no_byte_of_data_is_lost_or_changed(sent: list[tuple[int, int, bytes]]) -> None:
    stream = b"".join(tunnel.serialize(*frame) for frame in sent)
    carried: dict[int, bytes] = {}
    for kind, channel, payload in sent:
        if kind == DATA:
            carried[channel] = carried.get(channel, b"") + payload
    read: dict[int, bytes] = {}
    for kind, channel, payload in read_all(in_chunks(stream, 4093)):
        if kind == DATA:
            read[channel] = read.get(channel, b"") + payload
    assert read == carried


@given(st.binary(min_size=1, max_size=3000), CHANNELS, st.integers(1, 700))
def test_data_is_passed_on_as_it_arrives(payload: bytes, channel: int, size: int) -> None:
    reader = FrameReader()
    arrived = passed = 0
    for chunk in in_chunks(tunnel.serialize(DATA, channel, payload), size):
        arrived += len(chunk)
        passed += sum(len(piece) for _, _, piece in reader.receive_data(chunk))
        assert passed == max(0, arrived - HEADER.size)


def is_allowed(kind: int, channel: int, length: int) -> bool:
    if kind not in LIMITS:
        return False
    least, most = LIMITS[kind]
    return least <= length <= most and (channel == 0) == (kind in OF_THE_LINK)


HEADERS = st.tuples(
    st.one_of(st.sampled_from(sorted(LIMITS)), st.integers(0, 255)),
    st.one_of(st.sampled_from([0, 1, tunnel.MAX_CHANNEL]), st.integers(0, 2**32 - 1)),
    st.one_of(
        st.sampled_from([0, 1, 2, 4, 8, 12, 20, 84, 85, 1024, 1025, 65_536, 65_537, MAX_DATA, MAX_DATA + 1, 2**32 - 1]),
        st.integers(0, 30),
    ),
)


@settings(max_examples=300)
@given(HEADERS)
def test_a_frame_is_judged_by_its_header_alone(header: tuple[int, int, int]) -> None:
    reader = FrameReader()
    if is_allowed(*header):
        reader.receive_data(HEADER.pack(*header))
    else:
        with pytest.raises(ProtocolError):
            reader.receive_data(HEADER.pack(*header))


@given(st.lists(frames(), max_size=3), HEADERS.filter(lambda header: not is_allowed(*header)), st.integers(1, 50))
def test_a_wrong_frame_is_refused_also_behind_good_ones(
    sent: list[tuple[int, int, bytes]], header: tuple[int, int, int], size: int
) -> None:
    stream = b"".join(
        tunnel.serialize(kind, channel, payload[:2000]) for kind, channel, payload in sent if kind == DATA
    )
    with pytest.raises(ProtocolError):
        read_all(in_chunks(stream + HEADER.pack(*header), size))


PARSERS = {
    tunnel.CONTROL: tunnel.parse_control,
    tunnel.PING: tunnel.parse_ping,
    tunnel.OPEN: tunnel.parse_open,
    tunnel.CREDIT: tunnel.parse_number,
    tunnel.MOVE: tunnel.parse_number,
    tunnel.RESET: tunnel.parse_reset,
    tunnel.DIAL: tunnel.parse_dial,
}


@settings(max_examples=200)
@given(frames())
def test_the_payload_of_an_allowed_frame_is_understood_or_refused(frame: tuple[int, int, bytes]) -> None:
    parser = PARSERS.get(frame[0])
    if parser is None:
        return
    with contextlib.suppress(ProtocolError):
        parser(frame[2])


MESSAGES = st.dictionaries(
    st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.lists(st.integers(), max_size=3)
).map(lambda members: members | {"type": "claim"})  # fmt: skip


@given(MESSAGES)
def test_control_messages_survive(message: tunnel.Message) -> None:
    ((kind, channel, payload),) = FrameReader().receive_data(tunnel.serialize_control(message))
    assert (kind, channel) == (tunnel.CONTROL, 0)
    assert tunnel.parse_control(payload) == message


@given(
    st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=4),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        ).map(lambda value: json.dumps(value).encode()),
        st.sampled_from([b"[" * 65_000, b'{"type":' * 8000, b"1" * 65_000, b'{"type":1}', b"\xff\xfe{\x00}\x00"]),
    )
)
def test_any_control_payload_is_a_message_or_refused(payload: bytes) -> None:
    try:
        message = tunnel.parse_control(payload)
    except ProtocolError:
        return
    assert isinstance(message["type"], str)


@given(
    CHANNELS, st.integers(0, 2**32 - 1), st.binary(min_size=16, max_size=16), st.ip_addresses(), st.integers(0, 65535)
)
def test_openings_survive(channel: int, number: int, identifier: bytes, address: object, port: int) -> None:
    visitor = f"[{address}]:{port}"
    ((kind, on, payload),) = FrameReader().receive_data(tunnel.serialize_open(channel, number, identifier, visitor))
    assert (kind, on) == (tunnel.OPEN, channel)
    assert tunnel.parse_open(payload) == (number, identifier, visitor)


@given(
    st.lists(st.binary(max_size=40) | st.integers(0, tunnel.MAX_DATAGRAM).map(bytes), max_size=4), st.integers(1, 9000)
)
def test_datagrams_arrive_whole_and_in_order(sent: list[bytes], size: int) -> None:
    stream = b"".join(tunnel.serialize(tunnel.DATAGRAM, 1, data) for data in sent)
    reader = FrameReader()
    read = [frame for chunk in in_chunks(stream, size) for frame in reader.receive_data(chunk)]
    assert read == [(tunnel.DATAGRAM, 1, data) for data in sent]


@given(CHANNELS, st.integers(1, 65535), st.sampled_from(sorted(tunnel.TRANSPORTS)))
def test_dials_survive(channel: int, port: int, transport: str) -> None:
    ((kind, on, payload),) = FrameReader().receive_data(tunnel.serialize_dial(channel, port, transport))
    assert (kind, on) == (tunnel.DIAL, channel)
    assert tunnel.parse_dial(payload) == (port, transport)


@given(st.integers(0, 65535), st.integers(0, 255))
def test_a_dial_is_of_a_port_over_tcp_or_udp(port: int, transport: int) -> None:
    payload = tunnel.DIAL_BODY.pack(port, transport)
    if port and transport in tunnel.TRANSPORTS.values():
        assert tunnel.parse_dial(payload)[0] == port
    else:
        with pytest.raises(ProtocolError):
            tunnel.parse_dial(payload)


@given(CHANNELS, st.integers(0, 8), st.text(max_size=400) | st.just("é" * 700))
def test_resets_survive_and_stay_within_their_limit(channel: int, code: int, detail: str) -> None:
    ((kind, on, payload),) = FrameReader().receive_data(tunnel.serialize_reset(channel, code, detail))
    assert (kind, on) == (tunnel.RESET, channel)
    found, text = tunnel.parse_reset(payload)
    assert found == code
    assert detail.startswith(text.removesuffix("\ufffd"))


@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**40),
    st.sampled_from([tunnel.CREDIT, tunnel.MOVE]),
    st.integers(0, 2**32 - 1),
)
def test_numbers_survive(opaque: int, round_trip_us: int, kind: int, number: int) -> None:
    ((_, _, ping),) = FrameReader().receive_data(tunnel.serialize_ping(opaque, round_trip_us))
    assert tunnel.parse_ping(ping) == (opaque, min(round_trip_us, 2**32 - 1))
    ((found, channel, payload),) = FrameReader().receive_data(tunnel.serialize_number(kind, 9, number))
    assert (found, channel, tunnel.parse_number(payload)) == (kind, 9, number)
