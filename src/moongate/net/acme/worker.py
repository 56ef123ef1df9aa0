"""One thread for calls that block, one after the other."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Worker:
    """Does what it is given in a thread of its own, which a process that ends does not wait for.

    The executors of the standard library are waited for, and an authority may be silent for long.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Call this when everything before it is done, and return what it returns or raise what it raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._start().put(lambda: _do(loop, future, function, arguments))
        return await future

    def close(self, last: Callable[[], None]) -> None:
        """Call this at the end of all, without waiting for it, and end the thread."""
        if self._thread is not None:
            self._jobs.put(last)
            self._jobs.put(None)

    def _start(self) -> SimpleQueue[Callable[[], None] | None]:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        return self._jobs

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _do(
    loop: asyncio.AbstractEventLoop, future: "asyncio.Future[T]", function: Callable[..., T], arguments: Any
) -> None:
    if future.cancelled():
        return  # who asked is gone before it was begun
    try:
        result = function(*arguments)
    except BaseException as error:  # noqa: BLE001  # handed to who asked, whatever it is
        _tell(loop, future, future.set_exception, error)
    else:
        _tell(loop, future, future.set_result, result)


def _tell(
    loop: asyncio.AbstractEventLoop, future: "asyncio.Future[Any]", settle: Callable[[Any], None], outcome: object
) -> None:
    def tell() -> None:
        if not future.done():
            settle(outcome)

    with suppress(RuntimeError):  # the loop is closed: nobody waits for it any more
        loop.call_soon_threadsafe(tell)
