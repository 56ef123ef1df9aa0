"""Writing behind: what the data path leaves in memory reaches the database at a steady pace, outages included."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from moongate.errors import StorageError

RETRY_S_MAX = 5.0
LAST_ATTEMPTS_S = 5.0

log = logging.getLogger(__name__)


class WriteBehind:
    """Calls `flush` every so often; a failing database only makes it wait longer.

    `flush` must keep what it could not write when it raises `StorageError`.
    """

    def __init__(self, name: str, flush: Callable[[], Awaitable[None]], *, interval_s: float) -> None:
        self._name = name
        self._flush = flush
        self._interval_s = interval_s
        self._ending = asyncio.Event()
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._hurried: set[asyncio.Task[None]] = set()
        self.failures = 0

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name=f"write {self._name}")

    async def flush(self) -> None:
        """Write now; never at the same time as the steady task.

        Raises:
            StorageError: If the database fails.
        """
        async with self._turn:
            await self._flush()

    async def write_now(self, patience_s: float) -> None:
        """Write without waiting for the next turn; wait that long at most, and not at all during an outage."""
        if self.failures:
            return
        task = asyncio.create_task(self._attempt_unless_failing(), name=f"write {self._name} now")
        self._hurried.add(task)
        task.add_done_callback(self._hurried.discard)
        await asyncio.wait({task}, timeout=patience_s)

    async def aclose(self) -> None:
        """Stop after a last write, tried again for a few seconds when the database fails."""
        self._ending.set()
        if self._task is not None:
            await self._task
        now = asyncio.get_running_loop().time
        deadline = now() + LAST_ATTEMPTS_S
        while not await self._attempt():
            if now() > deadline:
                log.error("%s: gave up on the last write", self._name)
                return
            await asyncio.sleep(self._interval_s)

    async def _run(self) -> None:
        while not self._ending.is_set():
            pause_s = min(self._interval_s * 2 ** min(self.failures, 8), max(RETRY_S_MAX, self._interval_s))
            try:
                await asyncio.wait_for(self._ending.wait(), pause_s)
            except TimeoutError:
                await self._attempt()

    async def _attempt(self) -> bool:
        async with self._turn:
            return await self._try()

    async def _attempt_unless_failing(self) -> None:
        async with self._turn:
            # Whoever queued behind a write that failed would only wait for the same failure.
            if not self.failures:
                await self._try()

    async def _try(self) -> bool:
        try:
            await self._flush()
        except StorageError as error:
            self._note_failure(error)
            return False
        except Exception:  # a defect of ours must not silence the writer for good
            log.exception("%s: writing failed", self._name)
            self.failures += 1
            return False
        if self.failures:
            log.warning("%s: the database takes writes again", self._name)
        self.failures = 0
        return True

    def _note_failure(self, error: StorageError) -> None:
        if not self.failures:  # said once for each outage
            log.warning("%s: %s; what is to be written is kept and tried again", self._name, error.message)
        self.failures += 1
