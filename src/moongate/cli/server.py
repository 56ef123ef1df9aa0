"""`moongate server`: settings, a node, the line that says it is ready."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from moongate.cli.loops import run_in_loop
from moongate.cli.outcome import Exit
from moongate.cli.text import neutralise
from moongate.config import Config, load_config
from moongate.node import Node
from moongate.telemetry import setup_logging


def run_server(path: Path | None, overrides: Mapping[str, Any]) -> Exit:
    """Run a node until it is asked to stop."""

    def load() -> Config:
        config = load_config(path, overrides=overrides)
        for warning in config.warnings:
            print(f"warning: {neutralise(warning)}", file=sys.stderr)
        setup_logging(config.log_level, config.log_format)
        return config

    return run_in_loop(_serve(load(), load))


async def _serve(config: Config, reload: Callable[[], Config]) -> Exit:
    node = Node(config, reload=reload)
    await node.start()
    if node.admin_token_is_new:
        _introduce(config, node)
    print(node.ready_line(), flush=True)
    await node.run_until_stopped()
    return Exit.OK


def _introduce(config: Config, node: Node) -> None:
    """Say once what the first start has made; the token is never printed again."""
    print(f"state        {config.home}")
    print(f"admin token  {node.admin_token}  (kept in {config.home / 'admin-token'})")
    print(f"join string  {config.home / 'join'}  (agents elsewhere: --server @FILE with a copy of it)")
