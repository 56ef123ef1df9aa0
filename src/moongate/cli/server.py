"""`moongate server`: settings, a node, the line that says it is ready."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moongate.cli.loops import run_in_loop
from moongate.cli.outcome import Exit
from moongate.cli.text import neutralise
from moongate.config import Config, load_config
from moongate.node.server import Node
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
    terminal = [descriptor for descriptor in (0, 1, 2) if os.isatty(descriptor)]

    def reload_or_leave() -> Config:
        # A terminal that is closed sends SIGHUP too, and then means the end.
        if terminal and _let_go_if_gone(terminal):
            node.stop()
        return reload()

    node = Node(config, reload=reload_or_leave)
    await node.start()
    if node.admin_token_is_new:
        _introduce(config, node)
    print(node.ready_line(), flush=True)
    await node.run_until_stopped()
    return Exit.OK


def _let_go_if_gone(terminal: Sequence[int]) -> bool:
    """Say whether the terminal was closed; if so, what is still written to it goes nowhere instead of failing."""
    if any(os.isatty(descriptor) for descriptor in terminal):
        return False
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in terminal:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    return True


def _introduce(config: Config, node: Node) -> None:
    """Say once what the first start has made; the token is never printed again."""
    print(f"state        {config.home}")
    print(f"admin token  {node.admin_token}  (kept in {config.home / 'admin-token'})")
    print(f"join string  {config.home / 'join'}  (agents elsewhere: --server @FILE with a copy of it)")
