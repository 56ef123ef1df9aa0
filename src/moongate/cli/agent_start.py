"""`moongate agent start`: settings, an agent that stays, the line that says it is ready."""

import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from pydantic import SecretStr

from moongate.cli.loops import run_in_loop
from moongate.cli.outcome import Exit
from moongate.cli.places import node_address, read_secret
from moongate.config import load_config
from moongate.node.agent_process import AgentProcess, AgentSettings
from moongate.telemetry import setup_logging


class Unfailing:
    """A stream to which everything can be said: a full disk or a closed terminal must not end what it is said of."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def run_agent(
    server: str | None, token_file: Path | None, api_token_file: Path | None, overrides: Mapping[str, Any]
) -> Exit:
    """Publish what the rules say until asked to stop."""
    config = load_config(None, overrides=overrides)
    address = node_address(server, token_file)
    sys.stderr = Unfailing(sys.stderr)
    setup_logging(config.log_level, config.log_format)
    token = SecretStr(read_secret(api_token_file)) if api_token_file is not None else config.agent_api.token
    settings = AgentSettings(
        home=config.home,
        address=address,
        api_port=config.agent_api.port,
        api_token=token,
        hosts=config.agent_api.hosts,
        origins=config.agent_api.origins,
        max_attempts=config.reconnect.max_attempts,
    )
    return run_in_loop(_stay(settings))


async def _stay(settings: AgentSettings) -> Exit:
    process = AgentProcess(settings)
    await process.start()
    with suppress(OSError):
        print(f"ready {process.api_url.removeprefix('http://')}", flush=True)
    await process.run_until_stopped()
    return Exit.OK
