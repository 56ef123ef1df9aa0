"""The command line: reads what a person asked for, hands it to the parts, prints what comes back.

This file stays light on purpose: a secret given on the command line must be hidden
from `ps` before anything slow is imported.
"""

import sys
from collections.abc import Sequence

# As a shell says it of a program that SIGINT ended; a command that runs ends Ctrl-C with 0.
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    from moongate.cli.argv import hide_secrets

    arguments = list(sys.argv[1:] if argv is None else argv)
    exposed = hide_secrets(arguments)

    try:
        from moongate.cli.app import run

        return run(arguments, secrets_exposed=exposed)
    except KeyboardInterrupt:
        return INTERRUPTED
