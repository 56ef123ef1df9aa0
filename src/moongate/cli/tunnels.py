"""The file of `moongate up`: several tunnels, each a table with a name."""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moongate.cli.outcome import UsageError
from moongate.cli.upstreams import Local, parse_local
from moongate.errors import ConfigurationError

KINDS = ("http", "tls", "tcp", "udp", "static")
TOP_KEYS: Mapping[str, type] = {"server": str, "token_file": str, "tunnels": dict}
TUNNEL_KEYS: Mapping[str, type] = {
    "kind": str,
    "upstream": str,
    "directory": str,
    "subdomain": str,
    "port": int,
    "host_header": str,
    "proxy_protocol": str,
    "capture": bool,
    "rate_limit_rps": int,
    "max_connections": int,
    "request_body_max_bytes": int,
}
# Which keys mean nothing for a kind; being silent about them would look like obeying.
_ONLY_FOR = {
    "directory": ("static",),
    "upstream": ("http", "tls", "tcp", "udp"),
    "subdomain": ("http", "tls", "static"),
    "port": ("tcp", "udp"),
    "host_header": ("http",),
    "proxy_protocol": ("tcp", "tls"),
    "capture": ("http", "static"),
    "rate_limit_rps": ("http", "static"),
    "request_body_max_bytes": ("http", "static"),
}
PROXY_PROTOCOLS = ("", "v1", "v2")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One tunnel that somebody asked for, on the command line or in a file."""

    kind: str
    local: Local | Path
    label: str = ""
    subdomain: str | None = None
    port: int | None = None
    host_header: str = ""
    proxy_protocol: str = ""
    capture: bool = True
    rate_limit_rps: int = 0
    max_connections: int = 0
    request_body_max_bytes: int = 0


@dataclass(frozen=True, slots=True)
class TunnelsFile:
    """What a file asks for."""

    tunnels: tuple[Wanted, ...]
    server: str | None = None
    token_file: Path | None = None


def load_tunnels(path: Path) -> TunnelsFile:
    """Read the tunnels of a TOML file.

    Raises:
        ConfigurationError: If it cannot be read, a key is unknown, or a value cannot be used.
    """
    tree = _read(path)
    _check(tree, TOP_KEYS, str(path))
    tables = tree.get("tunnels", {})
    if not tables:
        raise ConfigurationError(f"{path} defines no tunnel", hint="add a table such as [tunnels.web]")
    folder = path.absolute().parent
    token_file = tree.get("token_file")
    return TunnelsFile(
        tunnels=tuple(_wanted(name, table, folder, path) for name, table in tables.items()),
        server=tree.get("server"),
        token_file=folder / Path(token_file).expanduser() if token_file else None,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from None


def _check(table: Mapping[str, Any], keys: Mapping[str, type], where: str) -> None:
    for key, value in table.items():
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1)
            meant = f"; did you mean '{near[0]}'?" if near else ""
            raise ConfigurationError(f"unknown key '{key}' in {where}{meant}", hint="known keys: " + ", ".join(keys))
        # bool is an int to Python, but `port = true` is a slip.
        if type(value) is not keys[key]:
            raise ConfigurationError(f"'{key}' in {where} must be a {_WORDS[keys[key]]}", hint=_example(key))


_WORDS = {str: "string", int: "whole number", bool: "true or false", dict: "table"}
_EXAMPLES = {"upstream": 'upstream = "localhost:3000"', "port": "port = 20010", "tunnels": "[tunnels.web]"}


def _example(key: str) -> str:
    return f"for example {_EXAMPLES[key]}" if key in _EXAMPLES else "see docs/howto/several-at-once.md"


def _wanted(name: str, table: object, folder: Path, path: Path) -> Wanted:
    where = f"[tunnels.{name}] of {path}"
    if not isinstance(table, dict):
        raise ConfigurationError(f"'{name}' in [tunnels] of {path} must be a table", hint=f"write [tunnels.{name}]")
    _check(table, TUNNEL_KEYS, where)
    kind = table.get("kind", "http")
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        meant = f"; did you mean '{near[0]}'?" if near else ""
        raise ConfigurationError(f"unknown kind '{kind}' in {where}{meant}", hint="kinds: " + ", ".join(KINDS))
    for key in table:
        if kind not in _ONLY_FOR.get(key, KINDS):
            raise ConfigurationError(
                f"'{key}' means nothing for kind '{kind}' in {where}", hint=f"it is for {', '.join(_ONLY_FOR[key])}"
            )
    _check_ranges(table, where)
    options = {key: value for key, value in table.items() if key not in ("kind", "upstream", "directory")}
    return Wanted(kind=kind, local=_local(kind, table, folder, where), label=name, **options)


def _check_ranges(table: Mapping[str, Any], where: str) -> None:
    for key in ("rate_limit_rps", "max_connections", "request_body_max_bytes"):
        if table.get(key, 0) < 0:
            raise ConfigurationError(f"'{key}' in {where} cannot be negative", hint="0 means no limit of its own")
    if not 1 <= table.get("port", 1) <= 65535:
        raise ConfigurationError(f"'port' in {where} must be from 1 to 65535", hint=_example("port"))
    if table.get("proxy_protocol", "") not in PROXY_PROTOCOLS:
        raise ConfigurationError(f"'proxy_protocol' in {where} must be v1 or v2", hint="leave it out for none")


def _local(kind: str, table: Mapping[str, Any], folder: Path, where: str) -> Local | Path:
    key = "directory" if kind == "static" else "upstream"
    if key not in table:
        raise ConfigurationError(f"{where} has no '{key}'", hint=_example(key))
    if kind == "static":
        return existing_directory(folder / Path(table[key]).expanduser())
    return parse_local(table[key], kind)


def existing_directory(path: Path) -> Path:
    """Return the absolute path of a directory that is there.

    Raises:
        ConfigurationError: If there is no such directory.
    """
    if not path.is_dir():
        raise ConfigurationError(
            f"there is no directory {path}", hint="give the folder whose files are to be published"
        )
    return path.absolute()


def proxy_version(text: str) -> str:
    """Return the PROXY protocol version that was asked for; nothing for none.

    Raises:
        UsageError: If there is no such version.
    """
    if text not in PROXY_PROTOCOLS:
        raise UsageError(f"--proxy-protocol cannot be '{text}'", hint="choose v1 or v2, or leave it out")
    return text
