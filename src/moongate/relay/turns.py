"""Reading that leaves others their turn: holds on one transport's reading, and a pause after each bulk read.

libuv reads a ready socket up to 32 times before it looks at the others. For a bulk stream that is eight megabytes, and
every small request of that turn would wait 30 ms for them.
"""

import asyncio
from typing import Any, Final

# After a read of this size, reading goes on in the loop's next turn.
TURN_BYTES: Final = 64 * 1024


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

    def took(self, size: int) -> None:
        """A read of this many bytes was dealt with."""
        if size >= TURN_BYTES and not self._holds and not self._yielding and self._transport is not None:
            self._yielding = True
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._yielding = False
        if not self._holds and self._transport is not None:
            self._transport.resume_reading()
