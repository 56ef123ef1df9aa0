"""`moongate config`: is it right, what is in force, what can be set."""

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from moongate.cli.outcome import Exit
from moongate.cli.text import neutralise, print_json
from moongate.config import Config, load_config


def check(path: Path | None) -> Exit:
    """Load the settings and say that they are right; raise what is wrong."""
    config = load_config(path)
    for warning in config.warnings:
        print(f"warning: {neutralise(warning)}", file=sys.stderr)
    print(f"ok: {neutralise(str(path)) if path else 'the settings in force'}")
    return Exit.OK


def show(path: Path | None, *, as_json: bool) -> Exit:
    """Print every setting with its source."""
    settings = load_config(path).explain()
    if as_json:
        for setting in settings:
            members = {
                "key": setting.key,
                "value": setting.value,
                "source": setting.source,
                "variable": setting.variable,
            }
            print_json({**members, "description": setting.description})
        return Exit.OK
    table = Table(box=None, pad_edge=False)
    for heading in ("setting", "value", "from"):
        table.add_column(heading, overflow="fold")
    for setting in settings:
        style = "dim" if setting.source == "default" else "bold"
        table.add_row(*(neutralise(text) for text in (setting.key, setting.value, setting.source)), style=style)
    Console(markup=False, highlight=False).print(table)
    return Exit.OK


def schema() -> Exit:
    """Print the JSON schema of `moongate.toml`."""
    print(json.dumps(Config.schema_document(), indent=2))
    return Exit.OK
