"""Blocking calls in a thread of their own."""

import asyncio
import subprocess
import sys
import threading

import pytest

from moongate.net.acme.worker import Worker


async def test_calls_are_made_one_after_the_other_in_one_thread() -> None:
    worker = Worker("test")
    seen: list[tuple[int, str]] = []

    def note(number: int) -> int:
        seen.append((number, threading.current_thread().name))
        return number * 2

    assert await asyncio.gather(*(worker.call(note, number) for number in range(20))) == list(range(0, 40, 2))
    assert seen == [(number, "test") for number in range(20)]
    worker.close(lambda: None)


async def test_what_a_call_raises_reaches_who_asked() -> None:
    worker = Worker("test")

    def fail() -> None:
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        await worker.call(fail)
    assert await worker.call(lambda: "still there") == "still there"
    worker.close(lambda: None)


async def test_a_call_whose_asker_has_gone_is_not_begun() -> None:
    worker, gate = Worker("test"), threading.Event()
    begun: list[int] = []
    first = asyncio.create_task(worker.call(gate.wait, 10))
    second = asyncio.create_task(worker.call(begun.append, 2))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    gate.set()
    assert await first
    assert await worker.call(lambda: list(begun)) == []
    worker.close(lambda: None)


async def test_the_last_call_is_made_when_all_others_are_done() -> None:
    worker, over = Worker("test"), threading.Event()
    await worker.call(lambda: None)
    worker.close(over.set)
    assert await asyncio.to_thread(over.wait, 10)


def test_a_process_does_not_wait_for_a_call_that_hangs() -> None:
    program = """
import asyncio, time
from moongate.net.acme.worker import Worker
async def main():
    task = asyncio.create_task(Worker("test").call(time.sleep, 60))
    await asyncio.sleep(0.05)
    task.cancel()
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)
