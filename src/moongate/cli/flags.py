"""The flags of the commands, each described once."""

from pathlib import Path
from typing import Annotated, Any

import typer


def _option(*names: str, metavar: str | None = None, about: str, **rules: Any) -> Any:
    # Defaults are said in words: most of them are not a value but a rule.
    return typer.Option(*names, metavar=metavar, help=about, show_default=False, **rules)


# --- where and how -----------------------------------------------------------------------

Server = Annotated[
    str | None,
    _option(
        "--server",
        "-s",
        metavar="JOIN|URL|@FILE",
        about="The node: a join string, https://HOST[:PORT], http:// for loopback only, or @FILE holding one of these. "
        "Default: $MOONGATE_SERVER, else the file `join` in the state directory.",
    ),
]
TokenFile = Annotated[
    Path | None,
    _option(
        "--token-file",
        metavar="FILE",
        about="File that holds the token. Default: $MOONGATE_TOKEN, else the token in the join string.",
    ),
]
Json = Annotated[bool, _option("--json", about="Print one JSON object per line, for programs.")]
Plain = Annotated[bool, _option("--plain", about="Print plain lines, no live panel, on a terminal too.")]
Once = Annotated[bool, _option("--once", about="Do not reconnect: exit 5 when the node cannot be reached or is lost.")]
Verbose = Annotated[bool, _option("--verbose", "-v", about="Log what happens on stderr; implies --plain.")]

# --- what a tunnel is like ---------------------------------------------------------------

Subdomain = Annotated[
    str | None, _option("--subdomain", "-d", metavar="NAME", about="The public name wished for. Default: a random one.")
]
Port = Annotated[
    int | None,
    _option("--port", "-p", min=1, max=65535, metavar="N", about="The public port wished for. Default: a free one."),
]
HostHeader = Annotated[
    str, _option("--host-header", metavar="HOST", about="The Host that the upstream sees. Default: the public one.")
]
ProxyProtocol = Annotated[
    str,
    _option(
        "--proxy-protocol",
        metavar="v1|v2",
        about="Begin each connection to the upstream with the visitor's address (PROXY protocol).",
    ),
]
RateLimit = Annotated[
    int, _option("--rate-limit", min=0, metavar="N", about="Requests per second; 0 leaves it to the node.")
]
MaxConnections = Annotated[
    int, _option("--max-connections", min=0, metavar="N", about="Visitors at a time; 0 leaves it to the node.")
]
MaxBody = Annotated[
    int, _option("--max-body", min=0, metavar="BYTES", about="Largest request body; 0 leaves it to the node.")
]
NoCapture = Annotated[bool, _option("--no-capture", about="Do not record requests and answers on the node.")]

# --- a node ------------------------------------------------------------------------------

ConfigFile = Annotated[
    Path | None,
    _option("--config", "-c", metavar="FILE", about="Settings. Default: moongate.toml in the state directory."),
]
Home = Annotated[
    Path | None,
    _option("--home", metavar="DIR", about="State directory. Default: $MOONGATE_HOME, else the user's data directory."),
]
Listen = Annotated[
    str | None,
    _option("--listen", metavar="HOST:PORT", about="Address of HTTP, TLS and agents. Default: 127.0.0.1:7171."),
]
DashboardPort = Annotated[
    int | None,
    _option(
        "--dashboard-port",
        min=0,
        max=65535,
        metavar="N",
        about="Second port of the REST API; 0 is none. Default: 4041.",
    ),
]
Domain = Annotated[
    str | None, _option("--domain", metavar="NAME", about="Public names are labels before it. Default: localhost.")
]
TcpPorts = Annotated[
    str | None, _option("--tcp-ports", metavar="LOW-HIGH", about="Ports for TCP and UDP tunnels. Default: 20000-20999.")
]
LogLevel = Annotated[
    str | None, _option("--log-level", metavar="LEVEL", about="debug, info, warning or error. Default: info.")
]
LogFormat = Annotated[str | None, _option("--log-format", metavar="FORMAT", about="console or json. Default: console.")]
PublicHost = Annotated[
    str | None,
    _option("--host", metavar="HOST[:PORT]", about="The address under which agents reach this node."),
]
JoinToken = Annotated[
    Path | None, _option("--token-file", metavar="FILE", about="Put the token of this file into the join string.")
]

# --- its administration ------------------------------------------------------------------

Api = Annotated[str | None, _option("--api", metavar="URL", about="The node's REST API. Default: this machine's node.")]
AdminTokenFile = Annotated[
    Path | None,
    _option(
        "--token-file",
        metavar="FILE",
        about="File that holds the token. Default: $MOONGATE_TOKEN, else `admin-token` in the state directory.",
    ),
]
Scope = Annotated[
    str | None,
    _option(
        "--scope", metavar="PATTERNS", about="Names it may take, such as 'shop,shop-*,tcp:20000-20049'. Default: any."
    ),
]
Expires = Annotated[
    str | None, _option("--expires", metavar="TIME", about="After how long it ends: 90m, 12h or 30d. Default: never.")
]
