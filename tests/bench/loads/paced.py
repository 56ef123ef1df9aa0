"""An open-loop HTTP load: requests leave on a fixed schedule, and each is timed from when it was due.

Timing from the due moment corrects coordinated omission: a stall of the system under test also counts for
the requests that should have been sent during it. Debian has no wrk2, `hey` and `h2load` do not correct, hence
this. One thread, `select` (its timeout is in microseconds; epoll's and uvloop's timers are in milliseconds).
"""

import argparse
import ctypes
import gc
import json
import re
import select
import socket
import time
from collections import deque

from bench.figures import percentile

LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.IGNORECASE)
PR_SET_TIMERSLACK = 29
ANSWER_TIMEOUT_S = 10.0


class Visitor:
    """One keep-alive connection with at most one request under way."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.due = 0.0
        self.busy = False
        self.received = bytearray()
        self.open()

    def open(self) -> None:
        self.sock = socket.create_connection(self.address, timeout=ANSWER_TIMEOUT_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received.clear()

    def fileno(self) -> int:
        return self.sock.fileno()

    def send(self, request: bytes, due: float) -> None:
        self.due, self.busy = due, True
        self.sock.sendall(request)

    def receive(self) -> int | None:
        """Return the status once the answer is whole, 0 if the connection ended, None while it is incomplete."""
        data = self.sock.recv(262_144)
        if not data:
            return 0
        self.received += data
        return self._whole()

    def _whole(self) -> int | None:
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self.received[:end])
        if length := LENGTH.search(head):
            whole = len(self.received) >= end + 4 + int(length.group(1))
        else:
            whole = bool(CHUNKED.search(head)) and self.received.endswith(b"0\r\n\r\n")
        if not whole:
            return None
        self.received.clear()
        return int(head[9:12])


class Schedule:
    """Sends what is due, notes how long each took, and gives up nothing silently."""

    def __init__(self, visitors: list[Visitor], request: bytes, rate: float) -> None:
        self.visitors = visitors
        self.free = deque(visitors)
        self.request = request
        self.interval = 1 / rate
        self.waiting: deque[float] = deque()
        self.latencies: list[float] = []
        self.lags: list[float] = []
        self.bad = self.reopened = 0

    def run(self, seconds: float) -> None:
        begin = time.perf_counter()
        due, end = begin, begin + seconds
        while True:
            now = time.perf_counter()
            while due <= now and due < end:
                self.waiting.append(due)
                due += self.interval
            self._send()
            idle = len(self.free) == len(self.visitors)
            if (now >= end and idle and not self.waiting) or now > end + ANSWER_TIMEOUT_S:
                break
            self._receive(max(0.0, due - time.perf_counter()) if due < end else 0.05)
        self.bad += len(self.waiting) + len(self.visitors) - len(self.free)

    def _send(self) -> None:
        while self.waiting and self.free:
            due, visitor = self.waiting.popleft(), self.free.popleft()
            self.lags.append(time.perf_counter() - due)
            try:
                visitor.send(self.request, due)
            except OSError:
                self._reopen(visitor)

    def _receive(self, timeout_s: float) -> None:
        for visitor in select.select(self.visitors, [], [], timeout_s)[0]:
            try:
                status = visitor.receive()
            except OSError:
                status = 0
            if status is None:
                continue
            if status == 0:
                self._reopen(visitor)
            else:
                self._answered(visitor, status)

    def _answered(self, visitor: Visitor, status: int) -> None:
        self.latencies.append(time.perf_counter() - visitor.due)
        self.bad += status != 200
        visitor.busy = False
        self.free.append(visitor)

    def _reopen(self, visitor: Visitor) -> None:
        self.reopened += 1
        if visitor.busy:
            self.bad += 1
            visitor.busy = False
            self.free.append(visitor)
        visitor.sock.close()
        visitor.open()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--path", default="/")
    parser.add_argument("--rate", type=float, default=2000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--warmup", type=float, default=1)
    given = parser.parse_args()
    # The default timer slack of 50 µs would be part of every latency.
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0)
    request = f"GET {given.path} HTTP/1.1\r\nHost: {given.host}\r\nUser-Agent: paced\r\nAccept: */*\r\n\r\n".encode()
    visitors = [Visitor(("127.0.0.1", given.port)) for _ in range(given.connections)]
    gc.disable()
    Schedule(visitors, request, given.rate).run(given.warmup)
    schedule = Schedule(visitors, request, given.rate)
    schedule.run(given.seconds)
    ordered, lags = sorted(schedule.latencies), sorted(schedule.lags)
    print(
        json.dumps(
            {
                "answered": len(ordered),
                "bad": schedule.bad,
                "reopened": schedule.reopened,
                "p50_ms": percentile(ordered, 0.5) * 1e3,
                "p90_ms": percentile(ordered, 0.9) * 1e3,
                "p99_ms": percentile(ordered, 0.99) * 1e3,
                "max_ms": percentile(ordered, 1) * 1e3,
                "send_lag_p99_ms": percentile(lags, 0.99) * 1e3,
            }
        )
    )


if __name__ == "__main__":
    main()
