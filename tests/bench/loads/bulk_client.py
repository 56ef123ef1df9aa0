"""One visitor that moves a lot of bytes one way and prints how long that took."""

import argparse
import json
import socket
import time

from bench.loads.bulk_server import send, swallow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--direction", choices=("download", "upload"), required=True)
    parser.add_argument("--mib", type=int, required=True)
    given = parser.parse_args()
    count = given.mib << 20
    begin = time.perf_counter()
    with socket.create_connection(("127.0.0.1", given.port), timeout=120) as sock:
        if given.direction == "download":
            sock.sendall(b"GET %d\n" % count)
            swallow(sock, count)
        else:
            sock.sendall(b"PUT %d\n" % count)
            send(sock, count)
            answer = sock.recv(64)
            if answer != b"OK %d\n" % count:
                raise SystemExit(f"upload was answered with {answer!r}")
        seconds = time.perf_counter() - begin
    print(json.dumps({"seconds": seconds, "bytes": count, "mb_per_s": count / seconds / 1e6}))


if __name__ == "__main__":
    main()
