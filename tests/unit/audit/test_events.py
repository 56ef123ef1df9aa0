"""The stream of events."""

import asyncio
from typing import Any

import pytest

from moongate.audit.events import SUBSCRIPTION_EVENTS, Event, Events, Subscription


async def read(subscription: Subscription) -> list[Event]:
    return [event async for event in subscription]


def test_an_event_is_not_even_made_when_nobody_listens() -> None:
    made: list[None] = []

    def make() -> dict[str, Any]:
        made.append(None)
        return {}

    events = Events()
    events.publish("request", make)
    subscription = events.subscribe()
    subscription.close()
    events.publish("request", make)
    assert (made, events.listeners) == ([], 0)


async def test_every_listener_gets_every_event_in_order() -> None:
    events = Events()
    first, second = events.subscribe(), events.subscribe()
    for number in range(3):
        events.publish("request", lambda number=number: {"number": number})  # type: ignore[misc]
    events.close()
    for subscription in (first, second):
        assert [event.data["number"] for event in await read(subscription)] == [0, 1, 2]


async def test_a_waiting_listener_is_woken() -> None:
    events = Events()
    reading = asyncio.create_task(anext(events.subscribe()))
    await asyncio.sleep(0)
    events.publish("tunnel.opened", dict)
    assert await reading == Event("tunnel.opened", {})


async def test_a_slow_listener_loses_the_oldest_and_is_told_how_many() -> None:
    events = Events()
    slow = events.subscribe()
    for number in range(SUBSCRIPTION_EVENTS + 5):
        events.publish("request", lambda number=number: {"number": number})  # type: ignore[misc]
    slow.close()
    assert slow.lagged == 5
    assert (await read(slow))[0].data == {"number": 5}


async def test_giving_up_on_an_event_loses_none() -> None:
    events = Events()
    subscription = events.subscribe()
    waiting = asyncio.create_task(anext(subscription))
    await asyncio.sleep(0)
    events.publish("request", dict)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await anext(subscription)).kind == "request"
