"""The sample service of `moongate demo`: a page, a JSON echo and a clock as an event stream."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

# What `/echo` reads at most; it is a sample, and anybody may call it.
BODY_MAX_BYTES = 65536
IDLE_TIMEOUT_S = 120
TICK_S = 1.0
STOP_POLL_S = 0.1


class SampleService:
    """A small web service on a free loopback port, in threads that end with `close`."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._server = _Server((host, port), _Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(STOP_POLL_S,), name="sample service", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening and end the clocks that are running."""
        self._server.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        self.stopping = threading.Event()
        super().__init__(*args)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a visitor that goes away in the middle is an ordinary ending."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "moongate-sample"
    sys_version = ""
    timeout = IDLE_TIMEOUT_S
    # Heads and bodies leave together.
    wbufsize = -1

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Keep quiet: the agent's panel shows the requests."""

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/":
                page = files("moongate.cli").joinpath("sample.html").read_bytes()
                self._answer(200, "text/html; charset=utf-8", page)
            case "/clock" if self.command == "GET":
                self._clock()
            case "/echo":
                self._echo()
            case _:
                self._answer(404, "text/plain; charset=utf-8", b"no such page; there are /, /echo and /clock\n")

    do_HEAD = do_GET  # noqa: N815  # http.server looks methods up by these names

    def do_POST(self) -> None:
        if self.path.partition("?")[0] == "/echo":
            self._echo()
        else:
            self._answer(405, "text/plain; charset=utf-8", b"only /echo takes this method\n")

    do_PUT = do_PATCH = do_DELETE = do_POST  # noqa: N815  # (the same)

    def _echo(self) -> None:
        body = self._body()
        if body is None:
            self.close_connection = True
            self._answer(413, "text/plain; charset=utf-8", b"the echo takes bodies with a length, up to 64 KiB\n")
            return
        headers: dict[str, list[str]] = {}
        for name, value in self.headers.items():
            headers.setdefault(name.lower(), []).append(value)
        seen = {"method": self.command, "path": self.path, "headers": headers, "body": body.decode("utf-8", "replace")}
        self._answer(200, "application/json", json.dumps(seen, indent=2).encode() + b"\n")

    def _body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "0")
        chunked = "Transfer-Encoding" in self.headers
        if chunked or not length.isdecimal() or int(length) > BODY_MAX_BYTES:
            return None
        return self.rfile.read(int(length))

    def _clock(self) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        stopped = False
        while not stopped:
            self.wfile.write(time.strftime("data: %H:%M:%S\n\n").encode())
            self.wfile.flush()
            stopped = self.server.stopping.wait(TICK_S)

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
