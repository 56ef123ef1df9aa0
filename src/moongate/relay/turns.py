"""Reading that leaves others their turn: holds on one transport's reading, and a pause after each bulk read.

libuv reads a ready socket up to 32 times before it looks at the others. For a bulk stream that is eight megabytes, and
every small request of that turn would wait 30 ms for them. And with every processor busy carrying bulk, it would wait
for each process on its way to be scheduled. So bulk goes slower while somebody small is about, and only then.
"""

import asyncio
from typing import Any, Final

# A read of this size is bulk's.
TURN_BYTES: Final = 64 * 1024
# More than this waiting to be encrypted and sent, and the source is paused.
TLS_WRITE_HIGH_WATER: Final = 256 * 1024
# The same without TLS, where uvloop writes at once what is more.
WRITE_HIGH_WATER: Final = 64 * 1024
# How long bulk waits after each read while somebody small is about: at most a few hundred MB/s are carried then.
BULK_DELAY_S: Final = 0.001
# A piece of data below this is a small request's or answer's. This many in a second or two are somebody who hurries;
# fewer are how a bulk transfer begins.
MOUSE_BYTES: Final = 16_384
MICE: Final = 8
WINDOW_S: Final = 1.0


class Mice:
    """Whether somebody small is about in this process: small pieces of data, counted by the second."""

    __slots__ = ("_before", "_began_at", "_count")

    def __init__(self) -> None:
        self._began_at = -WINDOW_S
        self._count = 0
        self._before = 0

    def saw(self, size: int, now: float) -> None:
        """Data of this size was carried on a shared link."""
        if size >= MOUSE_BYTES:
            return
        if now - self._began_at >= WINDOW_S:
            self._before = self._count if now - self._began_at < 2 * WINDOW_S else 0
            self._count = 0
            self._began_at = now
        self._count += 1

    def are_about(self, now: float) -> bool:
        """Whether bulk should make way."""
        age_s = now - self._began_at
        if age_s >= 2 * WINDOW_S:
            return False
        return self._count >= MICE or (age_s < WINDOW_S and self._before >= MICE)


def collect_writes(transport: Any) -> None:
    """Have a socket's small writes leave together at the end of the loop's turn; large ones leave at once.

    Written one by one, the answers of a turn would wake their readers one by one, and each may take our processor. A
    limit of a few bytes would be worse still for bulk: it is paused whenever the kernel takes less than all.
    """
    over_tls = transport.get_extra_info("sslcontext") is not None
    transport.set_write_buffer_limits(high=TLS_WRITE_HIGH_WATER if over_tls else WRITE_HIGH_WATER)


class FairReading:
    """Pauses and resumes one transport's reading; `why` is a bit, so that several can hold it at once."""

    __slots__ = ("_holds", "_transport", "_yielding")

    def __init__(self) -> None:
        self._transport: Any = None
        self._holds = 0
        self._yielding = False

    def begin(self, transport: Any) -> None:
        """Take charge of a transport that is being read."""
        self._transport = transport

    def end(self) -> None:
        """Let go: the transport is gone, or somebody else's."""
        self._transport = None
        self._holds = 0

    @property
    def held(self) -> int:
        """Who holds the reading now."""
        return self._holds

    def hold(self, why: int = 1) -> None:
        """Read no more until this hold is released."""
        if not self._holds and not self._yielding and self._transport is not None:
            self._transport.pause_reading()
        self._holds |= why

    def release(self, why: int = 1) -> None:
        """End one hold; reading goes on when it was the last."""
        if self._holds & why:
            self._holds &= ~why
            if not self._holds and not self._yielding and self._transport is not None:
                self._transport.resume_reading()

    def make_way(self) -> None:
        """Let others go first, after a bulk read was dealt with."""
        if not self._holds and not self._yielding and self._transport is not None:
            self._yielding = True
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(BULK_DELAY_S, self._take_turn)

    def _take_turn(self) -> None:
        self._yielding = False
        if not self._holds and self._transport is not None:
            self._transport.resume_reading()
