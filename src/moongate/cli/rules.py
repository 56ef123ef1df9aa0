"""The commands that change what a running agent publishes, in their short form and in the one that others know."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moongate.cli import flags
from moongate.cli.agent_group import agent_app

if TYPE_CHECKING:
    from moongate.cli.agent_api import Manner


def _group(about: str) -> typer.Typer:
    return typer.Typer(help=about, no_args_is_help=True, rich_markup_mode=None)


route_app = _group("Add, list and remove the sites of the agent on this machine.")
port_app = _group("Take ports of the node, and lead them somewhere.")
portmap_app = _group("Map local ports to ports of the node, or to public hosts.")
http_app = _group("Sites.")
tcp_app = _group("Ports.")
firewall_app = _group("Who may visit a site.")
tunnel_app = _group("The same as `route http` and `route tcp`.")

# --- flags -------------------------------------------------------------------------------

ApiPort = Annotated[
    int | None,
    typer.Option(
        "--api-port",
        min=1,
        max=65535,
        metavar="N",
        help="Port of the agent's local API. Default: as in the settings, 4100.",
        show_default=False,
    ),
]
ApiToken = Annotated[
    Path | None,
    typer.Option(
        "--api-token-file",
        metavar="FILE",
        help="File with the API's token. Default: as in the settings.",
        show_default=False,
    ),
]
Udp = Annotated[bool, typer.Option("--udp", help="Datagrams instead of connections.")]
Allow = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="NETWORK", help="Let only these in; may be repeated.", show_default=False),
]
Drop = Annotated[
    list[str] | None,
    typer.Option("--drop", metavar="NETWORK", help="Keep these out; may be repeated.", show_default=False),
]
Domain = Annotated[str | None, typer.Option("--domain", metavar="NAME", help="Its domain.", show_default=False)]
Network = Annotated[str, typer.Option("--network", metavar="NETWORK", help="An address or a network.")]
TcpPort = Annotated[
    int | None, typer.Option("--port", min=1, max=65535, metavar="N", help="The port.", show_default=False)
]
LocalPort = Annotated[int, typer.Argument(min=1, max=65535, metavar="PORT", help="The port on this machine.")]
NodePort = Annotated[int, typer.Argument(min=1, max=65535, metavar="PORT", help="The port of the node.")]


def _file(name: str, about: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(name, metavar="FILE", help=about, show_default=False)
    return option


def _text(name: str, metavar: str, about: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(name, metavar=metavar, help=about, show_default=False)
    return option


def _number(name: str, about: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        name, min=1, max=65535, metavar="PORT", help=about, show_default=False
    )
    return option


Destination = Annotated[str | None, _text("--destination", "HOST", "Host of the upstream. Default: this machine.")]
HttpPort = Annotated[int | None, _number("--http", "Port of the upstream.")]
TlsPort = Annotated[int | None, _number("--tls", "Port of the upstream's own TLS, which is passed through.")]
UpstreamUrl = Annotated[str | None, _text("--upstream-url", "URL", "The upstream as a URL.")]
WebRoot = Annotated[Path | None, typer.Option("--webroot", metavar="DIR", help="Static files.", show_default=False)]
Secure = Annotated[bool, typer.Option("--secure", help="Serve HTTPS.")]
LetsEncrypt = Annotated[bool, typer.Option("--letsencrypt", help="The node obtains a certificate.")]
Chain = Annotated[Path | None, _file("--ca", "Its own certificate chain, PEM.")]
Key = Annotated[Path | None, _file("--key", "The key of its certificate, PEM.")]
Redirect = Annotated[bool, typer.Option("--redirect", help="Redirect HTTP to HTTPS.")]
RedirectUrl = Annotated[str | None, _text("--redirect-url", "URL", "Redirect every request there.")]
RewriteHost = Annotated[str | None, _text("--rewrite-host", "HOST", "The Host that the upstream sees.")]
Insecure = Annotated[bool, typer.Option("--insecure-upstream", help="Accept any certificate of the upstream.")]
PasswordFile = Annotated[Path | None, _file("--password-file", "Ask for the password in this file.")]
BasicAuthFile = Annotated[Path | None, _file("--basic-auth-file", "Ask for the user:password in this file.")]
Replace = Annotated[bool, typer.Option("--replace", help="Replace the site that has this domain.")]


def over_the_api(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the flags that all of them have; it gets them as its argument `manner`."""
    signature = inspect.signature(command)
    shared = {"api_port": (ApiPort, None), "api_token_file": (ApiToken, None), "as_json": (flags.Json, False)}

    @functools.wraps(command)
    def run(*arguments: Any, **given: Any) -> int:
        from moongate.cli.agent_api import Manner

        return command(*arguments, manner=Manner(*(given.pop(name) for name in shared)), **given)

    parameters = [parameter for name, parameter in signature.parameters.items() if name != "manner"]
    for name, (kind, default) in shared.items():
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind))
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": int}
    return run


# --- sites -------------------------------------------------------------------------------


@route_app.command("add")
@http_app.command("add")
@over_the_api
def route_add(
    domain: Annotated[str | None, typer.Argument(metavar="DOMAIN", help="Its public name.", show_default=False)] = None,
    upstream: Annotated[
        str | None,
        typer.Argument(metavar="PORT|HOST:PORT|URL", help="The web service behind it.", show_default=False),
    ] = None,
    *,
    domain_flag: Domain = None,
    destination: Destination = None,
    http: HttpPort = None,
    tls: TlsPort = None,
    upstream_url: UpstreamUrl = None,
    webroot: WebRoot = None,
    secure: Secure = False,
    letsencrypt: LetsEncrypt = False,
    ca: Chain = None,
    key: Key = None,
    redirect: Redirect = False,
    redirect_url: RedirectUrl = None,
    rewrite_host: RewriteHost = None,
    insecure_upstream: Insecure = False,
    password_file: PasswordFile = None,
    basic_auth_file: BasicAuthFile = None,
    allow: Allow = None,
    drop: Drop = None,
    replace: Replace = False,
    manner: "Manner",
) -> int:
    """Publish a site under a domain."""
    from moongate.cli.agent_api import SiteWish, add_site

    wish = SiteWish(
        domain=domain or domain_flag,
        upstream=upstream,
        destination=destination,
        port=http,
        tls=tls,
        upstream_url=upstream_url,
        web_root=webroot,
        secure=secure,
        lets_encrypt=letsencrypt,
        chain=ca,
        key=key,
        redirect=redirect,
        redirect_url=redirect_url,
        rewrite_host=rewrite_host,
        insecure_upstream=insecure_upstream,
        password_file=password_file,
        basic_auth_file=basic_auth_file,
        allow=allow or [],
        drop=drop or [],
    )
    return add_site(wish, manner, replace=replace)


@route_app.command("ls")
@http_app.command("ls")
@over_the_api
def route_ls(*, manner: "Manner") -> int:
    """List the sites."""
    from moongate.cli.agent_api import list_sites

    return list_sites(manner)


@route_app.command("rm")
@http_app.command("rm")
@over_the_api
def route_rm(
    domains: Annotated[
        list[str] | None, typer.Argument(metavar="DOMAIN...", help="Their domains.", show_default=False)
    ] = None,
    *,
    domain_flag: Domain = None,
    manner: "Manner",
) -> int:
    """Remove sites."""
    from moongate.cli.agent_api import remove_sites

    wanted = [*(domains or ()), *((domain_flag,) if domain_flag else ())]
    return remove_sites(wanted, manner)


@firewall_app.command("allow")
@over_the_api
def firewall_allow(
    *,
    domain: Annotated[str, typer.Option("--domain", metavar="NAME", help="Its domain.")],
    network: Network,
    manner: "Manner",
) -> int:
    """Let a network in; who is not named is kept out."""
    from moongate.cli.agent_api import add_firewall

    return add_firewall(domain, "allow", network, manner)


@firewall_app.command("drop")
@over_the_api
def firewall_drop(
    *,
    domain: Annotated[str, typer.Option("--domain", metavar="NAME", help="Its domain.")],
    network: Network,
    manner: "Manner",
) -> int:
    """Keep a network out."""
    from moongate.cli.agent_api import add_firewall

    return add_firewall(domain, "drop", network, manner)


# --- ports -------------------------------------------------------------------------------


@port_app.command("allocate")
@tcp_app.command("allocate")
@over_the_api
def port_allocate(
    *,
    port: TcpPort = None,
    udp: Udp = False,
    manner: "Manner",
) -> int:
    """Take a port of the node; it stays yours until it is released."""
    from moongate.cli.agent_api import allocate_port

    return allocate_port(port, "udp" if udp else "tcp", manner)


@port_app.command("forward")
@over_the_api
def port_forward(
    port: NodePort,
    upstream: Annotated[str, typer.Argument(metavar="PORT|HOST:PORT", help="The local service.")],
    *,
    udp: Udp = False,
    allow: Allow = None,
    drop: Drop = None,
    manner: "Manner",
) -> int:
    """Lead an allocated port to a service."""
    from moongate.cli.agent_api import forward_port

    return forward_port(port, upstream, "udp" if udp else None, (allow or [], drop or []), manner)


@port_app.command("clear")
@over_the_api
def port_clear(port: NodePort, *, manner: "Manner") -> int:
    """Lead a port nowhere, and keep it."""
    from moongate.cli.agent_api import clear_port

    return clear_port(port, manner)


@port_app.command("release")
@over_the_api
def port_release(
    port: NodePort,
    *,
    udp: Udp = False,
    manner: "Manner",
) -> int:
    """Give a port back to the node."""
    from moongate.cli.agent_api import release_port

    return release_port(port, "udp" if udp else None, manner)


@port_app.command("ls")
@tcp_app.command("ls")
@over_the_api
def port_ls(*, manner: "Manner") -> int:
    """List the allocated ports."""
    from moongate.cli.agent_api import list_ports

    return list_ports(manner)


@tcp_app.command("forward")
@over_the_api
def tcp_forward(
    *,
    port: TcpPort = None,
    destination: Annotated[str, typer.Option("--destination", metavar="HOST", help="Host of the service.")],
    dstport: Annotated[int, typer.Option("--dstport", min=1, max=65535, metavar="N", help="Port of the service.")],
    manner: "Manner",
) -> int:
    """Lead a port to a service; without --port, one is allocated first."""
    from moongate.cli.agent_api import forward_port
    from moongate.net.addresses import host_port

    return forward_port(port, host_port(destination, dstport), None, ([], []), manner)


@tcp_app.command("release")
@over_the_api
def tcp_release(
    *,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, metavar="N", help="The port.")],
    manner: "Manner",
) -> int:
    """Give a port back to the node."""
    from moongate.cli.agent_api import release_port

    return release_port(port, None, manner)


# --- port maps ---------------------------------------------------------------------------


@portmap_app.command("add")
@over_the_api
def portmap_add(
    port: LocalPort,
    target: Annotated[
        str, typer.Argument(metavar="PORT|HOST:PORT", help="A port of the node, or a public host and its port.")
    ],
    *,
    udp: Udp = False,
    label: Annotated[str, typer.Option("--label", metavar="TEXT", help="What it is for.", show_default=False)] = "",
    manner: "Manner",
) -> int:
    """Reach a service elsewhere through a port of this machine."""
    from moongate.cli.agent_api import add_portmap

    return add_portmap(port, target, "udp" if udp else "tcp", label, manner)


@portmap_app.command("ls")
@over_the_api
def portmap_ls(*, manner: "Manner") -> int:
    """List the port maps."""
    from moongate.cli.agent_api import list_portmaps

    return list_portmaps(manner)


@portmap_app.command("rm")
@over_the_api
def portmap_rm(
    ports: Annotated[list[int], typer.Argument(min=1, max=65535, metavar="PORT...", help="Ports of this machine.")],
    *,
    manner: "Manner",
) -> int:
    """Remove port maps."""
    from moongate.cli.agent_api import remove_portmaps

    return remove_portmaps(ports, manner)


# --- the agent ---------------------------------------------------------------------------


@agent_app.command("info")
@over_the_api
def agent_info(*, manner: "Manner") -> int:
    """Show the running agent; the exit code is 0 only if it has a session."""
    from moongate.cli.agent_api import show_info

    return show_info(manner)


@agent_app.command("health")
@over_the_api
def agent_health(*, manner: "Manner") -> int:
    """Show whether what is published can be reached; the exit code is 0 only if all of it can."""
    from moongate.cli.agent_api import show_health

    return show_health(manner)


def register(app: typer.Typer) -> None:
    """Add the groups to the program."""
    http_app.add_typer(firewall_app, name="firewall")
    for group in (route_app, tunnel_app):
        group.add_typer(http_app, name="http")
        group.add_typer(tcp_app, name="tcp")
    app.add_typer(route_app, name="route")
    app.add_typer(port_app, name="port")
    app.add_typer(portmap_app, name="portmap")
    app.add_typer(tunnel_app, name="tunnel", hidden=True)
