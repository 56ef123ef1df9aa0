"""Whatever a peer sends, a link ends by a protocol error or not at all, and the books stay right."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from moongate.relay.channels import Channel
from moongate.relay.datagrams import DatagramEnd
from moongate.wire import tunnel
from moongate.wire.tunnel import LIMITS, OF_THE_LINK, OPENED_BY_AGENT
from testbed.links import End, joined, settle

# Few channels, so that frames meet on them.
CHANNELS = st.sampled_from([1, 2, OPENED_BY_AGENT | 1, OPENED_BY_AGENT | 2])
DIALS = st.builds(tunnel.DIAL_BODY.pack, st.sampled_from([0, 1, 20000]), st.sampled_from([6, 17, 17, 6, 1]))
OPENS = st.just(tunnel.OPEN_HEAD.pack(1, bytes(16)) + b"192.0.2.1:5")
NUMBERS = st.sampled_from([0, 1, 9, 2**32 - 1]).map(tunnel.NUMBER.pack)
PAYLOADS = {tunnel.DIAL: DIALS, tunnel.OPEN: OPENS, tunnel.CREDIT: NUMBERS, tunnel.MOVE: NUMBERS}


@st.composite
def frames(draw: st.DrawFn, opener: int) -> bytes:
    """A frame that its header allows; half of them open a channel the way this peer may."""
    kind = draw(st.just(opener) | st.sampled_from(sorted(LIMITS)))
    least, most = LIMITS[kind]
    payload = draw(PAYLOADS.get(kind, st.binary(min_size=least, max_size=min(most, least + 8))))
    if kind == tunnel.CONTROL:
        payload = b'{"type":"watch"}'
    return tunnel.serialize(kind, 0 if kind in OF_THE_LINK else draw(CHANNELS), payload)


class Answering(End):
    """An owner that answers half of its channels with bytes and half with datagrams."""

    def opened(self, channel: Channel, number: int, connection_id: bytes, visitor: str) -> None:
        self._answer(channel)

    def dialed(self, channel: Channel, port: int, transport: str) -> None:
        self._answer(channel)

    def _answer(self, channel: Channel) -> None:
        if channel.number % 2:
            end = DatagramEnd(channel.send_datagram, lambda exc: None)
            channel.set_protocol(end)
            end.connection_made(channel)
        else:
            channel.set_protocol(_Echo(channel))


class _Echo(asyncio.Protocol):
    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def data_received(self, data: bytes) -> None:
        self._channel.write(data)


async def hear(sent: list[bytes], *, as_node: bool) -> End:
    ends = joined(Answering)
    hearer, speaker = ends if as_node else ends[::-1]
    for frame in sent:
        speaker.link.send(frame)
        await settle()
    return hearer


def check(end: End) -> None:
    assert end.lost is None or end.lost.startswith("protocol error: ")
    assert end.mux.dialed == sum(1 for number in end.mux.channels if number & OPENED_BY_AGENT)
    assert set(end.mux.blocked) <= set(end.mux.channels)
    if end.lost is not None:
        assert not end.mux.channels


@settings(max_examples=150, deadline=None)
@given(st.lists(frames(tunnel.DIAL), max_size=12))
def test_whatever_an_agent_sends_its_node_keeps_its_books(sent: list[bytes]) -> None:
    check(asyncio.run(hear(sent, as_node=True)))


@settings(max_examples=150, deadline=None)
@given(st.lists(frames(tunnel.OPEN), max_size=12))
def test_whatever_a_node_sends_its_agent_keeps_its_books(sent: list[bytes]) -> None:
    check(asyncio.run(hear(sent, as_node=False)))
