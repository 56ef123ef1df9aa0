"""Serves the application on loopback, and nowhere else."""

import asyncio
from contextlib import suppress

from moongate.api.agent.app import create_agent_app
from moongate.api.agent.parts import LocalParts
from moongate.api.serving import AppServer
from moongate.errors import ConfigurationError, PortInUse
from moongate.net.listening import bind

DEFAULT_PORT = 4100
# How long requests under way may take to be answered when the agent stops.
DRAIN_S = 2.0


class LocalApi:
    """The agent's API, from `start` to `aclose`."""

    def __init__(self, parts: LocalParts, *, port: int = DEFAULT_PORT) -> None:
        self._server = AppServer(create_agent_app(parts))
        self._listeners: list[asyncio.Server] = []
        self.port = port

    @property
    def url(self) -> str:
        """Where programs find it."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen on 127.0.0.1 and, where there is one, on ::1.

        Raises:
            PortInUse: If another program listens there.
        """
        sockets = await bind("127.0.0.1", self.port)
        self.port = sockets[0].getsockname()[1]
        # A machine without IPv6 has no ::1; whoever says `localhost` then means 127.0.0.1.
        with suppress(ConfigurationError, PortInUse):
            sockets += await bind("::1", self.port)
        loop = asyncio.get_running_loop()
        self._listeners = [await loop.create_server(lambda: self._server.protocol(None), sock=sock) for sock in sockets]

    async def aclose(self, timeout_s: float = DRAIN_S) -> None:
        """Accept nobody any more, answer what is under way, and end."""
        for listener in self._listeners:
            listener.close()
        await self._server.drain(timeout_s)
