"""The far end of bulk transfers: `GET n` is answered with n bytes, `PUT n` swallows n bytes and says `OK n`."""

import argparse
import os
import socket
import threading

BLOCK = os.urandom(1 << 20)


def serve(sock: socket.socket) -> None:
    """Answer one visitor; any failure of the connection ends only this one."""
    try:
        with sock, sock.makefile("rb", buffering=0) as lines:
            verb, count = lines.readline(64).split()
            if verb == b"GET":
                send(sock, int(count))
            else:
                swallow(sock, int(count))
                sock.sendall(b"OK %d\n" % int(count))
    except (OSError, ValueError):
        return


def send(sock: socket.socket, count: int) -> None:
    block = memoryview(BLOCK)
    while count > 0:
        sock.sendall(block[: min(count, len(block))])
        count -= len(block)


def swallow(sock: socket.socket, count: int) -> None:
    buffer = bytearray(1 << 20)
    while count > 0:
        received = sock.recv_into(buffer, min(count, len(buffer)))
        if not received:
            raise OSError("the visitor left early")
        count -= received


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    with socket.create_server(("127.0.0.1", parser.parse_args().port), backlog=128) as server:
        while True:
            sock, _ = server.accept()
            threading.Thread(target=serve, args=(sock,), daemon=True).start()


if __name__ == "__main__":
    main()
