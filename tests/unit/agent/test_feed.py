"""What is told to listeners of an agent's events."""

import pytest

from moongate.agent.feed import KEPT, Feed


async def test_each_listener_hears_what_is_told_from_then_on() -> None:
    feed = Feed()
    first = feed.subscribe()
    feed.publish("one", {})
    second = feed.subscribe()
    feed.publish("two", {"n": 2})
    assert [await anext(first), await anext(first)] == [("one", {}), ("two", {"n": 2})]
    assert await anext(second) == ("two", {"n": 2})


async def test_a_slow_listener_loses_the_oldest() -> None:
    feed = Feed()
    slow = feed.subscribe()
    for number in range(KEPT + 5):
        feed.publish("n", {"n": number})
    assert await anext(slow) == ("n", {"n": 5})


async def test_a_listener_that_never_listened_can_leave() -> None:
    feed = Feed()
    stream = feed.subscribe()
    assert feed.has_listeners
    await stream.aclose()
    assert not feed.has_listeners


async def test_when_the_feed_ends_so_do_its_streams() -> None:
    feed = Feed()
    stream = feed.subscribe()
    feed.close()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
