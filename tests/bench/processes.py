"""Processes the benchmarks start: each with a log, each ended by its own id."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import psutil

T = TypeVar("T")

TESTS = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class DidNotStart(Exception):
    """A process the benchmarks need ended early, or did not get ready in time."""


class Running:
    """One started process, with its log and what it has used so far."""

    def __init__(self, name: str, popen: "subprocess.Popen[bytes]", log: Path) -> None:
        self.name = name
        self.popen = popen
        self.log = log

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def family(self) -> list[int]:
        """Its process id and those of its children (nginx and sshd work in children)."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self.pid, *(child.pid for child in psutil.Process(self.pid).children(recursive=True))]
        return []

    def cpu_s(self) -> float:
        """Seconds of processor time used so far by the process and its children."""
        return sum(_cpu_s(pid) for pid in self.family())

    def rss_bytes(self) -> int:
        return sum(psutil.Process(pid).memory_info().rss for pid in self.family())

    def kill(self) -> None:
        """End it the hard way, as a crash would."""
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait(STOP_TIMEOUT_S)

    def stop(self) -> None:
        """Ask it to end, and insist after a while."""
        if not self.alive:
            return
        children = self.family()[1:]
        self.popen.terminate()
        try:
            self.popen.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait(STOP_TIMEOUT_S)
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Processes:
    """Owns what it started, and leaves nothing behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[Running] = []
        self._numbers = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for running in reversed(self._started):
            running.stop()

    def start(
        self, name: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> Running:
        """Start a program whose output goes to a log file of its own."""
        self._numbers += 1
        log = self.folder / f"{self._numbers:03}-{name}.log"
        with log.open("wb") as sink:
            popen = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=cwd or TESTS,
                env={**os.environ, **(env or {})},
            )
        running = Running(name, popen, log)
        self._started.append(running)
        return running

    def load(self, module: str, *arguments: str) -> Running:
        """Start one of our own programs in `bench.loads`."""
        return self.start(module.replace("_", "-"), [sys.executable, "-m", f"bench.loads.{module}", *arguments])


def measure(module: str, *arguments: str, timeout_s: float = 600) -> dict[str, Any]:
    """Run a load program to its end and return the JSON object it printed.

    Raises:
        RuntimeError: If it failed; the message holds what it said.
    """
    argv = [sys.executable, "-m", f"bench.loads.{module}", *arguments]
    done = subprocess.run(argv, cwd=TESTS, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{module} {' '.join(arguments)} failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def free_port() -> int:
    """A loopback port that nothing listens on now; outside the kernel's own range, so no dialing takes it."""
    for port in range(10_000 + os.getpid() % 1000 * 8, 32_000):
        if port in _handed_out:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _handed_out.add(port)
        return port
    raise DidNotStart("no free loopback port between 10000 and 32000")


_handed_out: set[int] = set()


def free_range(length: int) -> tuple[int, int]:
    """The ends of a run of consecutive free ports."""
    run: list[int] = []
    while len(run) < length:
        port = free_port()
        run = [*run, port] if not run or port == run[-1] + 1 else [port]
    return run[0], run[-1]


def wait_for_port(port: int, running: Running | None = None) -> None:
    """Wait until something accepts on the loopback port."""

    def accepts() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    wait_until(accepts, f"port {port} accepts", running)


def wait_until(
    true: Callable[[], T | None], what: str, running: Running | None = None, timeout_s: float = START_TIMEOUT_S
) -> T:
    """Wait for a thing, with an end.

    Raises:
        DidNotStart: If it did not come true in time, or its process ended; with the end of its log.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := true()):
        ended = running is not None and not running.alive
        if ended or time.monotonic() > deadline:
            log = running.said()[-2000:] if running else ""
            raise DidNotStart(f"{what}: {'its process ended' if ended else f'not within {timeout_s:.0f} s'}\n{log}")
        time.sleep(0.01)
    return found


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    # utime and stime are fields 14 and 15 of proc(5); the split began after field 2.
    return (int(fields[11]) + int(fields[12])) * TICK_S
