"""What systemd is to a service, as far as the service can tell: its command, environment, credentials, socket and watchdog.

Process 1 of a container is seldom systemd, so tests read the unit themselves and run its ExecStart.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from testbed import until

READY_S = 30.0
END_S = 20.0
POLL_S = 0.1
VARIABLE = re.compile(r"\$\$|\$\{([A-Z_]+)\}")


def read_unit(text: str) -> dict[str, list[str]]:
    """Return what each name is set to, in order; sections do not matter to us."""
    settings: dict[str, list[str]] = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith(("#", ";")):
            name, value = line.split("=", 1)
            settings.setdefault(name, []).append(value)
    return settings


def command_of(line: str, env: Mapping[str, str]) -> list[str]:
    """Read a command as systemd.service(5) says, as far as our units go."""
    words = [word.replace("%%", "%") for word in shlex.split(line)]
    return [VARIABLE.sub(lambda found: env[found[1]] if found[1] else "$", word) for word in words]


class ServiceManager:
    """Runs one unit; its state, credentials and socket are in a folder."""

    def __init__(self, unit: Path, folder: Path, env: Mapping[str, str], *, before: Sequence[str] = ()) -> None:
        """Take the unit's file, a folder of our own, and what to put before the command: a tracer, a namespace."""
        self._unit = unit
        self._folder = folder
        self._given = dict(env)
        self._before = tuple(before)
        self._leaving = threading.Event()
        self.notes: list[tuple[float, str]] = []
        """Every line that was sent to the socket, and when (monotonic)."""
        self.process: subprocess.Popen[bytes] | None = None
        self.ended_by_watchdog = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._socket.settimeout(POLL_S)
        self._reader = threading.Thread(target=self._read, name="notify socket")
        self._reader.start()

    @property
    def settings(self) -> dict[str, list[str]]:
        return read_unit(self._unit.read_text(encoding="utf-8"))

    @property
    def said(self) -> str:
        """What the service has printed, the journal of this manager."""
        return (self._folder / "journal").read_text(encoding="utf-8", errors="replace")

    def lines(self, name: str) -> list[str]:
        """What the running process has sent under this name."""
        return [line.partition("=")[2] for _, line in list(self.notes) if line.startswith(f"{name}=")]

    def start(self) -> None:
        """Run ExecStart; unlike `systemctl start`, do not wait."""
        assert self.process is None or self.process.poll() is not None
        self.notes.clear()
        env = self._environment()
        (command,) = self.settings["ExecStart"]
        with (self._folder / "journal").open("ab") as journal:
            self.process = subprocess.Popen(
                # The watchdog is meant for this process alone (sd_watchdog_enabled(3)).
                [*self._before, "/bin/sh", "-c", 'WATCHDOG_PID=$$ exec "$@"', "sh", *command_of(command, env)],
                env=env,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=journal,
                stderr=journal,
            )

    def wait_ready(self) -> None:
        """Wait until the service has said that it is ready."""
        until(lambda: self.lines("READY") or not self.runs, timeout_s=READY_S, what=f"ready; it said: {self.said}")
        assert self.runs, self.said

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def watchdog_s(self) -> float:
        return float(self.settings["WatchdogSec"][0])

    def look(self) -> None:
        """Do what systemd does all the time: end what gives no sign of life, start what ended."""
        began = next((at for at, line in self.notes if line == "READY=1"), None)
        beats = [at for at, line in self.notes if line == "WATCHDOG=1"]
        heard_at = max([*beats, began]) if began is not None else None
        if self.runs and heard_at is not None and time.monotonic() - heard_at > self.watchdog_s:
            self.ended_by_watchdog += 1
            self._signal(signal.SIGABRT)
            self._signal(signal.SIGCONT)
            assert self.process is not None
            self.process.wait(END_S)
        if not self.runs and self.settings["Restart"] == ["always"]:
            self.start()

    def power_off(self) -> None:
        """End it as a power cut does."""
        self._signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait(END_S)

    def stop(self) -> int:
        """End it as `systemctl stop` does, and return its exit code."""
        assert self.process is not None
        self._signal(signal.SIGTERM)
        return self.process.wait(END_S)

    def _signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def _environment(self) -> dict[str, str]:
        settings = self.settings
        own = (setting.partition("=") for setting in settings.get("Environment", ()))
        env = {**self._given, **{name: value for name, _, value in own}}
        env["NOTIFY_SOCKET"] = str(self._folder / "notify")
        env["WATCHDOG_USEC"] = str(int(self.watchdog_s * 1_000_000))
        if "StateDirectory" in settings:
            state = self._folder / "var/lib" / settings["StateDirectory"][0]
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            env["STATE_DIRECTORY"] = str(state)
        if "LoadCredential" in settings:
            env["CREDENTIALS_DIRECTORY"] = str(self._credentials(settings["LoadCredential"]))
        return env

    def _credentials(self, loaded: list[str]) -> Path:
        folder = self._folder / "credentials"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        for name, source in (entry.split(":", 1) for entry in loaded):
            shutil.copyfile(self._image / source.lstrip("/"), folder / name)
            (folder / name).chmod(0o400)
        return folder

    @property
    def _image(self) -> Path:
        """The root of the system that the unit is installed in."""
        parts = self._unit.parts
        return Path(*parts[: parts.index("etc")]) if "etc" in parts[2:] else Path("/")

    def _read(self) -> None:
        while not self._leaving.is_set():
            try:
                data = self._socket.recv(4096)
            except TimeoutError:
                continue
            self.notes.extend((time.monotonic(), line) for line in data.decode().splitlines())

    def __enter__(self) -> "ServiceManager":
        return self

    def __exit__(self, *_: object) -> None:
        self.power_off()
        self._leaving.set()
        self._reader.join()
        self._socket.close()


def environment(home: Path) -> dict[str, str]:
    """What systemd gives a service besides what its unit says: little."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}
