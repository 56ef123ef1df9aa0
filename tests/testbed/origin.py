"""A web service behind a tunnel that does what a test says, in threads of its own."""

import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Answer", "Origin", "Request", "pieces", "send_file"]

STOP_POLL_S = 0.05
PIECE = 1 << 20


class Request(BaseHTTPRequestHandler):
    """One request, and the ways to answer it."""

    protocol_version = "HTTP/1.1"
    server: "_Server"

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        self.server.answer(self)
        self.wfile.flush()

    def say(self, body: bytes, *, status: int = 200, **headers: str) -> None:
        """Answer with these bytes."""
        self.begin(length=len(body), status=status, **headers)
        self.wfile.write(body)

    def begin(self, *, length: int | None = None, status: int = 200, **headers: str) -> None:
        """Send the head; without a length the answer ends with the connection."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length is None:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is the base's
        """Say nothing."""


Answer = Callable[[Request], None]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.answer = answer
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.broken: list[BaseException] = []

    def handle_error(self, request: object, client_address: object) -> None:
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            self.broken.append(error)


class Origin:
    """Listens on loopback; a failure of the test's own answer is raised when it closes."""

    def __init__(self, answer: Answer, *, tls: ssl.SSLContext | None = None) -> None:
        self._server = _Server(answer, tls)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(STOP_POLL_S,))
        self._thread.start()

    def __enter__(self) -> "Origin":
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if self._server.broken:
            raise self._server.broken[0]


def pieces(request: Request) -> Iterator[memoryview]:
    """Yield the body as it arrives; a piece is good until the next one is asked for."""
    if request.headers.get("Transfer-Encoding", "").lower() == "chunked":
        while size := int(request.rfile.readline().split(b";")[0], 16):
            yield memoryview(request.rfile.read(size))
            assert request.rfile.readline() == b"\r\n"
        while request.rfile.readline() not in (b"\r\n", b""):
            pass
        return
    buffer, left = bytearray(PIECE), int(request.headers.get("Content-Length", "0"))
    while left:
        # readinto1 does not wait until the whole buffer is full.
        size = request.rfile.readinto1(memoryview(buffer)[: min(left, PIECE)])
        if not size:
            raise ConnectionAbortedError(f"the body ended {left} bytes early")
        left -= size
        yield memoryview(buffer)[:size]


def send_file(request: Request, path: str) -> None:
    """Answer with a file, as fast as the kernel can."""
    with open(path, "rb") as file:  # noqa: PTH123  # socket.sendfile wants one that was opened plainly
        size = file.seek(0, 2)
        request.begin(length=size)
        request.wfile.flush()
        connection: socket.socket = request.connection
        connection.sendfile(file, 0)
