import asyncio
import logging

import pytest

from moongate.tasks import TaskSet


async def fails() -> None:
    raise ValueError("broken wheel")


async def test_a_task_that_fails_is_logged_with_its_name(caplog: pytest.LogCaptureFixture) -> None:
    tasks = TaskSet("mill")
    task = tasks.start("grinding", fails())
    with pytest.raises(ValueError, match="broken wheel"):
        await task
    await asyncio.sleep(0)
    assert "task mill: grinding failed: broken wheel" in caplog.text
    assert len(tasks) == 0


async def test_one_failure_leaves_the_other_tasks_alone(caplog: pytest.LogCaptureFixture) -> None:
    tasks = TaskSet("mill")
    waiting = tasks.start("waiting", asyncio.Event().wait())
    failing = tasks.start("failing", fails())
    await asyncio.wait([failing])
    assert tasks.names == ["mill: waiting"]
    await tasks.aclose()
    assert waiting.cancelled()
    assert caplog.text.count("failed") == 1


async def test_closing_waits_until_every_task_has_put_its_things_away() -> None:
    tasks = TaskSet("mill")
    started = asyncio.Event()
    put_away = []

    async def careful() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            put_away.append("tools")

    tasks.start("careful", careful())
    await started.wait()
    await tasks.aclose()
    assert put_away == ["tools"]


async def test_a_task_that_does_not_end_is_named_and_left(caplog: pytest.LogCaptureFixture) -> None:
    tasks = TaskSet("mill")
    started, let_go = asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await let_go.wait()

    task = tasks.start("stubborn", stubborn())
    await started.wait()
    with caplog.at_level(logging.ERROR):
        await tasks.aclose(timeout_s=0.01)
    assert "task mill: stubborn did not end within 0.01 s" in caplog.text
    let_go.set()
    await task


async def test_a_closed_set_starts_nothing() -> None:
    tasks = TaskSet("mill")
    await tasks.aclose()
    with pytest.raises(RuntimeError, match="mill is closed; late was not started"):
        tasks.start("late", asyncio.sleep(0))


async def test_a_task_may_close_the_set_it_lives_in() -> None:
    tasks = TaskSet("mill")
    other = tasks.start("other", asyncio.Event().wait())
    await asyncio.wait_for(tasks.start("closer", tasks.aclose()), 5)
    assert other.cancelled()
