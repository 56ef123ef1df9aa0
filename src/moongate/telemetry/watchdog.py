"""Reports every stall of the event loop, with the stack that caused it.

A thread looks at the loop's heartbeat. It only reports: a stalled loop that comes back
is a fault to mend, not a reason to end.
"""

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType

from moongate.telemetry.logs import get_logger

__all__ = ["LoopWatchdog"]

log = get_logger(__name__)

STALL_S = 0.25
BEAT_S = 0.1
LOOK_S = 0.05


class LoopWatchdog:
    """Watches the loop it is started in."""

    def __init__(self, on_stall: Callable[[float, str], None] | None = None, *, stall_s: float = STALL_S) -> None:
        """Take who is told, in the watching thread: seconds so far, and the stack of the loop's thread."""
        self._on_stall = on_stall
        self._stall_s = stall_s
        self._beaten_at = 0.0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop_thread = 0

    def start(self) -> None:
        """Begin to watch the running loop."""
        self._loop_thread = threading.get_ident()
        self._beat(asyncio.get_running_loop())
        self._thread = threading.Thread(target=self._watch, name="loop watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; call it in the loop."""
        self._ended.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._thread is not None:
            self._thread.join(timeout=1)

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._beaten_at = time.monotonic()
        self._timer = loop.call_later(BEAT_S, self._beat, loop)

    def _watch(self) -> None:
        reported = 0.0
        looked_at, cpu = time.monotonic(), time.process_time()
        while not self._ended.wait(LOOK_S):
            now, cpu_now = time.monotonic(), time.process_time()
            # A stopped or starved process (SIGSTOP, a suspended machine) did not stall by its own doing.
            paused = now - looked_at > self._stall_s and cpu_now - cpu < LOOK_S
            looked_at, cpu = now, cpu_now
            beaten_at = self._beaten_at
            silent_s = now - beaten_at - BEAT_S
            if silent_s > self._stall_s and beaten_at != reported and not paused:
                # Once per stall: the first stack is the one that shows the cause.
                reported = beaten_at
                self._report(silent_s)

    def _report(self, silent_s: float) -> None:
        # The only way to another thread's stack that Python has, underscore or not.
        frame: FrameType | None = sys._current_frames().get(self._loop_thread)  # noqa: SLF001
        stack = "".join(traceback.format_stack(frame)) if frame is not None else "the loop's thread is gone"
        log.warning("the event loop does not answer", silent_s=round(silent_s, 3), stack=stack)
        if self._on_stall is not None:
            self._on_stall(silent_s, stack)
