"""A real browser without a window."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from testbed import require_peer, until

__all__ = ["Tab", "browsing", "document_of", "tab_of"]

PAGE_S = 60.0
END_S = 10.0
SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
)


@contextmanager
def browsing(url: str, folder: Path, *more: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Open a page, and close the browser with all its processes afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [require_peer("chromium"), *SWITCHES, *more, f"--user-data-dir={folder}", url]
    browser = subprocess.Popen(
        command,
        env={**os.environ, "HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield browser
    finally:
        # Its helpers are in its session, so they end with it.
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(browser.pid, number)
                browser.wait(END_S)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        browser.wait(END_S)
        assert browser.stdout is not None
        browser.stdout.close()


def document_of(url: str, folder: Path) -> str:
    """Return the page as it is when it has loaded."""
    with browsing(url, folder, "--dump-dom") as browser:
        out, _ = browser.communicate(timeout=PAGE_S)
        return out.decode("utf-8", "replace")


class Tab:
    """A page that a test looks at and types into, over the DevTools protocol."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = count(1)

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._connection.recv(timeout=PAGE_S))
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])

    def look(self, expression: str) -> Any:
        """Return what an expression is on the page; None where it fails, as on a page that is just being left."""
        result = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        return result["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true on the page."""
        until(lambda: bool(self.look(expression)), timeout_s=PAGE_S, what=f"{expression} on the page")

    def type(self, text: str) -> None:
        """Type into what has the focus, and press Enter."""
        self._call("Input.insertText", text=text)
        enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        self._call("Input.dispatchKeyEvent", type="keyDown", **enter)
        self._call("Input.dispatchKeyEvent", type="keyUp", **enter)


@contextmanager
def tab_of(url: str, folder: Path) -> Iterator[Tab]:
    """Open a page that stays open."""
    with browsing(url, folder, "--remote-debugging-port=0"):
        told = folder / "DevToolsActivePort"
        until(lambda: told.exists() and "\n" in told.read_text(), timeout_s=PAGE_S, what="the browser's port")
        listing = f"http://127.0.0.1:{told.read_text().split()[0]}/json"
        pages: list[str] = []

        def found() -> bool:
            targets = httpx.get(listing, trust_env=False, timeout=PAGE_S).json()
            pages[:] = [target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page"]
            return bool(pages)

        until(found, timeout_s=PAGE_S, what="the browser's page")
        with connect(pages[0], proxy=None, max_size=None) as connection:
            yield Tab(connection)
