"""The shapes of this family's JSON, for the OpenAPI document and for what comes in."""

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    WithJsonSchema,
)
from pydantic.json_schema import SkipJsonSchema

UUID_PATTERN = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
TIME_PATTERN = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"

Id = Annotated[str, Field(pattern=UUID_PATTERN)]
Time = Annotated[str, Field(pattern=TIME_PATTERN)]
Count = Annotated[int, Field(ge=0)]
Protocol = Literal["http", "tcp", "tls"]

# The document shows the plain form; what else a scope may hold is judged where scopes are parsed.
SCOPE_PATTERN = r"^[A-Za-z0-9*?-]{1,63}( *, *[A-Za-z0-9*?-]{1,63}){0,15}$"
Scope = Annotated[
    str,
    Strict(),
    Field(max_length=1024),
    AfterValidator(lambda value: _without_nul(value)),
    WithJsonSchema({"type": "string", "pattern": SCOPE_PATTERN}),
]

# A label of 1 to 128 characters once trimmed, without control characters.
LABEL_PATTERN = r"^\s*[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]{0,126}[^\s\x00-\x1f\x7f-\x9f])?\s*$"
TTL_MAX_S = 10 * 366 * 86400

METHOD_PATTERN = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,32}$"
PATH_PATTERN = r"^/[!\x22$-~]*$"
PATH_MAX_CHARS = 16_384
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$")]
HeaderValue = Annotated[str, Strict(), Field(pattern=r"^[\t -~\x80-\xff]*$", max_length=16_384)]


class Error(BaseModel):
    """What every failure is answered with."""

    model_config = ConfigDict(extra="forbid")

    error: str


class Status(BaseModel):
    ok: Literal[True]
    active_sessions: Count
    active_tunnels: Count = Field(description="HTTP and TCP tunnels")
    active_tls_tunnels: Count = Field(description="Tunnels that pass TLS through")
    version: str


class Tunnel(BaseModel):
    tunnel_id: Id
    protocol: Protocol
    label: str = Field(description="Host name (http, tls) or port (tcp)")
    public_url: str
    connected_since: Time
    request_count: Count
    client_addr: str
    subdomain: str | None
    public_host: str
    public_port: int | None
    session_id: str
    bytes_in: Count
    bytes_out: Count


class CapturedRequest(BaseModel):
    id: Id
    tunnel_id: Id
    conn_id: Id
    method: str
    path: str
    status: int
    request_bytes: Count
    response_bytes: Count
    duration_ms: Count
    captured_at: str
    request_body: str | None = Field(description='A string that holds JSON: {"headers": {...}, "body": ...}')
    response_body: str | None


class HeaderChange(BaseModel):
    recorded: list[str]
    new: list[str]


class HeaderDiff(BaseModel):
    added: dict[str, list[str]]
    removed: dict[str, list[str]]
    changed: dict[str, HeaderChange]


class StatusDiff(BaseModel):
    recorded: int
    new: int
    equal: bool


class BodyDiff(BaseModel):
    recorded_bytes: Count
    new_bytes: Count
    equal: bool | None = Field(description="null when one of them was cut, and what is left is equal")


class Diff(BaseModel):
    status: StatusDiff
    headers: HeaderDiff
    body: BodyDiff


class ReplayResult(BaseModel):
    request_id: Id
    status: int
    response_bytes: Count
    diff: Diff


class ReplayedRequest(CapturedRequest):
    replay: ReplayResult | SkipJsonSchema[None] = Field(default=None, description="Only with send=true")


class Token(BaseModel):
    id: Id
    token_hash: str = Field(pattern="^[0-9a-f]{64}$")
    label: str
    created_at: Time
    last_used_at: Time | None
    expires_at: Time | None
    scope: str | None
    tunnel_count: Count


class CreatedToken(BaseModel):
    id: Id
    label: str
    token: str = Field(description="The raw token: shown here and never again")
    scope: str | None
    created_at: Time
    expires_at: Time | None


class HistoryEntry(BaseModel):
    id: Id
    tunnel_id: Id
    session_id: Id
    protocol: Protocol
    label: str
    token_id: str | None
    token_label: str | None
    registered_at: Time
    unregistered_at: Time | None


class History(BaseModel):
    total: Count
    entries: list[HistoryEntry]


class Connection(BaseModel):
    """One visitor's connection; what is not known yet is null."""

    model_config = ConfigDict(extra="allow")

    id: Id
    type: str
    status: str


class Connections(BaseModel):
    total: Count
    connections: list[Connection]


def _rfc3339(value: object) -> object:
    # pydantic would also take numbers and bare dates.
    if not isinstance(value, str) or "T" not in value.upper():
        raise ValueError("must be a time such as 2026-12-31T23:59:59Z")
    return value


def _without_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not hold NUL")
    return value


class NewToken(BaseModel):
    """What a token is made from; members that we do not know are ignored."""

    label: Annotated[str, Strict(), Field(pattern=LABEL_PATTERN), AfterValidator(str.strip)] = Field(
        description="For people: 1 to 128 characters once trimmed, none of them a control character"
    )
    scope: Scope | None = Field(
        default=None,
        description="Comma-separated patterns of names (`*`, `?`), `tcp`, `tcp:20000-20049`, `http`; null is everything",
    )
    ttl_seconds: Annotated[int, Strict(), Field(ge=1, le=TTL_MAX_S)] | None = Field(
        default=None, description="How long the token lives; with `expires_at` too, the earlier end counts"
    )
    expires_at: SkipJsonSchema[Annotated[AwareDatetime, BeforeValidator(_rfc3339)] | None] = None


class ReplayEdit(BaseModel):
    """What is sent otherwise than it was recorded; what is left out stays as it was."""

    method: Annotated[str, Strict(), Field(pattern=METHOD_PATTERN)] | None = None
    path: Annotated[str, Strict(), Field(pattern=PATH_PATTERN, max_length=PATH_MAX_CHARS)] | None = Field(
        default=None, description="Path and query, as they go over the wire"
    )
    headers: dict[HeaderName, HeaderValue | list[HeaderValue] | None] | None = Field(
        default=None, description="Each replaces the recorded header of its name; null removes it"
    )
    body: Annotated[str, Strict()] | None = Field(default=None, description="The whole body, as text or in base64")
    encoding: Literal["base64"] | None = Field(default=None, description="How `body` is written, when not as text")
