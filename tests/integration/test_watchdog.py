import asyncio
import threading
import time

from moongate.telemetry import LoopWatchdog
from testbed import until_async


def hold_the_loop(seconds: float) -> None:
    time.sleep(seconds)


async def test_a_stall_is_reported_once_with_the_stack_that_caused_it() -> None:
    reports: list[tuple[float, str]] = []
    watchdog = LoopWatchdog(lambda silent_s, stack: reports.append((silent_s, stack)))
    watchdog.start()
    try:
        await asyncio.sleep(0.2)
        hold_the_loop(0.9)
        await until_async(lambda: reports)
        await asyncio.sleep(0.2)
    finally:
        watchdog.stop()
    [(silent_s, stack)] = reports
    assert silent_s > 0.25
    assert "hold_the_loop" in stack


async def test_a_loop_that_answers_is_left_in_peace() -> None:
    reports: list[str] = []
    watchdog = LoopWatchdog(lambda _, stack: reports.append(stack), stall_s=2)
    watchdog.start()
    hold_the_loop(0.3)
    await asyncio.sleep(0.2)
    watchdog.stop()
    assert reports == []
    assert not any(thread.name == "loop watchdog" for thread in threading.enumerate())
