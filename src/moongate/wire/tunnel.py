"""The tunnel protocol's frames: bytes to meaning and back (docs/protocol/tunnel.md).

Pure: what to do with a frame is relay.channels' business, who may say what is edge.control's and agent.service's.
"""

import json
import struct
from typing import Any, Final

from moongate.errors import ProtocolError

PROTOCOL_VERSION: Final = 1
UPGRADE_TOKEN: Final = b"moongate-tunnel"
LINK_PATH: Final = b"/moongate/link"

HEADER: Final = struct.Struct("!BII")  # kind, channel, payload length
OPEN_HEAD: Final = struct.Struct("!I16s")  # tunnel number, connection id
DIAL_BODY: Final = struct.Struct("!HB")  # port on the node, transport
PING_BODY: Final = struct.Struct("!QI")  # opaque, the sender's last round trip in µs
NUMBER: Final = struct.Struct("!I")
RESET_HEAD: Final = struct.Struct("!H")

# Frame kinds are plain ints: they are compared on the hot path, where an enum member costs a lookup.
CONTROL: Final = 1
PING: Final = 2
PONG: Final = 3
OPEN: Final = 16
DATA: Final = 17
CREDIT: Final = 18
EOF: Final = 19
CANCEL: Final = 20
RESET: Final = 21
WANT_LANE: Final = 22
MOVE: Final = 23
DATAGRAM: Final = 25
DIAL: Final = 26

MAX_CONTROL: Final = 65_536
MAX_DATA: Final = 1_048_576
INITIAL_CREDIT: Final = 262_144
MAX_LANES: Final = 16
MAX_DATAGRAM: Final = 65_507  # what UDP over IPv4 can carry: 65 535 less both headers (RFC 768, RFC 791)
MAX_CHANNEL: Final = 0x7FFF_FFFF  # of the channels that the node opens
OPENED_BY_AGENT: Final = 0x8000_0000  # the bit that tells the others

# The transports of DIAL, by their numbers in the IP header (RFC 790).
TRANSPORTS: Final[dict[str, int]] = {"tcp": 6, "udp": 17}
_TRANSPORT_NAMES: Final = {number: name for name, number in TRANSPORTS.items()}

# What each kind's payload may measure: (least, most) bytes.
LIMITS: Final[dict[int, tuple[int, int]]] = {
    CONTROL: (2, MAX_CONTROL),
    PING: (PING_BODY.size, PING_BODY.size),
    PONG: (8, 8),
    OPEN: (OPEN_HEAD.size, OPEN_HEAD.size + 64),
    DATA: (1, MAX_DATA),
    CREDIT: (4, 4),
    EOF: (0, 0),
    CANCEL: (0, 0),
    RESET: (2, 1024),
    WANT_LANE: (0, 0),
    MOVE: (4, 4),
    DATAGRAM: (0, MAX_DATAGRAM),
    DIAL: (DIAL_BODY.size, DIAL_BODY.size),
}
OF_THE_LINK: Final = frozenset((CONTROL, PING, PONG))

# RESET codes.
CANCELLED: Final = 0
UPSTREAM_REFUSED: Final = 1
UPSTREAM_TIMEOUT: Final = 2
UPSTREAM_UNRESOLVED: Final = 3
NO_TUNNEL: Final = 4
PROTOCOL: Final = 5
LIMIT: Final = 6
INTERNAL: Final = 7
LINK_LOST: Final = 8

Payload = bytes | memoryview
Frame = tuple[int, int, Payload]
Message = dict[str, Any]

# Below this a copy is cheaper than a view of the chunk, and does not keep the whole chunk alive.
_COPY_BELOW: Final = 16_384


class FrameReader:
    """Cuts received bytes into frames; the payload of DATA is passed on as it arrives, in pieces."""

    __slots__ = ("_buffer", "_channel", "_left")

    def __init__(self) -> None:
        self._buffer = b""
        self._channel = 0
        self._left = 0  # bytes still to come of the DATA frame under way

    def receive_data(self, data: bytes) -> list[Frame]:
        """Return the frames (and pieces of DATA) that these bytes complete.

        Raises:
            ProtocolError: If no frame of ours can begin like this.
        """
        frames: list[Frame] = []
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        position = 0
        end = len(data)
        if self._left:
            position = min(self._left, end)
            self._left -= position
            frames.append((DATA, self._channel, _piece(data, 0, position)))
        while end - position >= 9:
            kind, channel, length = HEADER.unpack_from(data, position)
            stop = position + 9 + length
            if kind == DATA:
                if not channel or not 0 < length <= MAX_DATA:
                    raise _bad_frame(kind, channel, length)
                if stop > end:
                    self._channel, self._left = channel, stop - end
                    if end > position + 9:
                        frames.append((DATA, channel, _piece(data, position + 9, end)))
                    return frames
                frames.append((DATA, channel, _piece(data, position + 9, stop)))
            else:
                _check_header(kind, channel, length)
                if stop > end:
                    break
                frames.append((kind, channel, data[position + 9 : stop]))
            position = stop
        if position < end:
            self._buffer = data[position:]
        return frames


def _piece(data: bytes, start: int, stop: int) -> Payload:
    if stop - start < _COPY_BELOW:
        return data[start:stop]
    return memoryview(data)[start:stop]


def _check_header(kind: int, channel: int, length: int) -> None:
    # Judged by its header alone, so that nobody makes us hold the rest.
    limits = LIMITS.get(kind)
    if limits is None or not limits[0] <= length <= limits[1] or (channel == 0) != (kind in OF_THE_LINK):
        raise _bad_frame(kind, channel, length)


def _bad_frame(kind: int, channel: int, length: int) -> ProtocolError:
    if kind not in LIMITS:
        return ProtocolError(f"unknown frame kind {kind}")
    least, most = LIMITS[kind]
    if not least <= length <= most:
        return ProtocolError(f"frame of kind {kind} with {length} bytes; allowed are {least} to {most}")
    return ProtocolError(f"frame of kind {kind} on channel {channel}")


def serialize(kind: int, channel: int, payload: bytes = b"") -> bytes:
    """Write a whole frame."""
    return HEADER.pack(kind, channel, len(payload)) + payload


def serialize_control(message: Message) -> bytes:
    """Raises ProtocolError if the message is over the limit, so that we never send what the peer must refuse."""
    payload = json.dumps(message, separators=(",", ":")).encode()
    if len(payload) > MAX_CONTROL:
        raise ProtocolError(f"control message of {len(payload)} bytes; the limit is {MAX_CONTROL}")
    return serialize(CONTROL, 0, payload)


def parse_control(payload: Payload) -> Message:
    """Return the JSON object of a CONTROL frame.

    Raises:
        ProtocolError: If it is not a JSON object with a textual `type`.
    """
    try:
        message = json.loads(bytes(payload))
    except (ValueError, RecursionError):
        raise ProtocolError("control message that is not JSON") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ProtocolError("control message without a type")
    return message


def serialize_open(channel: int, tunnel: int, connection_id: bytes, visitor: str) -> bytes:
    """Write OPEN; the visitor is `ip:port`."""
    return serialize(OPEN, channel, OPEN_HEAD.pack(tunnel, connection_id) + visitor.encode())


def parse_open(payload: Payload) -> tuple[int, bytes, str]:
    """Return tunnel number, connection id and the visitor's address as text.

    Raises:
        ProtocolError: If the address is not ASCII text.
    """
    tunnel, connection_id = OPEN_HEAD.unpack_from(payload)
    try:
        visitor = bytes(payload[OPEN_HEAD.size :]).decode("ascii")
    except UnicodeDecodeError:
        raise ProtocolError("visitor address that is not text") from None
    return tunnel, connection_id, visitor


def serialize_dial(channel: int, port: int, transport: str) -> bytes:
    """Write DIAL; the transport is `tcp` or `udp`."""
    return serialize(DIAL, channel, DIAL_BODY.pack(port, TRANSPORTS[transport]))


def parse_dial(payload: Payload) -> tuple[int, str]:
    """Return the port, and `tcp` or `udp`.

    Raises:
        ProtocolError: If there is no such port or transport.
    """
    port, number = DIAL_BODY.unpack_from(payload)
    transport = _TRANSPORT_NAMES.get(number)
    if transport is None or not port:
        raise ProtocolError(f"dial of port {port} over transport {number}")
    return port, transport


def serialize_reset(channel: int, code: int, detail: str = "") -> bytes:
    """Write RESET; a detail over 1000 bytes is cut."""
    return serialize(RESET, channel, RESET_HEAD.pack(code) + detail.encode()[:1000])


def parse_reset(payload: Payload) -> tuple[int, str]:
    """Return code and detail; text that is no UTF-8 is made readable."""
    (code,) = RESET_HEAD.unpack_from(payload)
    return code, bytes(payload[2:]).decode("utf-8", "replace")


def serialize_number(kind: int, channel: int, number: int) -> bytes:
    """A CREDIT or MOVE frame."""
    return serialize(kind, channel, NUMBER.pack(number))


def parse_number(payload: Payload) -> int:
    """Return the number of a CREDIT or MOVE."""
    (number,) = NUMBER.unpack_from(payload)
    return int(number)


def serialize_ping(opaque: int, last_round_trip_us: int) -> bytes:
    """Write PING with the sender's last round trip in µs; 0 is none yet."""
    return serialize(PING, 0, PING_BODY.pack(opaque, min(last_round_trip_us, 0xFFFF_FFFF)))


def parse_ping(payload: Payload) -> tuple[int, int]:
    """Return the opaque number, and the sender's last round trip in µs."""
    opaque, round_trip_us = PING_BODY.unpack_from(payload)
    return opaque, round_trip_us
