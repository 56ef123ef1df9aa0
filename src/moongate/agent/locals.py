"""The local ports of an agent's port maps: opened, moved and closed with the rules, and tried again when they are taken."""

from collections.abc import Iterable, Mapping
from typing import cast

import structlog

from moongate.agent.portmaps import Dial, PortMaps, Target, Transport
from moongate.agent.rulebook import Change
from moongate.agent.rules import PortMap
from moongate.errors import PortInUse

log = structlog.get_logger(__name__)


class LocalPorts:
    """What the port maps of the rules listen on."""

    def __init__(self, dial: Dial) -> None:
        self._portmaps = PortMaps(dial, on_failure=_failed)
        self._unopened: set[str] = set()

    @property
    def is_complete(self) -> bool:
        """Whether every port is open that is to be."""
        return not self._unopened

    async def change(self, changes: Iterable[Change]) -> tuple[str, PortInUse] | None:
        """Make all of these changes, or none; returns the key of the one that cannot be made, and why."""
        done: list[Change] = []
        for change in changes:
            if change.kind != "portmaps":
                continue
            try:
                await self._make(change)
            except PortInUse as error:
                await self.undo(done)
                reason = error.message.rpartition(": ")[2]
                return change.key, PortInUse(f"cannot listen on {change.key}: {reason}")
            done.append(change)
        return None

    async def undo(self, changes: Iterable[Change]) -> None:
        """Take back changes that were made."""
        for change in changes:
            if change.kind == "portmaps":
                try:
                    await self._make(change.undone())
                except PortInUse:
                    self._unopened.add(change.key)  # somebody was quicker

    async def _make(self, change: Change) -> None:
        after = cast(PortMap | None, change.after)
        if after is not None:
            await self._portmaps.open(after.port, cast(Transport, after.transport), _target(after))
        else:
            self._portmaps.close(int(change.key))
        self._unopened.discard(change.key)

    async def open(self, portmaps: Mapping[str, PortMap], *, again: bool = False) -> None:
        """Open every port, or with `again` those that could not be; one that is taken is tried later."""
        keys = [key for key in portmaps if not again or key in self._unopened]
        self._unopened &= portmaps.keys()
        for key in keys:
            try:
                await self._make(Change("portmaps", key, None, portmaps[key]))
            except PortInUse as error:
                if key not in self._unopened:
                    log.warning("port map not opened; it is tried again", port=key, reason=error.message)
                self._unopened.add(key)

    def close_all(self) -> None:
        """Give every port back."""
        self._portmaps.close_all()
        self._unopened.clear()


def _target(portmap: PortMap) -> Target:
    return Target(portmap.dst_port, portmap.destination)


def _failed(port: int, reason: str) -> None:
    log.debug("port map failed", port=port, reason=reason)
