"""Sending a recorded request again: a visitor like any other, but for its socket."""

import asyncio
from typing import TYPE_CHECKING, Any, Final

from moongate.audit.captures import Capture
from moongate.edge.ingress.http import HttpVisitor
from moongate.errors import (
    LimitExceeded,
    MoongateError,
    ProtocolError,
    RoutingError,
    UpstreamRefused,
    UpstreamTimeout,
)
from moongate.net.listening import Peer
from moongate.wire.http1 import Headers

if TYPE_CHECKING:
    from moongate.edge.ingress.edge import Edge
    from moongate.edge.routes import Tunnel

# Over the time that an upstream has for the head of its answer.
ANSWER_GRACE_S: Final = 30.0
_OURS: Final = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade"))

# What an answer of the edge itself means to the one who asked for the resending.
_FAILURES: Final[dict[str, type[MoongateError]]] = {
    "413": LimitExceeded,
    "429": LimitExceeded,
    "502": UpstreamRefused,
    "504": UpstreamTimeout,
}


class _Sink(asyncio.Transport):
    """Takes what a visitor would have been sent; it is looked at in the capture."""

    def __init__(self, ended: asyncio.Future[Capture]) -> None:
        super().__init__()
        self._ended = ended
        self._closing = False
        self.first = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.first:
            self.first = bytes(data[:1024])

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True
        if not self._ended.done():
            status = self.first.split(b" ", 2)[1:2]
            shown = status[0].decode("latin-1") if status else "nothing"
            kind = _FAILURES.get(shown, RoutingError)
            self._ended.set_exception(kind(f"the request was not carried out; the edge answered {shown}"))

    def abort(self) -> None:
        self.close()

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Everything has been read already."""

    def resume_reading(self) -> None:
        """Everything has been read already."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


async def resend(
    edge: "Edge", tunnel: "Tunnel", method: str, path: str, headers: Headers, body: bytes, remote_address: str
) -> Capture:
    """Send a request through a tunnel as if a visitor at `remote_address` had sent it; returns its new capture.

    Raises:
        LimitExceeded: If a limit of the tunnel would be passed.
        UpstreamRefused: If the upstream could not be reached.
        RoutingError: If the edge answered it itself for another reason, such as a tunnel without its agent.
        ProtocolError: If method, path or a header cannot be sent.
        UpstreamTimeout: If no answer came in time.
    """
    address, _, port = remote_address.rpartition(":")
    ended: asyncio.Future[Capture] = asyncio.get_running_loop().create_future()
    visitor = HttpVisitor(edge, Peer(address.strip("[]"), int(port or 0), "127.0.0.1", 0))
    visitor.on_capture = lambda capture: None if ended.done() else ended.set_result(capture)
    sink = _Sink(ended)
    visitor.connection_made(sink)
    try:
        visitor.data_received(_serialized(tunnel, method, path, headers, body))
        async with asyncio.timeout(edge.limits.response_head_timeout_s + ANSWER_GRACE_S):
            return await ended
    except TimeoutError:
        raise UpstreamTimeout("the upstream did not answer in time") from None
    finally:
        visitor.connection_lost(None)


def _serialized(tunnel: "Tunnel", method: str, path: str, headers: Headers, body: bytes) -> bytes:
    try:
        first = b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (method.encode("ascii"), path.encode("ascii"), tunnel.name.encode())
    except UnicodeEncodeError:
        raise ProtocolError("method and path must be ASCII; encode the path in percent form") from None
    lines = [b"%b: %b\r\n" % (name, value) for name, value in headers if name.lower() not in _OURS]
    # A line end inside a field would be a field, or a request, of its own.
    if any(line.count(b"\n") != 1 or line.count(b"\r") != 1 for line in lines) or first.count(b"\n") != 2:
        raise ProtocolError("a header holds a line end")
    return b"%b%bContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (first, b"".join(lines), len(body), body)
