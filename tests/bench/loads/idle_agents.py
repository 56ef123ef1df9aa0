"""Many agents in one process: each a TLS link with one claimed tunnel that answers probes and does nothing else."""

import argparse
import asyncio
import hashlib
import json
import ssl
import time
from pathlib import Path
from typing import cast

import uvloop

from moongate.wire import tunnel as wire

AT_A_TIME = 64
UPGRADE = (
    b"GET /moongate/link HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: "
    + wire.UPGRADE_TOKEN
    + b"\r\n\r\n"
)
CLAIM_TIMEOUT_S = 30.0


class IdleAgent(asyncio.Protocol):
    """One agent, as docs/protocol/tunnel.md asks: upgrade, hello, claim, and a PONG for every PING."""

    __slots__ = ("claimed", "head", "number", "reader", "tally", "token", "transport")

    def __init__(self, number: int, token: str, tally: dict[str, int]) -> None:
        self.number = number
        self.token = token
        self.tally = tally
        self.head: bytes | None = b""
        self.reader = wire.FrameReader()
        self.claimed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(UPGRADE)

    def data_received(self, data: bytes) -> None:
        if self.head is not None:
            head, end, data = (self.head + data).partition(b"\r\n\r\n")
            if not end:
                self.head = head
                return
            self.head = None
            if b" 101 " not in head:
                self._fail(f"no upgrade: {head[:80]!r}")
                return
            hello = {"protocol": wire.PROTOCOL_VERSION, "release": "bench", "instance": f"idle-{self.number}"}
            self._say({"type": "hello", **hello, "token": self.token})
        for kind, _, payload in self.reader.receive_data(data):
            if kind == wire.PING:
                self.tally["probes"] += 1
                self.transport.write(wire.serialize(wire.PONG, 0, bytes(payload[:8])))
            elif kind == wire.CONTROL:
                self._hear(wire.parse_control(payload))

    def connection_lost(self, exc: Exception | None) -> None:
        self.tally["lost"] += 1
        self._fail(f"link lost: {exc}")

    def _hear(self, message: wire.Message) -> None:
        if message["type"] == "welcome":
            name = f"idle-{self.number:05}"
            options = {"upstream": "http://127.0.0.1:9", "options": {}}
            self._say({"type": "claim", "request": 1, "kind": "http", "wanted": name, "generation": None, **options})
        elif message["type"] == "claimed":
            self.tally["claimed"] += 1
            self.claimed.set_result(None)
        elif message["type"] == "refused":
            self._fail(str(message["message"]))

    def _say(self, message: wire.Message) -> None:
        self.transport.write(wire.serialize_control(message))

    def _fail(self, reason: str) -> None:
        if not self.claimed.done():
            self.claimed.set_exception(RuntimeError(reason))


def pinned_context(port: int, fingerprint: str, ca: Path) -> ssl.SSLContext:
    """Trust exactly the node's own authority, as an agent does with its join string."""
    pem = ca.read_text()
    if hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest() != fingerprint:
        raise SystemExit(f"the authority in {ca} is not the one of the join string for port {port}")
    context = ssl.create_default_context(cadata=pem)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


async def connect_all(given: argparse.Namespace, token: str, context: ssl.SSLContext) -> None:
    loop = asyncio.get_running_loop()
    tally = {"claimed": 0, "lost": 0, "probes": 0}
    gate = asyncio.Semaphore(AT_A_TIME)

    async def one(number: int) -> None:
        async with gate, asyncio.timeout(CLAIM_TIMEOUT_S):
            _, agent = await loop.create_connection(
                lambda: IdleAgent(number, token, tally), "127.0.0.1", given.port, ssl=context
            )
            await agent.claimed

    begin = time.perf_counter()
    # All at once would be a hundred megabytes of tasks; the gate lets a few in at a time.
    for first in range(0, given.agents, 1000):
        await asyncio.gather(*(one(number) for number in range(first, min(first + 1000, given.agents))))
    print(json.dumps({"connected": tally["claimed"], "seconds": time.perf_counter() - begin}), flush=True)
    while True:
        await asyncio.sleep(1)
        print(json.dumps(tally), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--agents", type=int, required=True)
    parser.add_argument("--home", type=Path, required=True, help="the node's state directory, for `join` and `ca.pem`")
    given = parser.parse_args()
    token, _, fingerprint = (given.home / "join").read_text().strip().rpartition("#")[2].rpartition(".")
    context = pinned_context(given.port, fingerprint, given.home / "ca.pem")
    uvloop.run(connect_all(given, token, context))


if __name__ == "__main__":
    main()
