"""Named, supervised tasks, and a shutdown that waits for them.

A task that fails is logged with its name and never silent. Who starts a task owns the
set it lives in; starting one again is left to its own code.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["TaskSet"]

log = logging.getLogger(__name__)
T = TypeVar("T")


class TaskSet:
    """The tasks of one owner."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def names(self) -> list[str]:
        """The names of the tasks that run now."""
        return sorted(task.get_name() for task in self._tasks)

    def start(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start `work` as a task of this set.

        Raises:
            RuntimeError: If the set is closed already; the work is not begun then.
        """
        if self._closed:
            work.close()
            raise RuntimeError(f"{self._owner} is closed; {name} was not started")
        task = asyncio.get_running_loop().create_task(work, name=f"{self._owner}: {name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        # Asking for the exception also keeps asyncio from reporting it a second time, without a name.
        failure = task.exception()
        if failure is not None:
            log.error("task %s failed: %s", task.get_name(), failure, exc_info=failure)

    async def aclose(self, timeout_s: float = 5.0) -> None:
        """Cancel every task and wait for it; one that does not end in time is named in the log and left."""
        self._closed = True
        tasks = set(self._tasks) - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=timeout_s)
        for task in late:
            log.error("task %s did not end within %g s", task.get_name(), timeout_s)
