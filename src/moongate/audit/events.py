"""The stream of what happens now, for whoever is looking; nobody looking costs nothing."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

SUBSCRIPTION_EVENTS = 256


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: its kind, such as `tunnel.opened`, and its JSON members."""

    kind: str
    data: dict[str, Any]


class Subscription:
    """An async iterator over events; a slow reader loses the oldest, and `lagged` counts them."""

    def __init__(self, leave: Callable[["Subscription"], None]) -> None:
        self._leave = leave
        self._waiting: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._closed = False
        self.lagged = 0

    def push(self, event: Event) -> None:
        """Hand over an event without ever waiting for the reader."""
        if len(self._waiting) >= SUBSCRIPTION_EVENTS:
            self._waiting.popleft()
            self.lagged += 1
        self._waiting.append(event)
        self._wake.set()

    def close(self) -> None:
        """Stop receiving; the reader gets what is waiting, then the end."""
        self._closed = True
        self._leave(self)
        self._wake.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._wake.clear()
            # A reader that gives up here (a keep-alive timer) has taken nothing, so nothing is lost.
            await self._wake.wait()
        return self._waiting.popleft()


class Events:
    """Carries events from where they happen to those who subscribed."""

    def __init__(self) -> None:
        self._subscriptions: tuple[Subscription, ...] = ()

    @property
    def listeners(self) -> int:
        """How many are listening."""
        return len(self._subscriptions)

    def subscribe(self) -> Subscription:
        """Begin to receive; close the subscription afterwards."""
        subscription = Subscription(self._remove)
        self._subscriptions = (*self._subscriptions, subscription)
        return subscription

    def publish(self, kind: str, make: Callable[[], dict[str, Any]]) -> None:
        """Tell every listener; `make` is called only when there is one."""
        if not self._subscriptions:
            return
        event = Event(kind, make())
        for subscription in self._subscriptions:
            subscription.push(event)

    def close(self) -> None:
        """End every subscription, so that readers finish."""
        for subscription in self._subscriptions:
            subscription.close()

    def _remove(self, gone: Subscription) -> None:
        self._subscriptions = tuple(other for other in self._subscriptions if other is not gone)
