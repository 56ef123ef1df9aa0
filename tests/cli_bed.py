"""`moongate` as a user runs it: real processes, with and without a terminal."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed import free_port, until

START_S = 30.0
STOP_S = 15.0
POLL_S = 0.1
TAKE_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from moongate.cli import main
sys.exit(main())
"""
ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[()][A-Z0-9]|[=>])")


def environment(home: Path, **more: str) -> dict[str, str]:
    """The variables of a program that shall know nothing but this state directory."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOONGATE_")}
    return {**kept, "MOONGATE_HOME": str(home), "TERM": "xterm-256color", **more}


class Program:
    """One running command; its standard output and error are read as they come."""

    def __init__(
        self,
        arguments: Sequence[str],
        env: Mapping[str, str],
        *,
        terminal: tuple[int, int] | None = None,
        inside: Sequence[str] = (),
    ) -> None:
        """`inside` is what is put before the command, to run it in a namespace."""
        command = [*inside, sys.executable, "-m", "moongate.cli", *arguments]
        self._said: dict[str, str] = {"out": "", "err": ""}
        self._leaving = threading.Event()
        if terminal is None:
            self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            assert self.process.stdout is not None
            assert self.process.stderr is not None
            sources = {"out": self.process.stdout.fileno(), "err": self.process.stderr.fileno()}
            self._master = None
        else:
            self._master, slave = pty.openpty()
            self.resize(*terminal)
            # A session of its own, with this terminal, so that Ctrl-C typed here is a SIGINT there.
            command = [sys.executable, "-c", TAKE_TERMINAL, *arguments]
            self.process = subprocess.Popen(
                command, env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
            )
            os.close(slave)
            sources = {"out": self._master}
        self._readers = [threading.Thread(target=self._read, args=pair) for pair in sources.items()]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, descriptor: int) -> None:
        while not self._leaving.is_set():
            if not select.select([descriptor], [], [], POLL_S)[0]:
                continue
            try:
                data = os.read(descriptor, 65536)
            except OSError:  # how a terminal says that nobody is left on its other side
                return
            if not data:
                return
            self._said[name] += data.decode("utf-8", "replace")

    @property
    def out(self) -> str:
        return self._said["out"]

    @property
    def err(self) -> str:
        return self._said["err"]

    @property
    def text(self) -> str:
        """What a terminal was sent, without its escapes."""
        return ESCAPES.sub("", self.out)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines(keepends=True) if line.endswith("\n")]

    def wait_for_event(self, kind: str, timeout_s: float = START_S) -> dict[str, Any]:
        """Wait for the first event of this kind, and return it."""
        self.wait_for(f'"event":"{kind}"', timeout_s=timeout_s)
        until(lambda: any(event["event"] == kind for event in self.events), what=f"the whole line of {kind!r}")
        return next(event for event in self.events if event["event"] == kind)

    def wait_for(self, what: str, *, where: str = "out", timeout_s: float = START_S) -> None:
        """Wait until it has said this; fail with what it said instead."""

        def said() -> bool:
            return what in ESCAPES.sub("", self._said[where])

        def over() -> bool:
            return said() or self.process.poll() is not None

        try:
            until(over, timeout_s=timeout_s, what=f"{what!r}; so far: {self._said}")
            for reader in self._readers if self.process.poll() is not None else ():
                reader.join()
            assert said(), f"ended with {self.process.poll()} without {what!r}: {self._said}"
        except BaseException:
            self.end(signal.SIGKILL)
            raise

    def resize(self, columns: int, rows: int) -> None:
        assert self._master is not None
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        assert self._master is not None
        os.write(self._master, keys)

    def stop_reading(self) -> None:
        """Close our end of its output, as `head` does."""
        assert self.process.stdout is not None
        self._leaving.set()
        for reader in self._readers:
            reader.join()
        self.process.stdout.close()

    def close_terminal(self) -> None:
        """Hang up: only when nobody reads any more is the other side told."""
        self._leaving.set()
        for reader in self._readers:
            reader.join()
        self._close()

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ask it to stop, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Return its exit code when it ends by itself."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"did not end within {timeout_s} s: {self._said}") from None
        finally:
            self._close()
        return code

    def _close(self) -> None:
        for reader in self._readers:
            reader.join(STOP_S)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        if self._master is not None:
            os.close(self._master)
            self._master = None


class Gateway:
    """A node as `moongate server` starts it, on ports of its own."""

    def __init__(self, home: Path, **more: str) -> None:
        self.home = home
        self.port, self.api_port = free_port(), free_port()
        ports = {"MOONGATE_LISTEN": f"127.0.0.1:{self.port}", "MOONGATE_DASHBOARD_PORT": str(self.api_port)}
        self.env = environment(home, **ports, MOONGATE_DRAIN_S="1", **more)
        self.program = self.start()

    def start(self) -> Program:
        program = Program(["server", "--log-level", "warning"], self.env)
        program.wait_for("ready ")
        return program

    def restart(self, number: signal.Signals) -> None:
        self.program.end(number)
        self.program = self.start()

    def run(self, *arguments: str, terminal: tuple[int, int] | None = None, **more: str) -> Program:
        """Start a command of the same user on the same machine."""
        return Program(arguments, {**self.env, **more}, terminal=terminal)

    def command(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command to its end: exit code, output, errors."""
        program = self.run(*arguments)
        return program.wait(START_S), program.out, program.err
