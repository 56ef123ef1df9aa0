"""One HTTP visitor that downloads the same large answer again and again until its time is over."""

import argparse
import json
import socket
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args()
    request = f"GET {given.path} HTTP/1.1\r\nHost: {given.host}\r\nConnection: close\r\n\r\n".encode()
    begin = time.perf_counter()
    total = 0
    while time.perf_counter() < begin + given.seconds:
        total += download(given.port, request, begin + given.seconds)
    seconds = time.perf_counter() - begin
    print(json.dumps({"bytes": total, "seconds": seconds, "mb_per_s": total / seconds / 1e6}))


def download(port: int, request: bytes, end: float) -> int:
    buffer = bytearray(1 << 20)
    total = 0
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(request)
        while time.perf_counter() < end and (received := sock.recv_into(buffer)):
            if not total and not buffer.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"not a good answer: {bytes(buffer[:200])!r}")
            total += received
    return total


if __name__ == "__main__":
    main()
