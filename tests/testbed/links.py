"""Two ends of the tunnel protocol joined back to back, without a socket."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from moongate.relay.channels import Channel, Mux
from moongate.relay.links import Link
from moongate.relay.turns import Mice
from moongate.wire.tunnel import Message


class Wire(asyncio.Transport):
    """One end of a pair of transports; what is written arrives at the other end in a later turn of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.other: Wire
        self.protocol: asyncio.Protocol
        self.closed = False

    def write(self, data: Any) -> None:
        if not self.closed:
            asyncio.get_running_loop().call_soon(self.other.deliver, bytes(data))

    def deliver(self, data: bytes) -> None:
        if not self.closed:
            self.protocol.data_received(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            loop = asyncio.get_running_loop()
            loop.call_soon(self.protocol.connection_lost, None)
            loop.call_soon(self.other.close)

    abort = close

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered."""

    def pause_reading(self) -> None:
        """Nothing comes unasked."""

    def resume_reading(self) -> None:
        """Nothing comes unasked."""


@dataclass
class End:
    """One side's owner of a Mux: remembers what it was told."""

    mux: Mux = field(init=False)
    link: Link = field(init=False)
    controls: list[Message] = field(default_factory=list)
    opened_channels: list[tuple[Channel, int, str]] = field(default_factory=list)
    dialed_channels: list[tuple[Channel, int, str]] = field(default_factory=list)
    lost: str | None = None

    def control(self, message: Message) -> None:
        self.controls.append(message)

    def opened(self, channel: Channel, number: int, connection_id: bytes, visitor: str) -> None:
        self.opened_channels.append((channel, number, visitor))

    def dialed(self, channel: Channel, port: int, transport: str) -> None:
        self.dialed_channels.append((channel, port, transport))

    def request_lane(self, number: int) -> None:
        """Nobody brings lanes here."""

    def mux_lost(self, reason: str) -> None:
        self.lost = reason


def joined(make: type[End] = End) -> tuple[End, End]:
    """Return a node's and an agent's end of one link."""
    node, agent = make(), make()
    wires = Wire(), Wire()
    wires[0].other, wires[1].other = wires[1], wires[0]
    for end, wire, is_node in ((node, wires[0], True), (agent, wires[1], False)):
        end.link = Link(None)  # type: ignore[arg-type]  # its receiver is made from it
        end.mux = end.link.receiver = Mux(end.link, end, is_node=is_node, mice=Mice())
        wire.protocol = end.link
        end.link.connection_made(wire)
    return node, agent


async def settle() -> None:
    """Let what is on its way arrive, and what it causes."""
    for _ in range(12):
        await asyncio.sleep(0)
