"""What an agent tells the service manager that started it: readiness, a line of status, that it is alive.

The protocol is sd_notify(3): one datagram of `NAME=value` lines to the Unix socket that NOTIFY_SOCKET names.
Without that variable, and on systems without Unix sockets, everything here does nothing.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping

from moongate.telemetry.logs import get_logger

__all__ = ["Notifier"]

log = get_logger(__name__)

# sd_watchdog_enabled(3) recommends to ping when half of the time has passed.
PINGS_PER_TIMEOUT = 2
# systemd reads its socket at once; one that does not must not hold the loop up for longer than this, and only for
# what is said once: signs of life and the status come again.
SEND_ONCE_TIMEOUT_S = 0.2
# A line that `systemctl status` can still show.
MAX_STATUS_CHARS = 200


class Notifier:
    """Speaks to the service manager, if there is one that listens."""

    def __init__(self, address: str | None, watchdog_s: float | None = None) -> None:
        """Take the socket's address, `@` first if it is an abstract one, and the time that the watchdog allows."""
        self._address = address
        self._watchdog_s = watchdog_s
        self._status = ""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> "Notifier":
        """Return the notifier that the environment asks for; one that says nothing if it asks for none."""
        address = environ.get("NOTIFY_SOCKET", "")
        if address[:1] not in ("/", "@"):
            # Of the other families that systemd knows, vsock leads out of a virtual machine; we are no such manager.
            return cls(None)
        return cls(address, _watchdog_s(environ))

    @property
    def watchdog_s(self) -> float | None:
        """How long the manager waits for a sign of life before it ends this process; None is for ever."""
        return self._watchdog_s

    def ready(self) -> None:
        """Say that the start is done."""
        self._send("READY=1", SEND_ONCE_TIMEOUT_S)

    def status(self, text: str) -> None:
        """Show one line beside the service; the same line again is not sent."""
        line = " ".join(text.split())[:MAX_STATUS_CHARS]
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._send("STOPPING=1", SEND_ONCE_TIMEOUT_S)

    async def watchdog(self, alive: Callable[[], bool]) -> None:
        """Give signs of life from this loop for as long as `alive` says so, until cancelled.

        A loop that hangs gives none, and neither does one whose `alive` is false: either way the manager starts
        the process anew. Without a watchdog this returns at once.
        """
        if self._address is None or self._watchdog_s is None:
            return
        interval_s = self._watchdog_s / PINGS_PER_TIMEOUT
        while True:
            if alive():
                self._send("WATCHDOG=1")
            else:
                log.error("no sign of life is given to the service manager", watchdog_s=self._watchdog_s)
            await asyncio.sleep(interval_s)

    def _send(self, lines: str, wait_s: float = 0.0) -> None:
        if self._address is None:
            return
        # An abstract address begins with a zero byte, which the environment writes as @ (unix(7)).
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(wait_s)
                sender.sendto(lines.encode(), address)
        except OSError as error:
            # Publishing goes on whether or not anybody supervises it.
            log.warning("the service manager was not told", what=lines.partition("=")[0], reason=str(error).lower())


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """Return the watchdog's time if it is meant for this process (sd_watchdog_enabled(3))."""
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not (usec.isascii() and usec.isdecimal()) or int(usec) == 0:
        return None
    if pid and pid != str(os.getpid()):
        # A parent's watchdog, inherited by us.
        return None
    return int(usec) / 1_000_000
