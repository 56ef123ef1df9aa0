"""What a foreground agent prints: plain lines, JSON lines, or lines and then a live panel."""

import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TextIO

from moongate.cli.outcome import report
from moongate.cli.text import human_duration, neutralise, print_json
from moongate.cli.tunnels import Wanted
from moongate.cli.upstreams import Local
from moongate.cli.view import RequestView, View

if TYPE_CHECKING:
    from rich.live import Live

FRAMES_PER_S = 4
# What is said behind the panel and printed after it.
LATER_KEPT = 100


@dataclass(frozen=True, slots=True)
class Ready:
    """A tunnel that is public now."""

    wanted: Wanted
    tunnel_id: str
    public_url: str
    port: int | None = None


class Output:
    """Where the story of a foreground agent is told; each kind overrides what it has words for."""

    def tunnel_ready(self, ready: Ready) -> None:
        """A public entry is there."""

    def connected_again(self, node: str) -> None:
        """The link stands again; the first time is told by its tunnels."""

    def reconnecting(self, attempt: int, reason: str, delay_s: float) -> None:
        """The link is lost, or could not be made, and is tried again after the delay."""

    def request(self, request: RequestView) -> None:
        """A visitor's request was answered."""

    def upstream_failed(self, message: str) -> None:
        """A visitor came, and the local service could not be reached."""

    def failed(self, code: str, message: str, hint: str = "") -> None:
        """Something was refused or failed."""

    def all_ready(self, look: Callable[[], View]) -> None:
        """Every tunnel has been told; `look` says how things stand, whenever asked."""

    def close(self) -> None:
        """The agent has ended."""


class JsonLines(Output):
    """One JSON object per event on stdout."""

    def tunnel_ready(self, ready: Ready) -> None:
        """Report a public entry, with the local service that it leads to."""
        local = ready.wanted.local
        members: dict[str, object] = {
            "protocol": ready.wanted.kind,
            "public_url": ready.public_url,
            "local": str(local),
        }
        members["tunnel_id"] = ready.tunnel_id
        if isinstance(local, Local):
            members |= {"local_host": local.host, "local_port": local.port}
        if ready.wanted.label:
            members["name"] = ready.wanted.label
        if ready.port is not None:
            members["public_port"] = ready.port
        self._print("tunnel_ready", members)

    def connected_again(self, node: str) -> None:
        """Report that the link stands again."""
        self._print("reconnected", {"node": node})

    def reconnecting(self, attempt: int, reason: str, delay_s: float) -> None:
        """Report a lost link and when it is tried again."""
        self._print("reconnecting", {"attempt": attempt, "reason": reason, "delay_secs": round(delay_s, 3)})

    def request(self, request: RequestView) -> None:
        """Report one answered request."""
        members: dict[str, object] = {"method": request.method, "path": request.path, "status": request.status}
        self._print(
            "request", {**members, "duration_ms": round(request.duration_s * 1000, 3), "tunnel": request.tunnel}
        )

    def upstream_failed(self, message: str) -> None:
        """Report that the local service is not there."""
        self._print("upstream_failed", {"message": message})

    def failed(self, code: str, message: str, hint: str = "") -> None:
        """Report an error."""
        report(code, message, hint, as_json=True)

    @staticmethod
    def _print(event: str, members: dict[str, object]) -> None:
        print_json({"event": event, **members})


class Lines(Output):
    """Public URLs and requests on stdout, everything else on stderr."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._err = err or sys.stderr

    def tunnel_ready(self, ready: Ready) -> None:
        """Print the public URL first, so that it is the first word of its line."""
        name = f"  ({ready.wanted.label})" if ready.wanted.label else ""
        self._say(f"{ready.public_url}  ->  {ready.wanted.local}{name}", self._out)

    def connected_again(self, node: str) -> None:
        """Say that the link stands again."""
        self._say(f"connected to {node} again", self._err)

    def reconnecting(self, attempt: int, reason: str, delay_s: float) -> None:
        """Say that the link is lost and when it is tried again."""
        self._say(f"reconnecting in {human_duration(delay_s)} (attempt {attempt}): {reason}", self._err)

    def request(self, request: RequestView) -> None:
        """Print one answered request."""
        clock = time.strftime("%H:%M:%S", time.localtime(request.at))
        took = human_duration(request.duration_s)
        self._say(f"{clock}  {request.method} {request.path}  {request.status}  {took}", self._out)

    def upstream_failed(self, message: str) -> None:
        """Say that the local service is not there."""
        self._say(f"upstream: {message}", self._err)

    def failed(self, code: str, message: str, hint: str = "") -> None:
        """Print an error as one line, and its hint."""
        report(code, message, hint, as_json=False, stream=self._err)

    def _say(self, text: str, stream: TextIO) -> None:
        print(neutralise(text), file=stream, flush=True)


class Panel(Lines):
    """Lines until every tunnel has been told, then a live panel on the terminal's other screen.

    The lines stay on the first screen, so the URLs are still there afterwards, with
    what went wrong meanwhile.
    """

    def __init__(self) -> None:
        super().__init__()
        self._live: Live | None = None
        self._later: deque[Callable[[], None]] = deque(maxlen=LATER_KEPT)

    def all_ready(self, look: Callable[[], View]) -> None:
        """Put up the panel; `look` says what to show, several times a second."""
        if self._live is not None:
            return
        # Only now: rich.live costs a tenth of a second that the first URL need not wait for.
        from rich.console import Console
        from rich.live import Live

        from moongate.cli.panel import render

        console = Console(highlight=False, markup=False, emoji=False)
        self._live = Live(
            get_renderable=lambda: render(look(), now=time.monotonic(), width=console.width, height=console.height),
            console=console,
            screen=True,
            refresh_per_second=FRAMES_PER_S,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start(refresh=True)

    def tunnel_ready(self, ready: Ready) -> None:
        """Print the public URL, now or when the panel is gone."""
        self._when_visible(partial(super().tunnel_ready, ready))

    def connected_again(self, node: str) -> None:
        """Leave it to the panel's state, if there is one."""
        if self._live is None:
            super().connected_again(node)

    def reconnecting(self, attempt: int, reason: str, delay_s: float) -> None:
        """Leave it to the panel's state, if there is one."""
        if self._live is None:
            super().reconnecting(attempt, reason, delay_s)

    def request(self, request: RequestView) -> None:
        """Nothing: the panel has its own list."""

    def upstream_failed(self, message: str) -> None:
        """Leave it to the panel's lamp, if there is one."""
        if self._live is None:
            super().upstream_failed(message)

    def failed(self, code: str, message: str, hint: str = "") -> None:
        """Print an error where it can still be read after the panel is gone."""
        self._when_visible(partial(super().failed, code, message, hint))

    def close(self) -> None:
        """Give the terminal back as it was, with what was said meanwhile."""
        live, self._live = self._live, None
        if live is not None:
            with suppress(OSError):
                live.stop()
        while self._later:
            self._later.popleft()()

    def _when_visible(self, say: Callable[[], None]) -> None:
        if self._live is None:
            say()
        else:
            self._later.append(say)
