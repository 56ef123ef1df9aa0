"""An agent as a job of launchd: of the machine, or of one user."""

import os
import re
from pathlib import Path

from moongate.cli import units
from moongate.cli.outcome import UsageError
from moongate.cli.places import home as users_home
from moongate.cli.service_steps import PRIVATE, PUBLIC, ServiceState, ask, need_root, program, write

SYSTEM_HOME = Path("/usr/local/var/moongate-agent")


class Launchd:
    """The service manager of macOS."""

    def __init__(self, *, user: bool) -> None:
        """Take whose job it is."""
        self._user = user

    @property
    def definition(self) -> Path:
        """The property list's file."""
        folder = Path.home() / "Library/LaunchAgents" if self._user else Path("/Library/LaunchDaemons")
        return folder / f"{units.LABEL}.plist"

    @property
    def join_file(self) -> Path:
        """The join string's file, which only the job's user can read."""
        return self.home / "agent-join"

    @property
    def home(self) -> Path:
        """The state directory."""
        return users_home() if self._user else SYSTEM_HOME

    def text(self, api_port: int) -> str:
        """Return the property list."""
        service = units.Service(program(), self.join_file, self.home, api_port)
        return units.launchd_plist(service, self.home / "agent.log", user=self._name()).decode()

    def install(self, join: str, api_port: int) -> str:
        """Write property list and join string, and have launchd run the job from now on; say how it went."""
        need_root(user=self._user)
        owner = self._make_home()
        write(self.join_file, f"{join}\n", PRIVATE, owner=owner)
        # launchd refuses a list that others than its owner can write.
        write(self.definition, self.text(api_port), PUBLIC)
        ask(["launchctl", "bootout", self._target], check=False)
        ask(["launchctl", "bootstrap", self._domain, str(self.definition)])
        ask(["launchctl", "enable", self._target])
        return f"running; its log is {self.home / 'agent.log'}"

    def uninstall(self) -> None:
        """End the job, and remove property list and join string."""
        need_root(user=self._user)
        ask(["launchctl", "bootout", self._target], check=False)
        self.definition.unlink(missing_ok=True)
        self.join_file.unlink(missing_ok=True)

    def state(self) -> ServiceState:
        """Return what launchd knows."""
        if not self.definition.is_file():
            return ServiceState(self.definition, installed=False, enabled=False, state="not installed", running=False)
        done = ask(["launchctl", "print", self._target], check=False)
        return state_from(self.definition, done.stdout if done.returncode == 0 else "")

    @property
    def _domain(self) -> str:
        return f"gui/{os.getuid()}" if self._user else "system"

    @property
    def _target(self) -> str:
        return f"{self._domain}/{units.LABEL}"

    def _make_home(self) -> tuple[int, int] | None:
        """Make the state directory for who the job runs as; return who that is if it is not us."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = self._name()
        if name is None:
            return None
        import pwd

        entry = pwd.getpwnam(name)
        os.chown(self.home, entry.pw_uid, entry.pw_gid)
        return entry.pw_uid, entry.pw_gid

    def _name(self) -> str | None:
        """Return who a job of the machine runs as: whoever used sudo, because launchd has no users of its own to give."""
        if self._user:
            return None
        name = os.environ.get("SUDO_USER", "")
        if name in ("", "root"):
            raise UsageError(
                "an agent does not run as root, and nobody else is known",
                hint="use sudo from the account that the agent is to run as, or --user",
            )
        return name


def state_from(definition: Path, printed: str) -> ServiceState:
    """Read what `launchctl print` says about a job; nothing, if it is not loaded."""
    state = re.search(r"^\tstate = (.+)$", printed, re.MULTILINE)
    pid = re.search(r"^\tpid = (\d+)$", printed, re.MULTILINE)
    said = state[1] if state else "not loaded"
    return ServiceState(
        definition,
        installed=True,
        enabled=bool(printed),
        state=said,
        running=said == "running",
        pid=int(pid[1]) if pid else None,
    )
