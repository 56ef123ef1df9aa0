"""How an agent's service is defined: a systemd unit, or a property list of launchd.

Texts only; `cli.systemd_service` and `cli.launchd_service` install them.
"""

import plistlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moongate.errors import ConfigurationError

UNIT = "moongate-agent.service"
LABEL = "moongate.agent"
"""What launchd calls the job."""

WATCHDOG_S = 60
"""How long a hanging agent hangs; half of it is the time between its signs of life."""
RESTART_S = 10
"""How long after an end the agent is started again. Without a last time: a disk or an address may come late."""
STOP_S = 15
"""How long an agent that is asked to stop may let its visitors finish."""
OPEN_FILES = 65536
"""Each visitor is a connection to a local service, and with it a file."""

_ODD_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")
_NO_PROGRAM = re.compile(r"[\"'\\$]")
_PLAIN_WORD = re.compile(r"[A-Za-z0-9@%$+=:,./_{}-]+\Z")

_UNIT = """\
# Written by `moongate agent install`, which overwrites it.
# Changes of your own: systemctl{user} edit moongate-agent
[Unit]
Description=Moongate agent
After=network.target nss-lookup.target
# It is never given up: a node, a network or a disk may be away for weeks.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
Restart=always
RestartSec={restart_s}
WatchdogSec={watchdog_s}
TimeoutStopSec={stop_s}
LimitNOFILE={open_files}
Environment=PYTHONUNBUFFERED=1
# An agent that hangs is ended by SIGABRT, and then says in the journal where it hung.
Environment=PYTHONFAULTHANDLER=1

{more}
[Install]
WantedBy={target}
"""

# What also a user's own manager can enforce.
_CONFINED = """\
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
"""

_SYSTEM = """\
# A user that exists only while this runs; its state is /var/lib/moongate-agent.
DynamicUser=yes
StateDirectory=moongate-agent
StateDirectoryMode=0700
# Only root can read the file; the agent is handed a copy in memory.
LoadCredential=join:{join_file}

# Folders that rules publish must stay readable, also those at home; nothing but the state can be written.
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RemoveIPC=yes
CapabilityBoundingSet=
"""

# Names that systemd fills in when it starts the agent.
_FILLED_IN = ("@${CREDENTIALS_DIRECTORY}/join", "${STATE_DIRECTORY}")


@dataclass(frozen=True, slots=True)
class Service:
    """An agent that a service manager is to keep running."""

    program: tuple[str, ...]
    join_file: Path
    home: Path
    api_port: int

    def arguments(self, server: str, home: str) -> list[str]:
        """Return the command line; it holds the name of the join string's file, never the string."""
        return [*self.program, "agent", "start", "--server", server, "--home", home, "--api-port", str(self.api_port)]


def system_unit(service: Service) -> str:
    """Return the unit of an agent that belongs to the machine.

    Raises:
        ConfigurationError: If a path holds what no unit can.
    """
    command = service.arguments(*_FILLED_IN)
    return _UNIT.format(
        user="",
        command=_command_line(command, as_they_are=_FILLED_IN),
        more=_SYSTEM.format(join_file=_escaped(str(service.join_file))) + _CONFINED,
        target="multi-user.target",
        **_TIMES,
    )


def user_unit(service: Service) -> str:
    """Return the unit of an agent that belongs to one user.

    Raises:
        ConfigurationError: If a path holds what no unit can.
    """
    words = [quoted(word) for word in service.arguments(f"@{service.join_file}", str(service.home))]
    return _UNIT.format(user=" --user", command=" ".join(words), more=_CONFINED, target="default.target", **_TIMES)


_TIMES = {"restart_s": RESTART_S, "watchdog_s": WATCHDOG_S, "stop_s": STOP_S, "open_files": OPEN_FILES}


def launchd_plist(service: Service, log: Path, *, user: str | None = None) -> bytes:
    """Return launchd's definition of the job (launchd.plist(5)); `user` is who a job of the machine runs as."""
    job: dict[str, object] = {
        "Label": LABEL,
        "ProgramArguments": service.arguments(f"@{service.join_file}", str(service.home)),
        "EnvironmentVariables": {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"},
        "RunAtLoad": True,
        "KeepAlive": True,
        "ThrottleInterval": RESTART_S,
        "ExitTimeOut": STOP_S,
        # Without it the job is slowed down while nobody uses the screen.
        "ProcessType": "Interactive",
        "SoftResourceLimits": {"NumberOfFiles": OPEN_FILES},
        "HardResourceLimits": {"NumberOfFiles": OPEN_FILES},
        "Umask": 0o077,
        "StandardOutPath": str(log),
        "StandardErrorPath": str(log),
    }
    if user is not None:
        job["UserName"] = user
    return plistlib.dumps(job, sort_keys=False)


def _command_line(command: Sequence[str], *, as_they_are: Sequence[str] = ()) -> str:
    program, *words = command
    if _NO_PROGRAM.search(program):
        # "Executable name contains special characters", whatever the quoting; and a dollar sign cannot be escaped there.
        raise ConfigurationError(
            f"systemd runs no program whose path is {program!r}",
            hint="install moongate into a folder without quotes, backslashes and dollar signs in its path",
        )
    return " ".join([quoted(program), *(word if word in as_they_are else quoted(word) for word in words)])


def quoted(word: str) -> str:
    """Write one word of a command so that systemd passes it on as it is (systemd.service(5), "Command lines").

    Raises:
        ConfigurationError: If it holds control characters.
    """
    text = _escaped(word).replace("$", "$$")
    if _PLAIN_WORD.match(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escaped(word: str) -> str:
    """Keep systemd from reading a specifier (systemd.unit(5)) where none is meant."""
    if not word or _ODD_CHARACTERS.search(word):
        raise ConfigurationError(
            f"a service cannot be told of the path {word!r}", hint="use one without line ends and control characters"
        )
    return word.replace("%", "%%")
