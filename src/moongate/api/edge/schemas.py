"""The shapes of this family's JSON, for the OpenAPI document and for what comes in."""

import unicodedata
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
FINE_TIME_PATTERN = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{3}Z$"
TIME_PATTERN = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"

Id = Annotated[str, Field(pattern=UUID_PATTERN)]
Time = Annotated[str, Field(pattern=TIME_PATTERN)]
FineTime = Annotated[str, Field(pattern=FINE_TIME_PATTERN)]
Count = Annotated[int, Field(ge=0)]
Protocol = Literal["http", "tcp", "tls", "udp"]

LABEL_MAX_CHARS = 128
# The same in one pattern, for the document: white space, 1 to 128 characters that begin and end with none, white space.
LABEL_PATTERN = r"^\s*[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]{0,126}[^\s\x00-\x1f\x7f-\x9f])?\s*$"
SCOPE_MAX_CHARS = 4096
# The usual entries of a scope, for the document; what else one may hold is judged where scopes are parsed.
SCOPE_PATTERN = r"^\s*((,\s*)*[A-Za-z0-9*?-]+\s*(,\s*([A-Za-z0-9*?-]+\s*)?)*)?$"
TTL_MAX_S = 10 * 366 * 86400

METHOD_PATTERN = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,32}$"
PATH_PATTERN = r"^/[!\x22$-~]*$"
PATH_MAX_CHARS = 16_384
HEADER_MAX_CHARS = 16_384


def _label(value: str) -> str:
    label = value.strip()
    if not 1 <= len(label) <= LABEL_MAX_CHARS:
        raise ValueError(f"must have 1 to {LABEL_MAX_CHARS} characters")
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in label):
        raise ValueError("must not hold control characters")
    return label


def _rfc3339(value: object) -> object:
    # pydantic would also take numbers and bare dates.
    if not isinstance(value, str) or "T" not in value.upper():
        raise ValueError("must be a time such as 2026-12-31T23:59:59Z")
    return value


def _number(value: object) -> object:
    # 60.0 is an integer in JSON; "60" and true are none.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a whole number")
    return value


Text = Annotated[str, Strict()]
Label = Annotated[Text, AfterValidator(_label), WithJsonSchema({"type": "string", "pattern": LABEL_PATTERN})]
Scope = Annotated[
    Text,
    Field(max_length=SCOPE_MAX_CHARS),
    WithJsonSchema({"type": "string", "maxLength": SCOPE_MAX_CHARS, "pattern": SCOPE_PATTERN}),
]
Moment = Annotated[AwareDatetime, BeforeValidator(_rfc3339)]
HEADER_NAME_PATTERN = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$"
HEADER_VALUE_PATTERN = r"^[\t -~\x80-\xff]*$"
HEADER_VALUE = {"type": "string", "maxLength": HEADER_MAX_CHARS, "pattern": HEADER_VALUE_PATTERN}
HeaderName = Annotated[str, Field(pattern=HEADER_NAME_PATTERN)]
HeaderValue = Annotated[Text, Field(pattern=HEADER_VALUE_PATTERN, max_length=HEADER_MAX_CHARS)]
HeaderEdits = Annotated[
    dict[HeaderName, HeaderValue | list[HeaderValue] | None],
    # The model refuses names that fit no pattern; its own schema does not say so.
    WithJsonSchema(
        {
            "type": "object",
            "patternProperties": {
                HEADER_NAME_PATTERN: {
                    "anyOf": [HEADER_VALUE, {"type": "array", "items": HEADER_VALUE}, {"type": "null"}]
                }
            },
            "additionalProperties": False,
        }
    ),
]


class Error(BaseModel):
    """What every failure is answered with."""

    model_config = ConfigDict(extra="forbid")

    error: str


class CertificateCounts(BaseModel):
    """How many names want a certificate by ACME, by how it is with them."""

    ready: Count
    pending: Count
    failed: Count


class Certificate(BaseModel):
    """How it is with the certificate of one name that wants one by ACME."""

    name: str
    state: Literal["pending", "ready", "failed"]
    message: str = Field(description="Why there is none, or why it could not be renewed; empty when all is well")
    not_after: Time | None = Field(description="When it ends; null while there is none")


class Status(BaseModel):
    """Whether the node is well, and how busy it is."""

    ok: Literal[True]
    active_sessions: Count
    active_tunnels: Count = Field(description="HTTP and TCP tunnels")
    active_tls_tunnels: Count = Field(description="Tunnels that pass TLS through")
    certificates: CertificateCounts
    version: str


class Tunnel(BaseModel):
    """One open tunnel."""

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
    """A request that went through a tunnel, with the answer it got; secrets are masked."""

    id: Id
    tunnel_id: Id
    conn_id: Id
    method: str
    path: str
    status: int
    request_bytes: Count
    response_bytes: Count
    duration_ms: Count
    ttfb_ms: Count
    captured_at: Time
    request_body: str | None = Field(description='A string that holds JSON: {"headers": {...}, "body": ...}')
    response_body: str | None


class HeaderChange(BaseModel):
    """A header that both answers have, with other values."""

    recorded: list[str]
    new: list[str]


class HeaderDiff(BaseModel):
    """Headers that came, went or changed."""

    added: dict[str, list[str]]
    removed: dict[str, list[str]]
    changed: dict[str, HeaderChange]


class StatusDiff(BaseModel):
    """The two statuses."""

    recorded: int
    new: int
    equal: bool


class BodyDiff(BaseModel):
    """The two bodies."""

    recorded_bytes: Count
    new_bytes: Count
    equal: bool | None = Field(description="null when one of them was cut, and what is left is equal")


class Diff(BaseModel):
    """The new answer beside the recorded one."""

    status: StatusDiff
    headers: HeaderDiff
    body: BodyDiff


class ReplayResult(BaseModel):
    """What sending it again brought."""

    request_id: Id
    status: int
    response_bytes: Count
    diff: Diff


class ReplayedRequest(CapturedRequest):
    """The recorded request, and what sending it again brought."""

    replay: ReplayResult | SkipJsonSchema[None] = Field(default=None, description="Only with send=true")


class Token(BaseModel):
    """An API token, without its raw value."""

    id: Id
    token_hash: str = Field(pattern="^[0-9a-f]{64}$")
    label: str
    created_at: Time
    last_used_at: Time | None
    expires_at: Time | None
    scope: str | None
    tunnel_count: Count


class CreatedToken(BaseModel):
    """An API token that was just made."""

    id: Id
    label: str
    token: str = Field(description="The raw token: shown here and never again")
    scope: str | None
    created_at: Time
    expires_at: Time | None


class HistoryEntry(BaseModel):
    """One registration of a tunnel."""

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
    """One page of the log of tunnels."""

    total: Count
    entries: list[HistoryEntry]


class Connection(BaseModel):
    """One connection of a visitor."""

    id: Id
    node_id: str
    type: str
    status: str
    tunnel_id: Id
    tunnel_name: str
    identity: str
    remote_address: str
    target_address: str
    user_agent: str
    connected: FineTime
    disconnected: FineTime | None
    last_activity: FineTime
    duration_ms: Count
    bytes_in: Count = Field(description="From the visitor to the upstream")
    bytes_out: Count
    requests: Count
    end_reason: str


class Connections(BaseModel):
    """One page of the connection records."""

    total: Count
    connections: list[Connection]


class NewToken(BaseModel):
    """What a token is made from; members that we do not know are ignored."""

    label: Label = Field(description="For people: 1 to 128 characters once trimmed, no control characters")
    scope: Scope | None = Field(
        default=None,
        description="Comma-separated patterns of names (`*`, `?`), `tcp`, `tcp:20000-20049`, `http`; null is everything",
    )
    ttl_seconds: Annotated[int, Field(ge=1, le=TTL_MAX_S), BeforeValidator(_number)] | None = Field(
        default=None, description="How long the token lives; with `expires_at` too, the earlier end counts"
    )
    expires_at: SkipJsonSchema[Moment | None] = None


class ReplayEdit(BaseModel):
    """What is sent otherwise than it was recorded; what is left out stays as it was."""

    method: Annotated[Text, Field(pattern=METHOD_PATTERN)] | None = None
    path: Annotated[Text, Field(pattern=PATH_PATTERN, max_length=PATH_MAX_CHARS)] | None = Field(
        default=None, description="Path and query, as they go over the wire"
    )
    headers: HeaderEdits | None = Field(
        default=None, description="Each replaces the recorded header of its name; null removes it"
    )
    body: Text | None = Field(default=None, description="The whole body, as text or in base64")
    encoding: Literal["base64"] | None = Field(default=None, description="How `body` is written, when not as text")
