"""`moongate agent …`: the agent that stays, its service and what it says about itself."""

from pathlib import Path
from typing import Annotated

import typer

from moongate.cli import flags

agent_app = typer.Typer(
    help="Run an agent that stays, and make it a service of this machine.", no_args_is_help=True, rich_markup_mode=None
)

# --- the agent itself --------------------------------------------------------------------

StartApiPort = Annotated[
    int | None,
    typer.Option(
        "--api-port",
        min=0,
        max=65535,
        metavar="N",
        help="Port of the local API; 0 is a free one. Default: 4100.",
        show_default=False,
    ),
]
ApiTokenFile = Annotated[
    Path | None,
    typer.Option(
        "--api-token-file",
        metavar="FILE",
        help="File with a token that every request to the local API must show. Default: none is asked.",
        show_default=False,
    ),
]
MaxAttempts = Annotated[
    int | None,
    typer.Option(
        "--max-attempts",
        min=0,
        metavar="N",
        help="Attempts in a row to reach the node before giving up. Default: 0, no limit.",
        show_default=False,
    ),
]


@agent_app.command("start")
def agent_start(
    *,
    server: flags.Server = None,
    token_file: flags.TokenFile = None,
    home: flags.Home = None,
    api_port: StartApiPort = None,
    api_token_file: ApiTokenFile = None,
    max_attempts: MaxAttempts = None,
    log_level: flags.LogLevel = None,
    log_format: flags.LogFormat = None,
) -> int:
    """Publish the rules of this machine for good, and serve the local API that changes them."""
    from moongate.cli.agent_start import run_agent

    overrides = {
        "home": None if home is None else str(home.absolute()),
        "agent_api.port": api_port,
        "reconnect.max_attempts": max_attempts,
        "log_level": log_level,
        "log_format": log_format,
    }
    return run_agent(server, token_file, api_token_file, overrides)


# --- its service -------------------------------------------------------------------------

User = Annotated[bool, typer.Option("--user", help="A service of your own instead of the machine's; it needs no root.")]
Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        metavar="DIR",
        help="Work on the system under DIR, such as a mounted image, instead of this one.",
        show_default=False,
    ),
]
ApiPort = Annotated[
    int, typer.Option("--api-port", min=1, max=65535, metavar="N", help="Port of the agent's local API.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the unit or property list, and change nothing.")]


@agent_app.command("install")
def agent_install(
    *,
    server: flags.Server = None,
    token_file: flags.TokenFile = None,
    api_port: ApiPort = 4100,
    user: User = False,
    root: Root = None,
    dry_run: DryRun = False,
) -> int:
    """Have systemd or launchd run an agent from boot on."""
    from moongate.cli import service

    manager = service.manager_for(user=user, root=root)
    if dry_run:
        return service.dry_run(manager, api_port)
    return service.install(manager, server, token_file, api_port)


@agent_app.command("uninstall")
def agent_uninstall(*, user: User = False, root: Root = None) -> int:
    """End that agent and remove its service; its rules are kept."""
    from moongate.cli import service

    return service.uninstall(service.manager_for(user=user, root=root))


@agent_app.command("status")
def agent_status(*, user: User = False, root: Root = None, as_json: flags.Json = False) -> int:
    """Say whether that agent runs; the exit code is 0 only if it does."""
    from moongate.cli import service

    return service.show_state(service.manager_for(user=user, root=root), as_json=as_json)
