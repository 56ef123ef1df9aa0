"""From a node's address to a link: connect, ask for the tunnel protocol, say hello."""

import asyncio
import ssl
from typing import Final, cast

from moongate.errors import (
    LimitExceeded,
    MoongateError,
    NoPortFree,
    ReachError,
    TokenInvalid,
    UpstreamTimeout,
    VersionUnsupported,
)
from moongate.net.dialing import NodeAddress, dial_tcp, node_context
from moongate.relay.links import Link, Receiver
from moongate.wire import tunnel as wire
from moongate.wire.tunnel import Message, Payload

CONNECT_TIMEOUT_S: Final = 10.0
_MAX_HEAD: Final = 8192
_REFUSALS: Final[dict[str, type[MoongateError]]] = {
    TokenInvalid.code: TokenInvalid,
    VersionUnsupported.code: VersionUnsupported,
    NoPortFree.code: NoPortFree,
    LimitExceeded.code: LimitExceeded,
}


class NodeDialer:
    """Makes links to one node; its certificate authority is fetched and checked once, and again if it changes."""

    def __init__(self, address: NodeAddress) -> None:
        self.address = address
        self._context: ssl.SSLContext | None = None

    async def dial(self, receiver: Receiver) -> Link:
        """Return a link on which nothing has been said yet.

        Raises:
            ReachError: If the node cannot be reached, or does not speak the tunnel protocol.
            WrongAuthority: If it is not the node of the join string.
        """
        address = self.address
        if address.tls and self._context is None:
            self._context = await node_context(address, timeout_s=CONNECT_TIMEOUT_S)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        transport, asking = await dial_tcp(
            address.host,
            address.port,
            lambda: _Asking(answer, str(address)),
            timeout_s=CONNECT_TIMEOUT_S,
            tls=self._context,
        )
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                rest = await answer
        except TimeoutError:
            transport.abort()
            raise UpstreamTimeout(f"{address} did not agree to the tunnel protocol in time") from None
        except BaseException:
            transport.abort()
            raise
        link = Link(receiver)
        transport.set_protocol(link)
        link.connection_made(transport)
        if asking.lost:
            raise ReachError(f"{address} closed the connection")
        if rest:
            link.data_received(rest)
        return link


class _Asking(asyncio.Protocol):
    """Asks for the upgrade and waits for 101."""

    def __init__(self, answer: asyncio.Future[bytes], node: str) -> None:
        self._answer = answer
        self._node = node
        self._received = b""
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(
            b"GET %b HTTP/1.1\r\nHost: %b\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n"
            % (wire.LINK_PATH, self._node.encode("ascii", "backslashreplace"), wire.UPGRADE_TOKEN)
        )

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if self._answer.done():
            return
        if found:
            self._judge(head, rest)
        elif len(self._received) > _MAX_HEAD:
            self._answer.set_exception(ReachError(f"{self._node} does not speak the tunnel protocol"))

    def _judge(self, head: bytes, rest: bytes) -> None:
        status = head.split(b"\r\n", 1)[0].split(b" ")[1:2]
        if status == [b"101"]:
            self._answer.set_result(rest)
        elif status == [b"503"]:
            self._answer.set_exception(ReachError(f"{self._node} is stopping, or has no room"))
        else:
            shown = status[0][:3].decode("latin-1") if status else "no status"
            self._answer.set_exception(
                ReachError(f"{self._node} does not speak the tunnel protocol (it answered {shown})")
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self._answer.done():
            self._answer.set_exception(ReachError(f"{self._node} closed the connection: {exc or 'no reason given'}"))


class Welcoming:
    """Waits for the node's answer to our hello."""

    def __init__(self) -> None:
        self.welcome: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

    def frame(self, link: Link, kind: int, channel: int, payload: Payload) -> None:
        if self.welcome.done() or kind != wire.CONTROL:
            return
        message = wire.parse_control(payload)
        if message["type"] == "welcome":
            self.welcome.set_result(message)
        elif message["type"] == "refused":
            self.welcome.set_exception(refusal(message))

    def link_writable(self, link: Link, writable: bool) -> None:
        """Nothing waits yet."""

    def makes_way(self) -> bool:
        return False

    def link_lost(self, link: Link, reason: str) -> None:
        if not self.welcome.done():
            self.welcome.set_exception(ReachError(f"the node closed the link: {reason}"))


def refusal(message: Message) -> MoongateError:
    """Return the error that a `refused` stands for."""
    kind = _REFUSALS.get(str(message.get("code")), ReachError)
    return kind(str(message.get("message", "refused")), hint=str(message.get("hint", "")))
