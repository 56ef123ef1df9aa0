"""Channels that an agent opens, and channels of datagrams, between two ends without a socket."""

import asyncio

import pytest

from moongate.errors import LimitExceeded
from moongate.relay import channels
from moongate.relay.channels import ChannelReset
from moongate.relay.datagrams import DatagramEnd
from moongate.wire import tunnel
from testbed.links import End, joined, settle


class Ear(asyncio.Protocol):
    """Remembers what it hears."""

    def __init__(self) -> None:
        self.heard = b""
        self.ended: list[Exception | None] = []

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.append(exc)


class DatagramEar:
    """Remembers datagrams, and how their channel ended."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.ended: list[Exception | None] = []
        self.end = DatagramEnd(self.heard.append, self.ended.append)


def open_datagrams(node: End, visitor: str = "192.0.2.1:5") -> tuple[channels.Channel, DatagramEar]:
    ear = DatagramEar()
    channel = node.mux.open(ear.end, 3, bytes(16), visitor)
    ear.end.connection_made(channel)
    return channel, ear


async def answered_datagrams(node: End, agent: End) -> tuple[channels.Channel, DatagramEar, DatagramEar]:
    """The node's channel and ear, and the agent's ear."""
    channel, ear = open_datagrams(node)
    await settle()
    other, _, _ = agent.opened_channels[-1]
    far = DatagramEar()
    other.set_protocol(far.end)
    far.end.connection_made(other)
    return channel, ear, far


async def test_datagrams_arrive_whole_both_ways() -> None:
    node, agent = joined()
    channel, ear, far = await answered_datagrams(node, agent)
    assert all(channel.send_datagram(data) for data in (b"one", b"", bytes(tunnel.MAX_DATAGRAM)))
    await settle()
    assert far.heard == [b"one", b"", bytes(tunnel.MAX_DATAGRAM)]
    assert agent.opened_channels[0][0].send_datagram(b"answer")
    await settle()
    assert ear.heard == [b"answer"]


async def test_datagrams_cost_no_credit() -> None:
    node, agent = joined()
    channel, _, far = await answered_datagrams(node, agent)
    for _ in range(8):
        assert channel.send_datagram(bytes(tunnel.MAX_DATAGRAM))  # together twice the credit
        await settle()
    assert len(far.heard) == 8
    assert channel.credit == tunnel.INITIAL_CREDIT


async def test_a_datagram_is_dropped_when_the_link_is_full_and_not_sent_later() -> None:
    node, agent = joined()
    channel, _, far = await answered_datagrams(node, agent)
    node.link.pause_writing()
    assert not channel.send_datagram(b"lost")
    node.link.resume_writing()
    assert channel.send_datagram(b"sent")
    await settle()
    assert far.heard == [b"sent"]


async def test_what_is_no_datagram_of_udp_is_not_sent() -> None:
    node, agent = joined()
    channel, _, _ = await answered_datagrams(node, agent)
    assert not channel.send_datagram(bytes(tunnel.MAX_DATAGRAM + 1))
    await settle()
    assert agent.lost is None


async def test_a_channel_of_datagrams_that_is_closed_ends_on_both_sides() -> None:
    node, agent = joined()
    channel, ear, far = await answered_datagrams(node, agent)
    channel.close()
    await settle()
    assert (ear.ended, far.ended) == ([None], [None])
    assert not channel.send_datagram(b"late")
    assert not node.mux.channels
    assert not agent.mux.channels


async def test_bytes_on_a_channel_of_datagrams_end_it_on_both_sides_and_leave_the_link() -> None:
    node, agent = joined()
    channel, ear, far = await answered_datagrams(node, agent)
    channel.write(b"bytes")
    await settle()
    (theirs,), (ours,) = far.ended, ear.ended
    assert isinstance(theirs, ChannelReset)
    assert isinstance(ours, ChannelReset)
    assert (theirs.code, ours.code) == (tunnel.PROTOCOL, tunnel.PROTOCOL)
    assert node.lost is agent.lost is None


async def test_a_datagram_on_a_channel_of_bytes_ends_it_on_both_sides_and_leaves_the_link() -> None:
    node, agent = joined()
    near, far = Ear(), Ear()
    channel = node.mux.open(near, 3, bytes(16), "192.0.2.1:5")
    await settle()
    agent.opened_channels[0][0].set_protocol(far)
    channel.send_datagram(b"datagram")
    await settle()
    for ear in (near, far):
        assert isinstance(ear.ended[0], ChannelReset)
        assert ear.ended[0].code == tunnel.PROTOCOL
    assert node.lost is agent.lost is None


async def test_a_datagram_for_a_channel_that_is_over_is_late_and_not_wrong() -> None:
    node, agent = joined()
    agent.link.send(tunnel.serialize(tunnel.DATAGRAM, 77, b"late"))
    await settle()
    assert node.lost is None


async def test_an_agent_dials_and_speaks_at_once() -> None:
    node, agent = joined()
    near, far = Ear(), Ear()
    channel = agent.mux.dial(near, 20000, "tcp")
    channel.write(b"hello")
    node_side: list[channels.Channel] = []

    def dialed(channel: channels.Channel, port: int, transport: str) -> None:
        assert (port, transport) == (20000, "tcp")
        channel.set_protocol(far)
        node_side.append(channel)

    node.dialed = dialed  # type: ignore[method-assign]
    await settle()
    assert far.heard == b"hello"
    node_side[0].write(b"answer")
    await settle()
    assert near.heard == b"answer"


async def test_a_dialled_channels_number_tells_who_opened_it() -> None:
    node, agent = joined()
    assert agent.mux.dial(Ear(), 1, "tcp").number == tunnel.OPENED_BY_AGENT | 1
    assert agent.mux.dial(Ear(), 1, "udp").number == tunnel.OPENED_BY_AGENT | 2
    assert node.mux.open(Ear(), 1, bytes(16), "").number == 1


@pytest.mark.parametrize("mux_is_node", [True, False])
async def test_numbers_begin_again_at_their_end_and_leave_out_those_in_use(mux_is_node: bool) -> None:
    node, agent = joined()
    end = node if mux_is_node else agent

    def number() -> int:
        channel = node.mux.open(Ear(), 1, bytes(16), "") if mux_is_node else agent.mux.dial(Ear(), 1, "tcp")
        return channel.number & ~tunnel.OPENED_BY_AGENT

    assert number() == 1
    end.mux._next_channel = tunnel.MAX_CHANNEL - 1
    assert [number(), number()] == [tunnel.MAX_CHANNEL, 2]


async def test_a_dialled_channel_that_is_over_is_counted_no_more_on_either_side() -> None:
    node, agent = joined()
    agent.mux.dial(Ear(), 1, "tcp").abort()
    agent.mux.dial(Ear(), 2, "tcp")
    await settle()
    assert (agent.mux.dialed, node.mux.dialed) == (1, 1)
    node.dialed_channels[1][0].reset(tunnel.NO_TUNNEL, "nobody there")
    await settle()
    assert (agent.mux.dialed, node.mux.dialed) == (0, 0)


async def test_the_reason_of_a_refused_dial_arrives() -> None:
    node, agent = joined()
    ear = Ear()
    agent.mux.dial(ear, 1, "tcp")
    await settle()
    node.dialed_channels[0][0].reset(tunnel.NO_TUNNEL, "no agent has tcp port 1")
    await settle()
    assert isinstance(ear.ended[0], ChannelReset)
    assert (ear.ended[0].code, ear.ended[0].detail) == (tunnel.NO_TUNNEL, "no agent has tcp port 1")


async def test_an_agent_keeps_to_its_share_of_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    _, agent = joined()
    monkeypatch.setattr(channels, "MAX_DIALED", 1)
    agent.mux.dial(Ear(), 1, "tcp")
    with pytest.raises(LimitExceeded):
        agent.mux.dial(Ear(), 1, "tcp")


async def test_a_node_refuses_more_than_an_agents_share_of_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    node, agent = joined()
    ears = [Ear(), Ear()]
    for ear in ears:
        agent.mux.dial(ear, 1, "tcp")
    monkeypatch.setattr(channels, "MAX_DIALED", 1)
    await settle()
    assert not ears[0].ended
    assert isinstance(ears[1].ended[0], ChannelReset)
    assert ears[1].ended[0].code == tunnel.LIMIT
    assert len(node.dialed_channels) == node.mux.dialed == 1


DIAL = tunnel.serialize_dial(tunnel.OPENED_BY_AGENT | 1, 1, "tcp")


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (tunnel.serialize_dial(1, 1, "tcp"), "not an agent's to open"),
        (DIAL + DIAL, "is open already"),
        (tunnel.serialize(tunnel.DIAL, tunnel.OPENED_BY_AGENT | 1, tunnel.DIAL_BODY.pack(0, 6)), "dial of port 0"),
        (tunnel.serialize(tunnel.DIAL, tunnel.OPENED_BY_AGENT | 1, tunnel.DIAL_BODY.pack(1, 1)), "transport 1"),
        (tunnel.serialize_open(tunnel.OPENED_BY_AGENT | 1, 1, bytes(16), ""), "an agent opens channels by dialing"),
    ],
)
async def test_a_wrong_opening_by_an_agent_ends_its_link(frames: bytes, reason: str) -> None:
    node, agent = joined()
    agent.link.send(frames)
    await settle()
    assert node.lost is not None
    assert reason in node.lost


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (DIAL, "a node opens channels without dialing"),
        (tunnel.serialize_open(tunnel.OPENED_BY_AGENT | 1, 1, bytes(16), ""), "not the node's to open"),
    ],
)
async def test_a_wrong_opening_by_a_node_ends_its_link(frames: bytes, reason: str) -> None:
    node, agent = joined()
    node.link.send(frames)
    await settle()
    assert agent.lost is not None
    assert reason in agent.lost


async def test_an_owner_that_fails_over_a_dial_ends_that_channel_alone() -> None:
    node, agent = joined()
    ear = Ear()

    def dialed(channel: channels.Channel, port: int, transport: str) -> None:
        raise ZeroDivisionError

    node.dialed = dialed  # type: ignore[method-assign]
    agent.mux.dial(ear, 1, "tcp")
    await settle()
    assert isinstance(ear.ended[0], ChannelReset)
    assert ear.ended[0].code == tunnel.INTERNAL
    assert node.lost is None
    assert not node.mux.channels
