"""How a command ends: its exit code, and the one clear line when it failed."""

import enum
import sys
from collections.abc import Iterator
from typing import TextIO

from moongate import errors
from moongate.cli.text import neutralise, print_json


class Exit(enum.IntEnum):
    """The documented exit codes."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    SUPERSEDED = 4
    UNREACHABLE = 5


class UsageError(errors.MoongateError):
    """What was typed cannot be carried out."""

    code = "usage.invalid"


_EXITS: tuple[tuple[type[errors.MoongateError], Exit], ...] = (
    (UsageError, Exit.USAGE),
    (errors.ConfigurationError, Exit.USAGE),
    (errors.Superseded, Exit.SUPERSEDED),
    (errors.IdentityError, Exit.REFUSED),
    (errors.RoutingError, Exit.REFUSED),
    (errors.WrongAuthority, Exit.REFUSED),
    (errors.VersionUnsupported, Exit.REFUSED),
    (errors.ReachError, Exit.UNREACHABLE),
)

# What to do next, by code, for errors that bring no hint of their own.
HINTS = {
    "token.invalid": "make a token on the node with `moongate token create LABEL` and pass it with --token-file",
    "scope.denied": "ask for a name that the token's scope covers, or create a token with a wider one",
    "name.taken": "choose another name with --subdomain, or leave it out to get a random one",
    "name.invalid": "3 to 63 letters, digits or hyphens, with no hyphen at the ends",
    "port.unavailable": "leave --port out to get a free one",
    "port.none_free": "widen `tcp_ports` in the node's moongate.toml",
    "lease.superseded": "only one agent serves a name; give this one another with --subdomain to run both",
    "limit.exceeded": "close a tunnel that is not needed, or raise the limit on the node",
    "reach.failed": "is the node running there? `moongate server` starts one",
    "reach.refused": "is the node running there? `moongate server` starts one",
    "reach.timeout": "is the address right, and does a firewall let it pass?",
    "reach.unresolved": "check the host name in --server",
    "reach.wrong_authority": "get the join string again from the node with `moongate join`",
    "protocol.version": "install the same version of moongate on both sides",
    "listen.in_use": "stop the other program, or choose another address with --listen",
    "storage.failed": "is the disk full, or the database locked?",
    "configuration.invalid": "`moongate config schema` lists every key",
    "usage.invalid": "add --help to see how the command is used",
}


def exit_for(error: Exception) -> Exit:
    """Return the exit code that tells a script what kind of failure this is."""
    return next((code for kind, code in _EXITS if isinstance(error, kind)), Exit.FAILED)


def exit_for_code(code: str) -> Exit:
    """Return the exit code for an error code that came over the wire; a node may be newer than we are."""
    kind = next((kind for kind in _below(errors.MoongateError) if kind.code == code), None)
    return exit_for(kind("")) if kind is not None else Exit.FAILED


def _below(kind: type[errors.MoongateError]) -> Iterator[type[errors.MoongateError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _below(child)


def hint_for(code: str, hint: str = "") -> str:
    """Return the error's own hint, else the usual one for its code, else nothing."""
    return hint or HINTS.get(code, "")


def report(code: str, message: str, hint: str, *, as_json: bool, stream: TextIO | None = None) -> None:
    """Print a failure: a line and a hint on stderr for people, one event on stdout for programs."""
    hint = hint_for(code, hint)
    if as_json:
        event = {"event": "error", "code": code, "message": message, "hint": hint}
        print_json(event, stream)
        return
    out = stream or sys.stderr
    print(f"error: {neutralise(message)}", file=out)
    if hint:
        print(f"hint: {neutralise(hint)}", file=out)
    out.flush()
