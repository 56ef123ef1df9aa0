"""What happens at an agent, told to whoever listens; a slow listener loses the oldest, and holds nobody up."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

KEPT: Final = 1000

Told = tuple[str, dict[str, Any]]


class Feed:
    """Hands each event to every listener."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[Told | None]] = set()

    @property
    def has_listeners(self) -> bool:
        """Whether anybody would hear."""
        return bool(self._listeners)

    def publish(self, name: str, data: dict[str, Any]) -> None:
        """Tell everybody."""
        for listener in self._listeners:
            _put(listener, (name, data))

    def subscribe(self) -> "Stream":
        """Return what is told from this moment on."""
        listener: asyncio.Queue[Told | None] = asyncio.Queue(KEPT)
        self._listeners.add(listener)
        return Stream(listener, lambda: self._listeners.discard(listener))

    def close(self) -> None:
        """End every listener's stream."""
        for listener in list(self._listeners):
            _put(listener, None)


class Stream:
    """One listener's events; it is let go of by `aclose`, also when it never began to listen."""

    def __init__(self, listener: asyncio.Queue[Told | None], let_go: Callable[[], None]) -> None:
        self._listener = listener
        self._let_go = let_go

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Told:
        event = await self._listener.get()
        if event is None:
            self._let_go()
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        """Hear no more."""
        self._let_go()


def _put(listener: asyncio.Queue[Told | None], event: Told | None) -> None:
    if listener.full():
        listener.get_nowait()
    listener.put_nowait(event)
