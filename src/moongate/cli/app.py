"""The commands and their flags. Each imports what it needs when it runs, so that `--help` is quick."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from moongate import __version__
from moongate.cli.outcome import Exit, exit_for, report
from moongate.errors import MoongateError

PUBLISH = "Publish a service"
NODE = "Run a node"
ADMIN = "Look after a node"

app = typer.Typer(
    name="moongate",
    help="Publish services from behind a firewall through a node of your own.",
    epilog="Exit codes: 0 done or Ctrl-C, 1 failed, 2 usage or configuration, 3 refused (token, scope, name), "
    "4 superseded by another agent, 5 node unreachable.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
token_app = typer.Typer(help="Create, list and revoke API tokens.", no_args_is_help=True)
config_app = typer.Typer(help="Check, show and describe a node's settings.", no_args_is_help=True)
app.add_typer(token_app, name="token", rich_help_panel=ADMIN)
app.add_typer(config_app, name="config", rich_help_panel=ADMIN)


def run(arguments: Sequence[str], *, secrets_exposed: bool = False) -> int:
    """Run one command line; every failure becomes one clear line and an exit code."""
    as_json = "--json" in arguments
    if secrets_exposed:
        print("warning: a secret on the command line can be seen by others and stays in the shell's history; ", end="", file=sys.stderr)
        print("use --server @FILE, --token-file or MOONGATE_SERVER", file=sys.stderr)
    try:
        outcome = app(list(arguments), prog_name="moongate", standalone_mode=False)
    except MoongateError as error:
        report(error.code, str(error), error.hint, as_json=as_json)
        return exit_for(error)
    except typer.TyperException as error:
        return _typed_wrong(error, as_json=as_json)
    except (KeyboardInterrupt, typer.Abort):
        return Exit.OK
    except BrokenPipeError:
        # Whoever read our output has left; flushing at exit would only fail again.
        sys.stdout = None  # type: ignore[assignment]
        return Exit.OK
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        report("system.failed", f"{where}{(error.strerror or str(error)).lower()}", "", as_json=as_json)
        return Exit.FAILED
    return int(outcome or Exit.OK)


def _typed_wrong(error: typer.TyperException, *, as_json: bool) -> int:
    message = error.format_message()
    if not message:
        # `no_args_is_help` has printed the help already.
        return Exit.USAGE
    message = message.rstrip(".")
    report("usage.invalid", message[:1].lower() + message[1:], "", as_json=as_json)
    return Exit.USAGE


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"moongate {__version__}")
        raise typer.Exit


@app.callback()
def moongate(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Publish services from behind a firewall through a node of your own."""


# --- flags that several commands share ---------------------------------------------------

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        "-s",
        metavar="JOIN|URL|@FILE",
        help="The node: a join string, https://HOST[:PORT], http:// for loopback only, or @FILE holding one of these. "
        "Default: $MOONGATE_SERVER, else the file `join` in the state directory.",
        show_default=False,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="File that holds the token. Default: $MOONGATE_TOKEN, else the token in the join string.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line, for programs.")]
Plain = Annotated[bool, typer.Option("--plain", help="Print plain lines, no live panel, on a terminal too.")]
Once = Annotated[bool, typer.Option("--once", help="Do not reconnect: exit 5 when the node cannot be reached or is lost.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens on stderr; implies --plain.")]
Subdomain = Annotated[
    str | None,
    typer.Option("--subdomain", "-d", metavar="NAME", help="The public name wished for. Default: a random one.", show_default=False),
]
ProxyProtocol = Annotated[
    str,
    typer.Option(
        "--proxy-protocol",
        metavar="v1|v2",
        help="Begin each connection to the upstream with the visitor's address (PROXY protocol).",
        show_default=False,
    ),
]
MaxConnections = Annotated[
    int,
    typer.Option("--max-connections", min=0, metavar="N", help="Visitors at a time; 0 leaves it to the node.", show_default=False),
]
RateLimit = Annotated[
    int, typer.Option("--rate-limit", min=0, metavar="N", help="Requests per second; 0 leaves it to the node.", show_default=False)
]
MaxBody = Annotated[
    int,
    typer.Option("--max-body", min=0, metavar="BYTES", help="Largest request body; 0 leaves it to the node.", show_default=False),
]
NoCapture = Annotated[bool, typer.Option("--no-capture", help="Do not record requests and answers on the node.")]
Api = Annotated[
    str | None,
    typer.Option("--api", metavar="URL", help="The node's REST API. Default: this machine's node.", show_default=False),
]
AdminTokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="File that holds the token. Default: $MOONGATE_TOKEN, else `admin-token` in the state directory.",
        show_default=False,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", help="Settings. Default: moongate.toml in the state directory.", show_default=False
    ),
]


# --- publish -----------------------------------------------------------------------------


@app.command(rich_help_panel=PUBLISH)
def http(
    upstream: Annotated[str, typer.Argument(metavar="PORT|HOST:PORT|URL", help="The local web service; https:// is spoken too.")],
    subdomain: Subdomain = None,
    server: Server = None,
    token_file: TokenFile = None,
    host_header: Annotated[
        str, typer.Option("--host-header", metavar="HOST", help="The Host that the upstream sees. Default: the public one.", show_default=False)
    ] = "",
    rate_limit: RateLimit = 0,
    max_connections: MaxConnections = 0,
    max_body: MaxBody = 0,
    no_capture: NoCapture = False,
    as_json: Json = False,
    plain: Plain = False,
    once: Once = False,
    verbose: Verbose = False,
) -> int:
    """Give a local web service a public URL."""
    from moongate.cli.publish import Manner, publish
    from moongate.cli.tunnels import Wanted
    from moongate.cli.upstreams import parse_local

    wanted = Wanted(
        kind="http",
        local=parse_local(upstream, "http"),
        subdomain=subdomain,
        host_header=host_header,
        capture=not no_capture,
        rate_limit_rps=rate_limit,
        max_connections=max_connections,
        request_body_max_bytes=max_body,
    )
    return publish([wanted], server, token_file, Manner(as_json, plain, once, verbose))


@app.command(rich_help_panel=PUBLISH)
def tcp(
    upstream: Annotated[str, typer.Argument(metavar="PORT|HOST:PORT", help="The local TCP service.")],
    port: Annotated[
        int | None,
        typer.Option("--port", "-p", min=1, max=65535, metavar="N", help="The public port wished for. Default: a free one.", show_default=False),
    ] = None,
    server: Server = None,
    token_file: TokenFile = None,
    proxy_protocol: ProxyProtocol = "",
    max_connections: MaxConnections = 0,
    as_json: Json = False,
    plain: Plain = False,
    once: Once = False,
    verbose: Verbose = False,
) -> int:
    """Give a local TCP service a public port."""
    from moongate.cli.publish import Manner, publish
    from moongate.cli.tunnels import Wanted
    from moongate.cli.upstreams import parse_local

    wanted = Wanted(
        kind="tcp",
        local=parse_local(upstream, "tcp"),
        port=port,
        proxy_protocol=_proxy_version(proxy_protocol),
        max_connections=max_connections,
    )
    return publish([wanted], server, token_file, Manner(as_json, plain, once, verbose))


@app.command(rich_help_panel=PUBLISH)
def tls(
    upstream: Annotated[str, typer.Argument(metavar="PORT|HOST:PORT", help="The local TLS service, which keeps its own certificate.")],
    subdomain: Subdomain = None,
    server: Server = None,
    token_file: TokenFile = None,
    proxy_protocol: ProxyProtocol = "",
    max_connections: MaxConnections = 0,
    as_json: Json = False,
    plain: Plain = False,
    once: Once = False,
    verbose: Verbose = False,
) -> int:
    """Pass TLS through by server name, without decrypting it."""
    from moongate.cli.publish import Manner, publish
    from moongate.cli.tunnels import Wanted
    from moongate.cli.upstreams import parse_local

    wanted = Wanted(
        kind="tls",
        local=parse_local(upstream, "tls"),
        subdomain=subdomain,
        proxy_protocol=_proxy_version(proxy_protocol),
        max_connections=max_connections,
    )
    return publish([wanted], server, token_file, Manner(as_json, plain, once, verbose))


@app.command(rich_help_panel=PUBLISH)
def static(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder; everything in it becomes public.")],
    subdomain: Subdomain = None,
    server: Server = None,
    token_file: TokenFile = None,
    rate_limit: RateLimit = 0,
    max_connections: MaxConnections = 0,
    no_capture: NoCapture = False,
    as_json: Json = False,
    plain: Plain = False,
    once: Once = False,
    verbose: Verbose = False,
) -> int:
    """Publish the files of a folder, read-only."""
    from moongate.cli.publish import Manner, publish
    from moongate.cli.tunnels import Wanted, existing_directory

    wanted = Wanted(
        kind="static",
        local=existing_directory(directory),
        subdomain=subdomain,
        capture=not no_capture,
        rate_limit_rps=rate_limit,
        max_connections=max_connections,
    )
    return publish([wanted], server, token_file, Manner(as_json, plain, once, verbose))


@app.command(rich_help_panel=PUBLISH)
def up(
    file: Annotated[
        Path, typer.Option("--file", "-f", metavar="FILE", help="TOML file with a table [tunnels.NAME] for each tunnel.")
    ] = Path("tunnels.toml"),
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
    plain: Plain = False,
    once: Once = False,
    verbose: Verbose = False,
) -> int:
    """Publish several services at once, as a file says."""
    from moongate.cli.publish import Manner, publish
    from moongate.cli.tunnels import load_tunnels

    asked = load_tunnels(file)
    manner = Manner(as_json, plain, once, verbose)
    return publish(list(asked.tunnels), server or asked.server, token_file or asked.token_file, manner)


def _proxy_version(text: str) -> str:
    from moongate.cli.outcome import UsageError
    from moongate.cli.tunnels import PROXY_PROTOCOLS

    if text not in PROXY_PROTOCOLS:
        raise UsageError(f"--proxy-protocol cannot be '{text}'", hint="choose v1 or v2, or leave it out")
    return text


# --- node --------------------------------------------------------------------------------


@app.command(rich_help_panel=NODE)
def demo(
    as_json: Json = False,
    plain: Plain = False,
) -> int:
    """Run a node, a small sample service and an agent, all on this machine."""
    from moongate.cli.demo import run_demo

    return run_demo(as_json=as_json, plain=plain)


@app.command(rich_help_panel=NODE)
def server(
    config: ConfigFile = None,
    home: Annotated[
        Path | None,
        typer.Option("--home", metavar="DIR", help="State directory. Default: $MOONGATE_HOME, else the user's data directory.", show_default=False),
    ] = None,
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="HOST:PORT", help="Address of HTTP, TLS and agents. Default: 127.0.0.1:7171.", show_default=False)
    ] = None,
    dashboard_port: Annotated[
        int | None, typer.Option("--dashboard-port", metavar="N", help="Second port of the REST API; 0 is none. Default: 4041.", show_default=False)
    ] = None,
    domain: Annotated[
        str | None, typer.Option("--domain", metavar="NAME", help="Public names are labels before it. Default: localhost.", show_default=False)
    ] = None,
    tcp_ports: Annotated[
        str | None, typer.Option("--tcp-ports", metavar="LOW-HIGH", help="Ports for TCP tunnels. Default: 20000-20999.", show_default=False)
    ] = None,
    log_level: Annotated[
        str | None, typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning or error. Default: info.", show_default=False)
    ] = None,
    log_format: Annotated[
        str | None, typer.Option("--log-format", metavar="FORMAT", help="console or json. Default: console.", show_default=False)
    ] = None,
) -> int:
    """Run a node: the public side that agents connect to."""
    from moongate.cli.server import run_server

    overrides = {
        "home": None if home is None else str(home.absolute()),
        "listen": listen,
        "dashboard_port": dashboard_port,
        "domain": domain,
        "tcp_ports": tcp_ports,
        "log_level": log_level,
        "log_format": log_format,
    }
    return run_server(config, overrides)


@app.command(rich_help_panel=NODE)
def join(
    host: Annotated[
        str | None, typer.Option("--host", metavar="HOST[:PORT]", help="The address under which agents reach this node.", show_default=False)
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="Put this token into the join string.", show_default=False)
    ] = None,
) -> int:
    """Print the join string, which is all that an agent needs."""
    from moongate.cli.places import join_string

    typer.echo(join_string(host, token_file))
    return Exit.OK


# --- administration ----------------------------------------------------------------------


@app.command(rich_help_panel=ADMIN)
def status(api: Api = None, token_file: AdminTokenFile = None, as_json: Json = False) -> int:
    """Show a node's sessions and tunnels."""
    from moongate.cli.admin import show_status

    return show_status(api, token_file, as_json=as_json)


@token_app.command("create")
def token_create(
    label: Annotated[str, typer.Argument(metavar="LABEL", help="What the token is for; shown in lists and errors.")],
    scope: Annotated[
        str | None,
        typer.Option("--scope", metavar="PATTERNS", help="Names it may take, such as 'shop,shop-*,tcp:20000-20049'. Default: any.", show_default=False),
    ] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="TIME", help="After how long it ends, such as 90m, 12h or 30d. Default: never.", show_default=False)
    ] = None,
    api: Api = None,
    token_file: AdminTokenFile = None,
    as_json: Json = False,
) -> int:
    """Create an API token and print it, this once."""
    from moongate.cli.admin import create_token

    return create_token(label, scope, expires, api, token_file, as_json=as_json)


@token_app.command("list")
def token_list(api: Api = None, token_file: AdminTokenFile = None, as_json: Json = False) -> int:
    """List the API tokens; the tokens themselves are not stored."""
    from moongate.cli.admin import list_tokens

    return list_tokens(api, token_file, as_json=as_json)


@token_app.command("revoke")
def token_revoke(
    token: Annotated[str, typer.Argument(metavar="ID|LABEL", help="The token's id, or its label if only one token has it.")],
    api: Api = None,
    token_file: AdminTokenFile = None,
    as_json: Json = False,
) -> int:
    """Delete an API token; its agents are disconnected at once."""
    from moongate.cli.admin import revoke_token

    return revoke_token(token, api, token_file, as_json=as_json)


@config_app.command("check")
def config_check(file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Default: moongate.toml in the state directory.", show_default=False)] = None) -> int:
    """Say whether the settings can be used, and what is odd about them."""
    from moongate.cli.settings import check

    return check(file)


@config_app.command("show")
def config_show(config: ConfigFile = None, as_json: Json = False) -> int:
    """Show every setting, its value and where that came from; secrets are masked."""
    from moongate.cli.settings import show

    return show(config, as_json=as_json)


@config_app.command("schema")
def config_schema() -> int:
    """Print the JSON schema of moongate.toml."""
    from moongate.cli.settings import schema

    return schema()


def command_tree() -> Callable[..., object]:
    """Return the commands as typer builds them, for the reference page."""
    return typer.main.get_command(app)
