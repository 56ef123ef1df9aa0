"""A tiny echo server on epoll: whatever arrives goes back, and a closed connection is closed."""

import argparse
import select
import socket


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    server = socket.create_server(("127.0.0.1", parser.parse_args().port), backlog=4096)
    server.setblocking(False)
    poll = select.epoll()
    poll.register(server, select.EPOLLIN)
    visitors: dict[int, socket.socket] = {}
    while True:
        for number, _ in poll.poll():
            if number == server.fileno():
                accept(server, poll, visitors)
            else:
                echo(visitors, number)


def accept(server: socket.socket, poll: select.epoll, visitors: dict[int, socket.socket]) -> None:
    while True:
        try:
            sock, _ = server.accept()
        except BlockingIOError:
            return
        sock.setblocking(False)
        poll.register(sock, select.EPOLLIN)
        visitors[sock.fileno()] = sock


def echo(visitors: dict[int, socket.socket], number: int) -> None:
    sock = visitors[number]
    try:
        data = sock.recv(65_536)
        if data:
            sock.sendall(data)
    except OSError:
        data = b""
    if not data:
        visitors.pop(number).close()


if __name__ == "__main__":
    main()
