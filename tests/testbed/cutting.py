"""A relay between two programs that a test can cut."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

__all__ = ["Relay"]

PIECE = 65536


class Relay:
    """Carries TCP from a port of its own to another one, both ways."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._swallows: set[socket.socket] = set()
        self._start(self._accept)

    def __enter__(self) -> "Relay":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)

    @property
    def carries(self) -> int:
        return len(self._open) // 2

    def cut(self) -> None:
        """Break every connection with a reset, on both sides, as a lost machine in between does."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                connection.shutdown(socket.SHUT_RDWR)

    def swallow(self) -> None:
        """From now on let nothing through on what is open, and close nothing: as a firewall does that forgot it."""
        self._swallows |= self._open

    def _start(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._server.accept()
            except OSError:  # closed
                return
            try:
                there = socket.create_connection(("127.0.0.1", self._target), 5)
            except OSError:
                here.close()
                continue
            there.settimeout(None)
            self._open |= {here, there}
            ended = threading.Barrier(2)
            self._start(self._carry, here, there, ended)
            self._start(self._carry, there, here, ended)

    def _carry(self, source: socket.socket, sink: socket.socket, ended: threading.Barrier) -> None:
        try:
            while data := source.recv(PIECE):
                if source not in self._swallows:
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (source, sink):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        ended.wait()
        self._open.discard(source)
        source.close()
