"""A large file on its way into a channel: read piece by piece, as fast as the channel takes it."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Final

from moongate.relay.pump import makes_way
from moongate.relay.turns import BULK_DELAY_S

PIECE_BYTES: Final = 256 * 1024
# Linux (4.14) says at once whether a piece is in memory already; elsewhere a thread reads every one.
_AT_ONCE: Final[int] = getattr(os, "RWF_NOWAIT", 0)


class FileSender:
    """Sends a part of an open file, which it closes; pauses when it is told to."""

    __slots__ = ("_busy", "_descriptor", "_end", "_executor", "_loop", "_on_end", "_paused", "_position", "_transport")

    def __init__(
        self,
        transport: Any,
        descriptor: int,
        part: tuple[int, int],
        *,
        executor: Executor,
        on_end: Callable[[bool], None],
    ) -> None:
        """Begin with `resume`. `on_end` is told whether all was sent: the file may have become shorter, or unreadable."""
        self._transport = transport
        self._descriptor: int | None = descriptor
        self._position, self._end = part
        self._paused = True
        self._executor = executor
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._busy = False  # a read is under way, or due

    def pause(self) -> None:
        """Read no more for now."""
        self._paused = True

    def resume(self) -> None:
        """Begin, or go on."""
        self._paused = False
        if not self._busy:
            self._soon()

    def stop(self) -> None:
        """Nobody wants the rest."""
        descriptor, self._descriptor = self._descriptor, None
        # A thread may be reading it: then the end of that read closes it.
        if descriptor is not None and not self._busy:
            os.close(descriptor)
        elif descriptor is not None:
            self._descriptor = -1 - descriptor

    def _soon(self) -> None:
        self._busy = True
        if makes_way(self._transport):
            self._loop.call_later(BULK_DELAY_S, self._due)
        else:
            self._loop.call_soon(self._due)

    def _due(self) -> None:
        self._busy = False
        if self._is_stopped():
            return
        if not self._paused:
            self._read()

    def _is_stopped(self) -> bool:
        descriptor = self._descriptor
        if descriptor is not None and descriptor < 0:
            os.close(-1 - descriptor)
            self._descriptor = None
        return self._descriptor is None

    def _read(self) -> None:
        if self._descriptor is None or self._transport.is_closing():
            self._finish(whole=False)
            return
        size = min(PIECE_BYTES, self._end - self._position)
        data = read_at_once(self._descriptor, size, self._position)
        if data is not None:
            self._write(data)
            return
        self._busy = True
        reading = self._loop.run_in_executor(self._executor, os.pread, self._descriptor, size, self._position)
        reading.add_done_callback(self._was_read)

    def _was_read(self, reading: "asyncio.Future[bytes]") -> None:
        self._busy = False
        if self._is_stopped():
            return
        if reading.cancelled() or reading.exception() is not None or not reading.result():
            self._finish(whole=False)
        else:
            self._write(memoryview(reading.result()))

    def _write(self, data: memoryview) -> None:
        self._position += len(data)
        self._transport.write(data)
        if self._position >= self._end:
            self._finish(whole=True)
        elif not self._paused and not self._busy:
            self._soon()

    def _finish(self, *, whole: bool) -> None:
        self.stop()
        self._on_end(whole)


def read_at_once(descriptor: int, size: int, position: int) -> memoryview | None:
    """Read what is in memory already; None if that is nothing, or cannot be told."""
    if not _AT_ONCE:
        return None
    buffer = bytearray(size)
    try:
        count = os.preadv(descriptor, [buffer], position, _AT_ONCE)
    except OSError:  # not in memory, or a file system that cannot say
        return None
    return memoryview(buffer)[:count] if count else None
