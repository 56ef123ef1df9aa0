"""The shapes of this family's JSON, for its OpenAPI document. What comes in is judged where rules are kept."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

PORT_MAX = 65535


class Open(BaseModel):
    """An object that may have more members than are named; they are kept."""

    model_config = ConfigDict(extra="allow", title=None)


class FwRule(Open):
    """Lets visitors from a network in, or keeps them out."""

    sequence: int = Field(0, ge=0, description="Rules are read in this order; equal ones as listed")
    action: Literal["allow", "drop"]
    network: str = Field(description="IPv4 or IPv6 CIDR; a bare address stands for itself", examples=["203.0.113.0/24"])


class AuthPageOpts(Open):
    """How the page that asks for a password looks."""

    title: str = ""
    logoURL: str = ""  # noqa: N815 -- the API's spelling
    siteURL: str = ""  # noqa: N815 -- the API's spelling


class Http(Open):
    """A site: a public domain, and what is behind it. Its key is `domain`."""

    domain: str = Field(examples=["shop.example.test"])
    secure: bool = Field(False, description="Serve HTTPS")
    destination: str = Field("", description="Host or address of the upstream, with `port`", examples=["127.0.0.1"])
    port: int = Field(0, ge=0, le=PORT_MAX, description="Port of the upstream's HTTP, with `destination`")
    tls: int = Field(0, ge=0, le=PORT_MAX, description="Port of the upstream's TLS, which is passed through unopened")
    upstreamURL: str = Field("", description="Instead of `destination` and `port`", examples=["http://127.0.0.1:8080"])  # noqa: N815
    webRoot: str = Field("", description="Absolute directory of static files, looked into first")  # noqa: N815
    useLetsEnc: bool = Field(False, description="The node obtains a certificate (ACME)")  # noqa: N815
    ca: str = Field("", description="Path of the site's certificate chain, PEM")
    privateKey: str = Field("", description="Path of its key, PEM")  # noqa: N815
    firewall: list[FwRule] = []
    redirect: bool = Field(False, description="Redirect HTTP to HTTPS")
    password: str = Field("", description="Hash of the password that a page asks for")
    basicHttpAuth: str = Field("", description="`user:password`, or its hash")  # noqa: N815
    redirectURL: str = Field("", description="Redirect every request there")  # noqa: N815
    rewriteHost: str = Field("", description="The Host that the upstream sees")  # noqa: N815
    insecureUpstream: bool = Field(False, description="Accept any certificate of an https upstream")  # noqa: N815
    authPageOpts: AuthPageOpts | None = None  # noqa: N815


class Port(Open):
    """An allocated port of the node, and where its connections go. Its key is `port`."""

    port: int = Field(ge=1, le=PORT_MAX, examples=[22872])
    destination: str = Field("", examples=["127.0.0.1"])
    dstPort: int = Field(0, ge=0, le=PORT_MAX, examples=[2200])  # noqa: N815
    firewall: list[FwRule] = []
    transport: Literal["tcp", "udp"] = "tcp"
    proxyProtocol: Literal["", "v1", "v2"] = Field("", description="Tell the upstream who comes")  # noqa: N815
    label: str = ""


class PortMap(Open):
    """A port of this machine that leads to a port elsewhere. Its key is `port`."""

    port: int = Field(ge=1, le=PORT_MAX, description="Port on 127.0.0.1; `listenPort` means the same", examples=[15001])
    dstPort: int = Field(ge=1, le=PORT_MAX, examples=[22132])  # noqa: N815
    destination: str = Field("", description="A public host; empty for a port that a tunnel has on the node")
    transport: Literal["tcp", "udp"] = "tcp"
    label: str = ""
    listenPort: int | None = Field(None, ge=1, le=PORT_MAX, description="The same as `port`")  # noqa: N815
    http: bool = Field(False, description="Says that HTTP is spoken there")


class Envelope(Open):
    """What every answer has."""

    status: bool = Field(description="Whether all that was asked is done")
    error: str = Field(description="What is not done, and why; empty on success")


class Info(Envelope):
    """The agent, and whether it has a session."""

    version: str = Field(examples=["v1.2.0"])
    runtimeVersion: str  # noqa: N815
    isUpdated: bool  # noqa: N815
    isTunConnected: bool  # noqa: N815


class Config(Envelope):
    """Every rule, in the order of creation."""

    version: str
    os: str = Field(examples=["linux"])
    arch: str = Field(examples=["amd64"])
    https: list[Http]
    ports: list[Port]
    portmaps: list[PortMap]


class Started(Envelope):
    """What became of the session."""

    isTunConnected: bool = Field(description="Whether there was a session before the call")  # noqa: N815
    connected: bool | None = Field(None, description="With `wait`: whether there is one now")


class Result(Open):
    """What became of one rule."""

    kind: Literal["https", "ports", "portmaps"]
    key: str
    status: bool
    error: str


class Changed(Envelope):
    """What became of the rules of one request."""

    results: list[Result] = []


class Allocated(Envelope):
    """A port of the node, from now on this agent's."""

    port: int = Field(ge=0, le=PORT_MAX, description="0 when there is none")
    message: str


class Service(Open):
    """Whether what stands behind one rule can be reached."""

    flowID: int = Field(ge=0, description="A number that the rule keeps; it may pass 2^53")  # noqa: N815
    flow: str = Field(description="The same as text, for readers that lose digits")
    available: bool
    error: str = ""
    http: Http | None = None
    port: Port | None = None


class Health(Envelope):
    """Whether each upstream can be reached."""

    services: list[Service]


class Listed(Envelope):
    """The rules and nothing else."""

    https: list[Http]
    ports: list[Port]
    portmaps: list[PortMap]


def _list_of(name: str) -> dict[str, Any]:
    return {"type": ["array", "null"], "items": {"$ref": f"#/components/schemas/{name}"}, "default": []}


TRAFFIC: dict[str, Any] = {
    "type": "object",
    "properties": {"https": _list_of("Http"), "ports": _list_of("Port"), "portmaps": _list_of("PortMap")},
}
"""The body of the traffic operations."""

RELEASE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "port": {"type": "integer", "minimum": 1, "maximum": PORT_MAX},
        "transport": {"type": "string", "enum": ["tcp", "udp"]},
    },
    "required": ["port"],
}
"""The body of `ports/release`."""
