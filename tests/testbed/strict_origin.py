"""A service behind a tunnel that reads HTTP as strictly as h11 does, and remembers what reached it."""

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import h11

MAX_BYTES = 65_536


@dataclass
class Seen:
    """One request, as the origin read it."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    whole: bool = False


@dataclass
class StrictOrigin:
    """Listens on loopback; `special` may answer a target with bytes of its own."""

    special: Callable[[bytes], bytes | None] = lambda _target: None
    seen: list[Seen] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._start(self._accept)

    def _start(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:  # closed
                return
            self._open.add(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._answer_all(connection)
        except h11.RemoteProtocolError as error:
            self.violations.append(str(error))
        except OSError:  # the gateway gave up
            pass
        finally:
            self._open.discard(connection)

    def _answer_all(self, connection: socket.socket) -> None:
        reader = h11.Connection(h11.SERVER)
        while True:
            event = reader.next_event()
            if event is h11.NEED_DATA:
                if reader.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
                    connection.sendall(reader.send(go_on) or b"")
                data = connection.recv(MAX_BYTES)
                # A request that is cut off is no violation: the gateway may have to give up in the middle.
                if not data and reader.their_state is not h11.IDLE:
                    return
                reader.receive_data(data)
            elif isinstance(event, h11.Request):
                self.seen.append(Seen(event.method, event.target, list(event.headers)))
            elif isinstance(event, h11.Data):
                self.seen[-1].body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self.seen[-1].whole = True
                self._answer(connection, reader)
                if h11.MUST_CLOSE in (reader.our_state, reader.their_state):
                    return
                reader.start_next_cycle()
            else:
                return

    def _answer(self, connection: socket.socket, reader: h11.Connection) -> None:
        raw = self.special(self.seen[-1].target)
        if raw is not None:
            connection.sendall(raw)
        head = h11.Response(status_code=200, headers=[("Content-Length", "2")], reason="OK")
        out = reader.send(head) or b""
        out += (reader.send(h11.Data(data=b"ok")) or b"") + (reader.send(h11.EndOfMessage()) or b"")
        if raw is None:
            connection.sendall(out)

    def close(self) -> None:
        """End every connection and wait for the threads."""
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in list(self._open):
            connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
