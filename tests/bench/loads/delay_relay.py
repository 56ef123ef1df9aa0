"""A TCP relay that behaves like a long wire: a fixed delay each way and a rated speed each way.

It ends TCP on both sides, so the endpoints' kernels see loopback; what crosses it (data, end of file, the
opening of a connection) arrives later by the delay. Data waits at the entrance once more than `QUEUE_S` of the
wire's speed is queued, so what is in flight stays near delay × speed and never passes `IN_FLIGHT_MAX` each way.
"""

import argparse
import asyncio
import socket
from collections import deque
from typing import cast

import uvloop

IN_FLIGHT_MAX = 16 << 20
QUEUE_S = 0.008
# Small, so that the wait at the entrance of the wire is not a second, hidden queue.
ENTRANCE_BYTES = 1 << 20


class Direction:
    """All connections' bytes going one way share this speed and this bound."""

    def __init__(self, loop: asyncio.AbstractEventLoop, delay_s: float, bytes_per_s: float) -> None:
        self.loop = loop
        self.delay_s = delay_s
        self.bytes_per_s = bytes_per_s
        self.free_at = 0.0
        self.in_flight = 0
        self.most_in_flight = 0
        self.waiting: deque[End] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, size: int, now: float) -> float:
        """Take a chunk in and say when it leaves at the other end."""
        self.in_flight += size
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if self.bytes_per_s:
            self.free_at = max(now, self.free_at) + size / self.bytes_per_s
            return self.free_at + self.delay_s
        return now + self.delay_s

    def leave(self, size: int) -> None:
        self.in_flight -= size
        self.open_gate()

    def full(self, now: float) -> bool:
        queued_s = self.free_at - now if self.bytes_per_s else 0.0
        return queued_s > QUEUE_S or self.in_flight > IN_FLIGHT_MAX - ENTRANCE_BYTES

    def hold(self, end: "End") -> None:
        end.pause()
        self.waiting.append(end)
        self._arm()

    def open_gate(self) -> None:
        while self.waiting and not self.full(self.loop.time()):
            self.waiting.popleft().resume()
        self._arm()

    def _arm(self) -> None:
        if self.waiting and self._timer is None:
            self._timer = self.loop.call_later(0.001, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.open_gate()


class End(asyncio.Protocol):
    """One side of a relayed connection: what it reads enters a direction and comes out at the other end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, outward: Direction) -> None:
        self.loop = loop
        self.outward = outward
        self.other: End | None = None
        self.transport: asyncio.Transport | None = None
        self.queue: deque[tuple[float, bytes | None]] = deque()
        self.timer: asyncio.TimerHandle | None = None
        self.writable = True
        self.gone = self.ended = self.finished = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods but not the base class.
        self.transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ENTRANCE_BYTES)
        self.transport.set_write_buffer_limits(high=4 << 20)
        self.transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        now = self.loop.time()
        self.queue.append((self.outward.enter(len(data), now), data))
        self._arm(now)
        if self.outward.full(now):
            self.outward.hold(self)

    def eof_received(self) -> bool:
        self.queue.append((self.loop.time() + self.outward.delay_s, None))
        self._arm(self.loop.time())
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        if self.timer:
            self.timer.cancel()
        self.outward.leave(sum(len(data) for _, data in self.queue if data))
        self.queue.clear()
        if self.other and self.other.transport and not self.other.gone and not self.finished:
            self.loop.call_later(self.outward.delay_s, self.other.transport.abort)

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self.other:
            self.other.deliver()

    def pause(self) -> None:
        if self.transport and not self.gone:
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.transport and not self.gone:
            self.transport.resume_reading()

    def deliver(self) -> None:
        """Hand over what has travelled long enough."""
        self.timer = None
        other = self.other
        if other is None or other.transport is None or other.gone:
            return
        now = self.loop.time()
        while self.queue and self.queue[0][0] <= now and other.writable:
            data = self.queue.popleft()[1]
            if data is None:
                self._end_of_file(other.transport)
            else:
                other.transport.write(data)
                self.outward.leave(len(data))
        self._arm(now)

    def _end_of_file(self, transport: asyncio.Transport) -> None:
        self.ended = True
        if self.other is not None and self.other.ended and self.transport:
            self.finished = self.other.finished = True
            transport.close()
            self.transport.close()
        else:
            transport.write_eof()

    def _arm(self, now: float) -> None:
        if self.queue and self.timer is None and self.other is not None and self.other.writable:
            self.timer = self.loop.call_later(max(0.0, self.queue[0][0] - now), self.deliver)


class Entrance(End):
    """The accepted side; it dials the target one delay later and may speak after a whole round trip."""

    def __init__(self, loop: asyncio.AbstractEventLoop, there: Direction, back: Direction, target: int) -> None:
        super().__init__(loop, there)
        self.back = back
        self.target = target

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.opening = self.loop.create_task(self._open())

    async def _open(self) -> None:
        assert self.transport is not None
        await asyncio.sleep(self.outward.delay_s)
        try:
            _, far = await self.loop.create_connection(lambda: End(self.loop, self.back), "127.0.0.1", self.target)
        except OSError:
            self.transport.abort()
            return
        self.other, far.other = far, self
        far.resume()
        await asyncio.sleep(self.back.delay_s)
        self.resume()
        # uvloop may read once more after a pause, so there may be something already.
        self._arm(self.loop.time())


async def serve(port: int, target: int, round_trip_s: float, bytes_per_s: float) -> None:
    loop = asyncio.get_running_loop()
    there, back = (Direction(loop, round_trip_s / 2, bytes_per_s) for _ in range(2))
    server = await loop.create_server(lambda: Entrance(loop, there, back, target), "127.0.0.1", port, backlog=1024)
    print(f"relay 127.0.0.1:{port} -> 127.0.0.1:{target}", flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--target", type=int, required=True)
    parser.add_argument("--round-trip-ms", type=float, default=50)
    parser.add_argument("--mbit", type=float, default=1000, help="rated speed each way; 0 = as fast as it can")
    given = parser.parse_args()
    uvloop.run(serve(given.port, given.target, given.round_trip_ms / 1e3, given.mbit * 1e6 / 8))


if __name__ == "__main__":
    main()
