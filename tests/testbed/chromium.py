"""A real browser without a window."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed import require_peer

__all__ = ["browsing", "document_of"]

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
