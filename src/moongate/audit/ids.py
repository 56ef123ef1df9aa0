"""Random ids for records, made fast enough for the data path."""

import os
from uuid import UUID

_IDS_PER_DRAW = 256
# RFC 9562 §5.4: version 4 in the high bits of octet 6, variant 10 in those of octet 8.
_VERSION = bytes(0x40 | (octet & 0x0F) for octet in range(256))
_VARIANT = bytes(0x80 | (octet & 0x3F) for octet in range(256))


class Ids:
    """Draws UUIDv4 octets from the system's randomness, many at a time."""

    __slots__ = ("_at", "_pool")

    def __init__(self) -> None:
        self._pool = b""
        self._at = 0

    def next(self) -> bytes:
        """Return the 16 octets of a new UUIDv4."""
        at = self._at
        if at >= len(self._pool):
            self._refill()
            at = 0
        self._at = at + 16
        return self._pool[at : at + 16]

    def _refill(self) -> None:
        pool = bytearray(os.urandom(16 * _IDS_PER_DRAW))
        pool[6::16] = pool[6::16].translate(_VERSION)
        pool[8::16] = pool[8::16].translate(_VARIANT)
        self._pool = bytes(pool)


def id_text(octets: bytes) -> str:
    """Write 16 octets the way UUIDs are written."""
    h = octets.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def parse_id(text: str) -> bytes | None:
    """Read a UUID in its usual dashed form, or None when it is not one."""
    try:
        octets = UUID(text).bytes
    except (ValueError, AttributeError):
        return None
    return octets if id_text(octets) == text.lower() else None
