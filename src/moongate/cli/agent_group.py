"""`moongate agent …`: the agent that stays, its service and what it says about itself."""

import typer

agent_app = typer.Typer(
    help="Run an agent that stays, and make it a service of this machine.", no_args_is_help=True, rich_markup_mode=None
)
