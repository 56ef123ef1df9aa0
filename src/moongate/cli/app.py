"""The commands. Each imports what it needs when it runs, so that `--help` is quick."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from moongate import __version__
from moongate.cli import flags, rules
from moongate.cli.agent_group import agent_app, agent_start
from moongate.cli.outcome import Exit, UsageError, exit_for, report
from moongate.errors import MoongateError

EXPOSED = (
    "warning: a secret on the command line can be read by others and stays in the shell's history; "
    "use --server @FILE, --token-file or MOONGATE_SERVER"
)

# Rich's own help costs 0.3 s to import; the plain one is as clear.
app = typer.Typer(
    name="moongate",
    help="Publish services from behind a firewall through a node of your own.",
    epilog="Exit codes: 0 done or Ctrl-C, 1 failed, 2 usage or configuration, 3 refused (token, scope, name), "
    "4 superseded by another agent, 5 node unreachable.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
token_app = typer.Typer(help="Create, list and revoke API tokens.", no_args_is_help=True, rich_markup_mode=None)
config_app = typer.Typer(
    help="Check, show and describe a node's settings.", no_args_is_help=True, rich_markup_mode=None
)


def run(arguments: Sequence[str], *, secrets_exposed: bool = False) -> int:
    """Run one command line; every failure becomes one clear line and an exit code."""
    as_json = "--json" in arguments
    if secrets_exposed:
        print(EXPOSED, file=sys.stderr)
    try:
        outcome = app(list(arguments), prog_name="moongate", standalone_mode=False)
    except MoongateError as error:
        report(error.code, str(error), error.hint, as_json=as_json)
        return exit_for(error)
    except typer.TyperException as error:
        return _typed_wrong(error, as_json=as_json)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        report("system.failed", f"{where}{(error.strerror or str(error)).lower()}", "", as_json=as_json)
        return Exit.FAILED
    return int(outcome or Exit.OK)


def _typed_wrong(error: typer.TyperException, *, as_json: bool) -> int:
    message = error.format_message().rstrip(".")
    if message.startswith("Usage:"):
        # No command was given: the message is the help, or is empty where that was printed already.
        print(error.format_message(), file=sys.stderr)
    elif message:
        report(UsageError.code, message[:1].lower() + message[1:], "", as_json=as_json)
    return Exit.USAGE


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"moongate {__version__}")
        raise typer.Exit


@app.callback()
def moongate(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Publish services from behind a firewall through a node of your own."""


# --- publish -----------------------------------------------------------------------------


@app.command()
def http(
    upstream: Annotated[
        str, typer.Argument(metavar="PORT|HOST:PORT|URL", help="The local web service; https:// is spoken too.")
    ],
    *,
    subdomain: flags.Subdomain = None,
    server: flags.Server = None,
    token_file: flags.TokenFile = None,
    host_header: flags.HostHeader = "",
    rate_limit: flags.RateLimit = 0,
    max_connections: flags.MaxConnections = 0,
    max_body: flags.MaxBody = 0,
    no_capture: flags.NoCapture = False,
    as_json: flags.Json = False,
    plain: flags.Plain = False,
    once: flags.Once = False,
    verbose: flags.Verbose = False,
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


@app.command()
def tcp(
    upstream: Annotated[str, typer.Argument(metavar="PORT|HOST:PORT", help="The local TCP service.")],
    *,
    port: flags.Port = None,
    server: flags.Server = None,
    token_file: flags.TokenFile = None,
    proxy_protocol: flags.ProxyProtocol = "",
    max_connections: flags.MaxConnections = 0,
    as_json: flags.Json = False,
    plain: flags.Plain = False,
    once: flags.Once = False,
    verbose: flags.Verbose = False,
) -> int:
    """Give a local TCP service a public port."""
    from moongate.cli.publish import Manner, publish
    from moongate.cli.tunnels import Wanted, proxy_version
    from moongate.cli.upstreams import parse_local

    wanted = Wanted(
        kind="tcp",
        local=parse_local(upstream, "tcp"),
        port=port,
        proxy_protocol=proxy_version(proxy_protocol),
        max_connections=max_connections,
    )
    return publish([wanted], server, token_file, Manner(as_json, plain, once, verbose))


@app.command()
def udp(
    upstream: Annotated[str, typer.Argument(metavar="PORT|HOST:PORT", help="The local UDP service.")],
    *,
    port: flags.Port = None,
    server: flags.Server = None,
    token_file: flags.TokenFile = None,
    max_connections: flags.MaxConnections = 0,
    as_json: flags.Json = False,
    plain: flags.Plain = False,
    once: flags.Once = False,
    verbose: flags.Verbose = False,
) -> int:
    """Give a local UDP service a public port."""
    from moongate.cli.publish import Manner, publish
    from moongate.cli.tunnels import Wanted
    from moongate.cli.upstreams import parse_local

    wanted = Wanted(kind="udp", local=parse_local(upstream, "udp"), port=port, max_connections=max_connections)
    return publish([wanted], server, token_file, Manner(as_json, plain, once, verbose))


@app.command()
def tls(
    upstream: Annotated[
        str, typer.Argument(metavar="PORT|HOST:PORT", help="The local TLS service, which keeps its own certificate.")
    ],
    *,
    subdomain: flags.Subdomain = None,
    server: flags.Server = None,
    token_file: flags.TokenFile = None,
    proxy_protocol: flags.ProxyProtocol = "",
    max_connections: flags.MaxConnections = 0,
    as_json: flags.Json = False,
    plain: flags.Plain = False,
    once: flags.Once = False,
    verbose: flags.Verbose = False,
) -> int:
    """Pass TLS through by server name, without decrypting it."""
    from moongate.cli.publish import Manner, publish
    from moongate.cli.tunnels import Wanted, proxy_version
    from moongate.cli.upstreams import parse_local

    wanted = Wanted(
        kind="tls",
        local=parse_local(upstream, "tls"),
        subdomain=subdomain,
        proxy_protocol=proxy_version(proxy_protocol),
        max_connections=max_connections,
    )
    return publish([wanted], server, token_file, Manner(as_json, plain, once, verbose))


@app.command()
def static(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder; everything in it becomes public.")],
    *,
    subdomain: flags.Subdomain = None,
    server: flags.Server = None,
    token_file: flags.TokenFile = None,
    rate_limit: flags.RateLimit = 0,
    max_connections: flags.MaxConnections = 0,
    no_capture: flags.NoCapture = False,
    as_json: flags.Json = False,
    plain: flags.Plain = False,
    once: flags.Once = False,
    verbose: flags.Verbose = False,
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


@app.command()
def up(
    *,
    file: Annotated[
        Path,
        typer.Option("--file", "-f", metavar="FILE", help="TOML file with a table [tunnels.NAME] for each tunnel."),
    ] = Path("tunnels.toml"),
    server: flags.Server = None,
    token_file: flags.TokenFile = None,
    as_json: flags.Json = False,
    plain: flags.Plain = False,
    once: flags.Once = False,
    verbose: flags.Verbose = False,
) -> int:
    """Publish several services at once, as a file says."""
    from moongate.cli.publish import Manner, publish
    from moongate.cli.tunnels import load_tunnels

    asked = load_tunnels(file)
    manner = Manner(as_json, plain, once, verbose)
    return publish(list(asked.tunnels), server or asked.server, token_file or asked.token_file, manner)


app.command("start")(agent_start)


# --- node --------------------------------------------------------------------------------


@app.command()
def demo(*, as_json: flags.Json = False, plain: flags.Plain = False) -> int:
    """Run a node, a sample service and an agent here."""
    from moongate.cli.demo import run_demo

    return run_demo(as_json=as_json, plain=plain)


@app.command()
def server(
    *,
    config: flags.ConfigFile = None,
    home: flags.Home = None,
    listen: flags.Listen = None,
    dashboard_port: flags.DashboardPort = None,
    domain: flags.Domain = None,
    tcp_ports: flags.TcpPorts = None,
    log_level: flags.LogLevel = None,
    log_format: flags.LogFormat = None,
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


@app.command()
def join(*, host: flags.PublicHost = None, token_file: flags.JoinToken = None) -> int:
    """Print the join string, which is all that an agent needs."""
    from moongate.cli.places import join_string

    print(join_string(host, token_file))
    return Exit.OK


# --- administration ----------------------------------------------------------------------


@app.command()
def status(*, api: flags.Api = None, token_file: flags.AdminTokenFile = None, as_json: flags.Json = False) -> int:
    """Show a node's sessions, tunnels and certificates."""
    from moongate.cli.admin import show_status

    return show_status(api, token_file, as_json=as_json)


@token_app.command("create")
def token_create(
    label: Annotated[str, typer.Argument(metavar="LABEL", help="What the token is for; shown in lists and errors.")],
    *,
    scope: flags.Scope = None,
    expires: flags.Expires = None,
    api: flags.Api = None,
    token_file: flags.AdminTokenFile = None,
    as_json: flags.Json = False,
) -> int:
    """Create an API token and print it, this once."""
    from moongate.cli.admin import create_token

    return create_token(label, scope, expires, api, token_file, as_json=as_json)


@token_app.command("list")
def token_list(*, api: flags.Api = None, token_file: flags.AdminTokenFile = None, as_json: flags.Json = False) -> int:
    """List the API tokens; the tokens themselves are not stored."""
    from moongate.cli.admin import list_tokens

    return list_tokens(api, token_file, as_json=as_json)


@token_app.command("revoke")
def token_revoke(
    token: Annotated[
        str, typer.Argument(metavar="ID|LABEL", help="The token's id, or its label if only one token has it.")
    ],
    *,
    api: flags.Api = None,
    token_file: flags.AdminTokenFile = None,
    as_json: flags.Json = False,
) -> int:
    """Delete an API token; its agents are disconnected at once."""
    from moongate.cli.admin import revoke_token

    return revoke_token(token, api, token_file, as_json=as_json)


@config_app.command("check")
def config_check(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Default: moongate.toml in the state directory.", show_default=False),
    ] = None,
) -> int:
    """Say whether the settings can be used, and what is odd about them."""
    from moongate.cli.settings import check

    return check(file)


@config_app.command("show")
def config_show(*, config: flags.ConfigFile = None, as_json: flags.Json = False) -> int:
    """Show every setting, its value and where that came from; secrets are masked."""
    from moongate.cli.settings import show

    return show(config, as_json=as_json)


@config_app.command("schema")
def config_schema() -> int:
    """Print the JSON schema of moongate.toml."""
    from moongate.cli.settings import schema

    return schema()


app.add_typer(agent_app, name="agent")
rules.register(app)
app.add_typer(token_app, name="token")
app.add_typer(config_app, name="config")
