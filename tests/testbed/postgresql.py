"""A real PostgreSQL of the system, in a directory of its own, as a user without privileges."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from testbed import free_port, require_peer

__all__ = ["PostgreSQL"]

START_S = 30.0


class PostgreSQL:
    """One server on loopback; it trusts whoever reaches it, and forgets everything when it stops."""

    def __init__(self) -> None:
        self._programs = Path(require_peer("initdb")).resolve().parent
        self._user = _plain_user()
        self._directory = Path(tempfile.mkdtemp(prefix="postgresql-"))
        self.port = free_port()
        if self._user is not None:
            shutil.chown(self._directory, self._user)
        self._run(
            "initdb",
            "-D",
            str(self._directory / "data"),
            "-A",
            "trust",
            "-N",
            "-U",
            "moongate",
            "--no-locale",
            "-E",
            "UTF8",
        )
        self._log = (self._directory / "log").open("wb")
        self._server = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        server = subprocess.Popen(
            [
                self._programs / "postgres",
                *("-D", str(self._directory / "data"), "-p", str(self.port), "-k", str(self._directory)),
                *("-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=60"),
            ],
            stdout=self._log,
            stderr=self._log,
            cwd=self._directory,
            user=self._user,
        )
        self._wait(server)
        return server

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments], capture_output=True, cwd=self._directory, user=self._user, text=True
        )
        if done.returncode:
            pytest.fail(f"{program}: {done.stderr}")

    def _wait(self, server: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + START_S
        ready = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready).returncode:
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"PostgreSQL did not start: {(self._directory / 'log').read_text()}")
            time.sleep(0.05)

    def empty(self) -> str:
        """Empty the one database there is and return its URL."""
        sql = "DROP SCHEMA public CASCADE; CREATE SCHEMA public"
        self._run("psql", "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", "moongate", "-d", "postgres", "-c", sql)
        return f"postgresql://moongate@127.0.0.1:{self.port}/postgres"

    def halt(self) -> None:
        """End the server at once, breaking its connections."""
        self._server.send_signal(signal.SIGQUIT)
        self._server.wait(30)

    def restart(self) -> None:
        """Start the halted server again."""
        self._server = self._start()

    def stop(self) -> None:
        """End the server and remove its files."""
        self.halt()
        self._log.close()
        shutil.rmtree(self._directory, ignore_errors=True)


def _plain_user() -> str | None:
    """Return whom the server runs as: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
