"""An agent process that stays: the one place that puts its parts together."""

import asyncio
import gc
import resource
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from moongate.agent.session import State
from moongate.agent.store import RuleStore
from moongate.agent.supervisor import RulesAgent
from moongate.agent.systemd import Notifier
from moongate.api.agent.local import LocalApi
from moongate.api.agent.parts import LocalParts
from moongate.net.dialing import NodeAddress
from moongate.tasks import TaskSet

GC_THRESHOLDS: Final = (20_000, 20, 50)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """What an agent process is told."""

    home: Path
    address: NodeAddress
    api_port: int
    api_token: SecretStr | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    max_attempts: int = 0


class AgentProcess:
    """One agent that publishes its rules until it is asked to stop."""

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._stopping = asyncio.Event()
        self._tasks = TaskSet("agent process")
        self._notifier = Notifier.from_env()

    @property
    def api_url(self) -> str:
        """Where programs find the API."""
        return self._api.url

    async def start(self) -> None:
        """Lock and load the rules, open the API and begin to connect; when this returns, programs may call.

        Raises:
            RulesLocked: If another agent has the state directory.
            RulesUnsaved: If the rules cannot be read.
            PortInUse: If another program listens on the API's port.
        """
        settings = self._settings
        raise_file_limit()
        store = RuleStore(settings.home)
        try:
            self.agent = RulesAgent(
                store, settings.address, max_attempts=settings.max_attempts, on_state=self._state_changed
            )
            self._parts = LocalParts(
                agent=self.agent, token=settings.api_token, hosts=settings.hosts, origins=settings.origins
            )
            self._api = LocalApi(self._parts, port=settings.api_port)
            await self._api.start()
        except BaseException:
            store.close()
            raise
        await self.agent.open()
        self._tasks.start("watchdog", self._notifier.watchdog(lambda: self.agent.is_alive))
        self._notifier.ready()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)

    async def run_until_stopped(self) -> None:
        """Serve until SIGTERM, SIGINT, or the terminal is closed."""
        loop = asyncio.get_running_loop()
        # Started by `nohup`, a terminal that is closed is no reason to stop.
        hangup = (signal.SIGHUP,) if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else ()
        for number in (signal.SIGTERM, signal.SIGINT, *hangup):
            loop.add_signal_handler(number, self.stop)
        await self._stopping.wait()
        await self.aclose()

    def stop(self) -> None:
        """Ask for an orderly end."""
        self._stopping.set()

    async def aclose(self) -> None:
        """Answer what is under way, end the session, and let another agent have the rules."""
        self._notifier.stopping()
        self._parts.end_streams()
        await self._api.aclose()
        await self.agent.aclose()
        await self._tasks.aclose()

    def _state_changed(self, state: State, detail: str) -> None:
        self._notifier.status(f"{state}: {detail}" if detail else str(state))


def raise_file_limit() -> None:
    """Let this process open as many files as it may: each visitor is a connection to a local service."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
