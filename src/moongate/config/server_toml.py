"""The `server.toml` of another family of tunnel servers, read as settings of ours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moongate.config.sources import Source, flat

SERVER_TABLES = frozenset({"server", "auth", "tls", "database", "logging"})
SERVER_KEYS: Mapping[str, str] = {
    "server.domain": "domain",
    "server.dashboard_port": "dashboard_port",
    "server.dashboard_origin": "dashboard_origin",
    "tls.cert_path": "tls_cert",
    "tls.key_path": "tls_key",
    "auth.admin_token": "admin_token",
    "database.url": "database_url",
    "logging.level": "log_level",
    "limits.max_tunnels_per_session": "limits.max_tunnels_per_session",
    "limits.max_connections_per_tunnel": "limits.max_connections_per_tunnel",
    "limits.rate_limit_rps": "limits.rate_limit_rps",
    "limits.ip_rate_limit_rps": "limits.ip_rate_limit_rps",
    "limits.request_body_max_bytes": "limits.request_body_max_bytes",
    "limits.tcp_port_range": "tcp_ports",
}
# One port of ours answers all of these; the first one given is it. That family binds every address.
SERVER_PORTS = ("server.https_port", "server.control_port", "server.http_port")


def recognised(path: Path, tree: Mapping[str, Any]) -> bool:
    """Whether this is such a file, by its name or by a table that ours does not have."""
    return path.name == "server.toml" or any(isinstance(tree.get(name), dict) for name in SERVER_TABLES)


def read(path: Path, tree: Mapping[str, Any]) -> Source:
    """Translate the file; what has no counterpart here is kept, with one warning each."""
    given = flat(tree)
    values = {ours: given.pop(theirs) for theirs, ours in SERVER_KEYS.items() if theirs in given}
    values = {key: value for key, value in values.items() if key not in {"tls_cert", "tls_key"} or value != ""}
    warnings: list[str] = []
    _take_ports(given, values, warnings)
    _take_authentication(given, values, warnings, str(path))
    _take_database(path, given, values)
    if "server.plain_http_mode" in given:
        values["plain_http"] = given.pop("server.plain_http_mode") == "proxy"
    if "logging.format" in given:
        values["log_format"] = "json" if given.pop("logging.format") == "json" else "console"
    warnings += [f"{path}: {key} is kept but not used by this node" for key in given]
    return Source(str(path), values, given, tuple(warnings))


def _take_ports(given: dict[str, Any], values: dict[str, Any], warnings: list[str]) -> None:
    ports = {key: given.pop(key) for key in SERVER_PORTS if key in given}
    if not ports:
        return
    first, *others = ports
    values["listen"] = f"0.0.0.0:{ports[first]}"
    warnings += [f"{key} is not opened: port {ports[first]} ({first}) answers everything" for key in others]


def _take_authentication(given: dict[str, Any], values: dict[str, Any], warnings: list[str], where: str) -> None:
    required = given.pop("auth.require_auth", True)
    if not required:
        warnings.append(f"{where}: auth.require_auth = false is not followed; this node always asks for a token")
        if values.get("admin_token") == "":
            del values["admin_token"]


def _take_database(path: Path, given: dict[str, Any], values: dict[str, Any]) -> None:
    file = given.pop("database.path", None)
    if not isinstance(file, str) or "database_url" in values:
        return
    place = file if file == ":memory:" else str(path.expanduser().absolute().parent / Path(file).expanduser())
    values["database_url"] = f"sqlite:///{place}"
