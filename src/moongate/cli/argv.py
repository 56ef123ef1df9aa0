"""Secrets that somebody typed on the command line, and hiding them from other users of the machine."""

import re
from collections.abc import Sequence

# A join string carries its token after the '#'; a URL may carry one as a password.
_JOIN_SECRET = re.compile(r"(moongate://[^#\s]*#)\S+")
_URL_PASSWORD = re.compile(r"(\w+://[^/@\s:]*:)[^@/\s]+(@)")
HIDDEN = "***"


def masked(argument: str) -> str:
    """Return the argument as it may be shown."""
    return _URL_PASSWORD.sub(rf"\1{HIDDEN}\2", _JOIN_SECRET.sub(rf"\1{HIDDEN}", argument))


def hide_secrets(arguments: Sequence[str]) -> bool:
    """Overwrite the process title when an argument holds a secret; say whether one did."""
    shown = [masked(argument) for argument in arguments]
    if shown == list(arguments):
        return False
    import setproctitle

    setproctitle.setproctitle(" ".join(["moongate", *shown]))
    return True
