"""`moongate agent …`: the agent that stays, its service and what it says about itself."""

from pathlib import Path
from typing import Annotated

import typer

from moongate.cli import flags

agent_app = typer.Typer(
    help="Run an agent that stays, and make it a service of this machine.", no_args_is_help=True, rich_markup_mode=None
)

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
