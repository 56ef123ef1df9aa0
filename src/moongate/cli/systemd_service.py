"""An agent as a service of systemd: of the machine, or of one user."""

import getpass
import stat
import sys
from pathlib import Path

import platformdirs

from moongate.cli import units
from moongate.cli.places import home as users_home
from moongate.cli.service_steps import PRIVATE, PUBLIC, ServiceState, ask, need_root, program, write
from moongate.errors import ConfigurationError

SYSTEM_UNITS = Path("/etc/systemd/system")
SYSTEM_JOIN = Path("/etc/moongate-agent/join")
SYSTEM_HOME = Path("/var/lib/moongate-agent")
# sd_booted(3): there, systemd is process 1.
BOOTED = Path("/run/systemd/system")
PROPERTIES = ("ActiveState", "SubState", "UnitFileState", "StatusText", "MainPID", "NRestarts")


class Systemd:
    """The service manager of most Linux systems."""

    def __init__(self, *, user: bool, root: Path | None = None) -> None:
        """Take whose service it is, and the folder of another system to install it into."""
        self._user = user
        self._root = root

    @property
    def definition(self) -> Path:
        """The unit's file."""
        if self._user:
            return _config_home() / "systemd" / "user" / units.UNIT
        return self._there(SYSTEM_UNITS / units.UNIT)

    @property
    def join_file(self) -> Path:
        """The join string's file, which only its owner can read."""
        return _config_home() / "moongate" / "agent-join" if self._user else self._there(SYSTEM_JOIN)

    @property
    def home(self) -> Path:
        """The state directory."""
        return users_home() if self._user else self._there(SYSTEM_HOME)

    def text(self, api_port: int) -> str:
        """Return the unit."""
        if self._user:
            return units.user_unit(units.Service(program(), self.join_file, self.home, api_port))
        return units.system_unit(units.Service(program(), SYSTEM_JOIN, SYSTEM_HOME, api_port))

    def install(self, join: str, api_port: int) -> str:
        """Write unit and join string, enable it and start it anew; say how it went."""
        if self._root is None:
            need_root(user=self._user)
        if not self._user and self._root is None:
            need_reach(program())
        text = self.text(api_port)
        write(self.join_file, f"{join}\n", PRIVATE)
        write(self.definition, text, PUBLIC)
        # Its links are made even where no systemd runs.
        self._systemctl("enable", units.UNIT)
        if not self._runs_here():
            return "it starts when this system boots; no systemd runs it now"
        self._systemctl("daemon-reload")
        # Waits until the agent says that it is ready.
        self._systemctl("restart", units.UNIT)
        return f"running: {self.state().detail or 'ready'}{self._without_login()}"

    def uninstall(self) -> None:
        """End the agent, and remove unit and join string."""
        if self._root is None:
            need_root(user=self._user)
        if self._runs_here():
            self._systemctl("stop", units.UNIT)
        self._systemctl("disable", units.UNIT)
        self.definition.unlink(missing_ok=True)
        self.join_file.unlink(missing_ok=True)
        if self._runs_here():
            self._systemctl("daemon-reload")

    def state(self) -> ServiceState:
        """Return what systemd knows; where none runs, only what its files say."""
        if not self.definition.is_file():
            return ServiceState(self.definition, installed=False, enabled=False, state="not installed", running=False)
        if not self._runs_here():
            enabled = self._systemctl("is-enabled", units.UNIT, check=False).strip() == "enabled"
            return ServiceState(self.definition, True, enabled, "no systemd runs here", running=False)
        shown = self._systemctl("show", units.UNIT, "--property", ",".join(PROPERTIES))
        told = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        return state_from(self.definition, told)

    def _systemctl(self, *words: str, check: bool = True) -> str:
        whose = ["--user"] if self._user else []
        where = [f"--root={self._root}"] if self._root is not None else []
        return ask(["systemctl", *whose, *where, *words], check=check).stdout

    def _runs_here(self) -> bool:
        return self._root is None and BOOTED.is_dir()

    def _without_login(self) -> str:
        """Have the user's services run from boot on, and say so where that is not allowed."""
        if not self._user or ask(["loginctl", "enable-linger"], check=False).returncode == 0:
            return ""
        return f"\nonly while you are logged in; for always: sudo loginctl enable-linger {getpass.getuser()}"

    def _there(self, path: Path) -> Path:
        return path if self._root is None else self._root.absolute() / path.relative_to("/")


def state_from(definition: Path, told: dict[str, str]) -> ServiceState:
    """Read the properties of `systemctl show`."""
    pid = int(told.get("MainPID", "0") or 0)
    return ServiceState(
        definition,
        installed=True,
        enabled=told.get("UnitFileState") in ("enabled", "enabled-runtime"),
        state=f"{told.get('ActiveState', 'unknown')} ({told.get('SubState', 'unknown')})",
        running=told.get("ActiveState") == "active",
        detail=told.get("StatusText", ""),
        pid=pid or None,
        restarts=int(told.get("NRestarts", "0") or 0),
    )


def need_reach(command: tuple[str, ...]) -> None:
    """Refuse a program that the service's own user could not run.

    Raises:
        ConfigurationError: If it, its interpreter or a folder above them is closed to other users.
    """
    for name in (command[0], sys.executable):
        for path in (Path(name).absolute(), Path(name).resolve()):
            closed = next((one for one in [path, *path.parents] if not one.stat().st_mode & stat.S_IXOTH), None)
            if closed is not None:
                raise ConfigurationError(
                    f"the service's user could not run {path}: {closed} is closed to other users",
                    hint="install moongate where all may run it, such as /opt/moongate, or use --user",
                )


def _config_home() -> Path:
    """Return the folder that systemd too looks into for a user's settings (systemd.unit(5))."""
    return platformdirs.user_config_path()
