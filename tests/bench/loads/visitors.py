"""New visitors one after another on a fixed number of slots: connect, send a line, get the answer, close."""

import argparse
import errno
import json
import select
import socket
import time

from bench.figures import percentile

# Linux's number; Python names it from 3.12 on. The port is then chosen at connect, with the target known.
IP_BIND_ADDRESS_NO_PORT = 24
# A visitor's closed connection keeps its port for a minute (TIME_WAIT), so they come from many loopback addresses.
SOURCES = 64
ANSWER_TIMEOUT_S = 10.0


class Slot:
    """One visitor at a time: connecting, then waiting for the end of its answer."""

    def __init__(self, number: int, port: int, request: bytes, ending: bytes) -> None:
        self.number = number
        self.port = port
        self.request = request
        self.ending = ending

    def open(self, poll: select.epoll, source: int) -> int:
        self.begin = time.perf_counter()
        self.received = b""
        self.sent = False
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        self.sock.bind((f"127.0.1.{source + 1}", 0))
        code = self.sock.connect_ex(("127.0.0.1", self.port))
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, "connect")
        poll.register(self.sock, select.EPOLLOUT)
        return self.sock.fileno()

    def advance(self, poll: select.epoll) -> bool | None:
        """Return True when answered, False when the visitor failed, None while it is under way."""
        try:
            if not self.sent:
                self.sock.send(self.request)
                self.sent = True
                poll.modify(self.sock, select.EPOLLIN)
                return None
            data = self.sock.recv(65_536)
        except OSError:
            return False
        self.received += data
        if self.ending in self.received:
            return True
        return None if data else False


def churn(slots: list[Slot], count: int, seconds: float) -> tuple[list[float], int, float]:
    """Keep every slot busy until enough visitors came or the time is over."""
    poll = select.epoll()
    latencies: list[float] = []
    started = failed = 0
    active: dict[int, Slot] = {}
    begin = time.perf_counter()
    for slot in slots[:count]:
        active[slot.open(poll, started % SOURCES)] = slot
        started += 1
    while active and time.perf_counter() < begin + seconds + ANSWER_TIMEOUT_S:
        for number, _ in poll.poll(1):
            slot = active[number]
            done = slot.advance(poll)
            if done is None:
                continue
            latencies.append(time.perf_counter() - slot.begin)
            failed += not done
            del active[number]
            slot.sock.close()
            if started < count and time.perf_counter() < begin + seconds:
                active[slot.open(poll, started % SOURCES)] = slot
                started += 1
    return latencies, failed + len(active), time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--http-host", default="", help="send one HTTP request each instead of a line")
    given = parser.parse_args()
    request, ending = b"hello from a new visitor\n", b"visitor\n"
    if given.http_host:
        request = f"GET / HTTP/1.1\r\nHost: {given.http_host}\r\nConnection: close\r\n\r\n".encode()
        ending = b"end of the answer\n"
    slots = [Slot(number, given.port, request, ending) for number in range(given.slots)]
    latencies, failed, seconds = churn(slots, given.count, given.seconds)
    ordered = sorted(latencies)
    print(
        json.dumps(
            {
                "visitors": len(ordered),
                "failed": failed,
                "seconds": seconds,
                "per_s": (len(ordered) - failed) / seconds,
                "p50_ms": percentile(ordered, 0.5) * 1e3,
                "p99_ms": percentile(ordered, 0.99) * 1e3,
            }
        )
    )


if __name__ == "__main__":
    main()
