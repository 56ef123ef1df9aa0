"""What it takes to make a service, whichever manager runs it: files, programs, and how it is doing."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from moongate.cli.outcome import UsageError
from moongate.errors import MoongateError

PRIVATE = 0o600
PUBLIC = 0o644
COMMAND_TIMEOUT_S = 120
"""`systemctl restart` waits for the agent to be ready, and before that for the old one to end."""


class ServiceFailed(MoongateError):
    """The machine's service manager could not do what was asked."""

    code: ClassVar[str] = "service.failed"


@dataclass(frozen=True, slots=True)
class ServiceState:
    """What the service manager knows about an agent's service."""

    definition: Path
    installed: bool
    enabled: bool
    state: str
    """In the manager's own words."""
    running: bool
    detail: str = ""
    """What the agent last said of itself."""
    pid: int | None = None
    restarts: int | None = None

    def members(self) -> Mapping[str, object]:
        """Return what programs are told."""
        return {
            "installed": self.installed,
            "enabled": self.enabled,
            "running": self.running,
            "state": self.state,
            "detail": self.detail,
            "pid": self.pid,
            "restarts": self.restarts,
            "definition": str(self.definition),
        }


def program() -> tuple[str, ...]:
    """Return the command that runs this very installation."""
    beside = Path(sys.executable).with_name("moongate")
    if os.access(beside, os.X_OK):
        return (str(beside),)
    # -P: what lies about in the working directory is not ours.
    return (sys.executable, "-P", "-m", "moongate.cli")


def write(path: Path, text: str | bytes, mode: int, *, owner: tuple[int, int] | None = None) -> None:
    """Write a file whole or not at all, its folder too; a private one can be read by nobody else, not even for a moment."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, PRIVATE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text if isinstance(text, bytes) else text.encode())
            os.fchmod(file.fileno(), mode)
            if owner is not None:
                os.fchown(file.fileno(), *owner)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def ask(command: Sequence[str], *, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run a program of the service manager.

    Raises:
        ServiceFailed: If it is not there, takes too long, or fails and `check` is set.
    """
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, errors="replace", timeout=COMMAND_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise ServiceFailed(
            f"there is no {command[0]} on this machine",
            hint="let its own service manager run `moongate agent start`; --dry-run prints what it should do",
        ) from None
    except subprocess.TimeoutExpired:
        raise ServiceFailed(f"`{' '.join(command)}` did not end within {COMMAND_TIMEOUT_S} s") from None
    if check and done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        raise ServiceFailed(f"`{' '.join(command)}` failed: {said}", hint="`moongate agent status` shows what it does")
    return done


def need_root(*, user: bool) -> None:
    """Refuse early what only root can do.

    Raises:
        UsageError: If a service of the machine is asked for by somebody else.
    """
    if not user and os.geteuid() != 0:
        raise UsageError("a service of the machine is root's to change", hint="use sudo, or --user for one of your own")
