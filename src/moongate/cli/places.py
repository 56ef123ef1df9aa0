"""Where the command line finds things: the state directory, the node, tokens, the API."""

import os
import re
from dataclasses import replace
from pathlib import Path

from moongate.cli.outcome import UsageError
from moongate.errors import ConfigurationError
from moongate.net.dialing import NodeAddress, make_join

_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?")


def home() -> Path:
    """Return the state directory that this user's commands share."""
    given = os.environ.get("MOONGATE_HOME")
    if given:
        return Path(given).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_data_dir("moongate", appauthor=False))


def read_secret(path: Path) -> str:
    """Return the one line that a secret's file holds.

    Raises:
        ConfigurationError: If it cannot be read or is empty.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else "not text"
        raise ConfigurationError(f"cannot read {path}: {reason}", hint="check the path and its permissions") from None
    if not text or "\n" in text:
        raise ConfigurationError(f"{path} must hold exactly one line", hint="the token or join string, nothing else")
    return text


def node_address(given: str | None, token_file: Path | None) -> NodeAddress:
    """Return the node that an agent is to connect to, with the token to show it.

    Raises:
        UsageError: If nobody said which node, or there is no token for it.
        ConfigurationError: If what was said cannot be read.
    """
    address = NodeAddress.parse(_server_text(given))
    token = agent_token(token_file) or address.token
    if token is None:
        raise UsageError(
            f"there is no token for {address}",
            hint="use a join string, or give the token with --token-file or MOONGATE_TOKEN",
        )
    return replace(address, token=token)


def _server_text(given: str | None) -> str:
    text = given or os.environ.get("MOONGATE_SERVER")
    if text:
        return text
    local = home() / "join"
    if local.is_file():
        return read_secret(local)
    raise UsageError(
        "which node? there is none on this machine",
        hint="pass --server with the join string that `moongate join` prints on the node, or start one: `moongate server`",
    )


def agent_token(token_file: Path | None) -> str | None:
    """Return the token given beside the node's address, if any."""
    if token_file is not None:
        return read_secret(token_file)
    return os.environ.get("MOONGATE_TOKEN") or None


def api_token(token_file: Path | None) -> str | None:
    """Return the token for the REST API: given, from the environment, or the admin token of this machine's node."""
    given = agent_token(token_file) or os.environ.get("MOONGATE_ADMIN_TOKEN")
    if given:
        return given
    local = home() / "admin-token"
    return read_secret(local) if local.is_file() else None


def join_string(host: str | None, token_file: Path | None) -> str:
    """Return this node's join string, with another public address or token where asked.

    Raises:
        ConfigurationError: If the node has not been started yet.
        UsageError: If the address cannot be read.
    """
    path = home() / "join"
    if not path.is_file():
        raise ConfigurationError(
            f"there is no join string at {path}", hint="it is made when the node first starts: `moongate server`"
        )
    address = NodeAddress.parse(read_secret(path))
    public, port = _host_and_port(host, address.port) if host else (address.host, address.port)
    token = read_secret(token_file) if token_file else address.token
    return make_join(public, port, token or "", address.fingerprint)


def _host_and_port(text: str, usual_port: int) -> tuple[str, int]:
    match = _HOST_PORT.fullmatch(text)
    if match is None or not 1 <= int(match[2] or usual_port) <= 65535:
        raise UsageError(f"--host cannot be '{text}'", hint="give a host name or address, with :PORT if it differs")
    return match[1].strip("[]"), int(match[2] or usual_port)
