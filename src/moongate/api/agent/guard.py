"""Who may call: this machine's own programs, and no web page that a browser here happens to show.

Requests that change something are plain GETs, so that any page could make a browser send them. The Host tells a name
that was rebound to loopback, Origin and Sec-Fetch-Site (Fetch Metadata, W3C) tell a page.
"""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass

import structlog
from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from moongate.api.agent.envelopes import failure
from moongate.api.agent.requests import BODY_MAX_BYTES
from moongate.api.cors import Cors
from moongate.api.hosts import without_port
from moongate.api.middleware import CLOSE, Exchange
from moongate.telemetry import get_logger

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
# Typed into the address bar, or asked by a page of this very origin, of which there is none to fear.
OWN_SITES = ("none", "same-origin")

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not answered."""

    status: int
    message: str
    headers: dict[str, str] | None = None


class Policy:
    """Decides by the head alone; takes headers, returns a verdict."""

    def __init__(self, hosts: Iterable[str], origins: Iterable[str], token: SecretStr | None) -> None:
        self._hosts = {*LOOPBACK_HOSTS, *(host.lower().rstrip(".") for host in hosts)}
        self._origins = {origin.lower().rstrip("/") for origin in origins}
        self._token = token.get_secret_value().encode() if token is not None else None

    def refusal(self, headers: Iterable[tuple[bytes, bytes]], *, with_token: bool = True) -> Refusal | None:
        """Return why this request is refused, None when it is not."""
        given: dict[bytes, list[str]] = {}
        for name, value in headers:
            given.setdefault(name, []).append(value.decode("latin-1").strip())
        refused = self._judge_host(given) or self._judge_page(given)
        if refused is None and with_token:
            refused = self._judge_token(given)
        return refused or self._judge_size(given)

    def _judge_host(self, given: dict[bytes, list[str]]) -> Refusal | None:
        hosts = given.get(b"host", [])
        if len(hosts) != 1:
            return Refusal(400, "exactly one Host header is needed")
        if without_port(hosts[0].lower()).rstrip(".") not in self._hosts:
            return Refusal(403, "this Host is not served here; use 127.0.0.1 or localhost")
        return None

    def _judge_page(self, given: dict[bytes, list[str]]) -> Refusal | None:
        origins = given.get(b"origin", [])
        if origins:
            known = len(origins) == 1 and origins[0].lower() in self._origins
            return None if known else Refusal(403, "web pages of this Origin may not call")
        sites = given.get(b"sec-fetch-site", [])
        if any(site.lower() not in OWN_SITES for site in sites):
            return Refusal(403, "web pages of other sites may not call")
        return None

    def _judge_token(self, given: dict[bytes, list[str]]) -> Refusal | None:
        if self._token is None:
            return None
        scheme, _, token = next(iter(given.get(b"authorization", [])), "").partition(" ")
        # RFC 6750 §2.1; the scheme in any case, as RFC 9110 §11.1 has it.
        shown = token.strip().encode("latin-1") if scheme.lower() == "bearer" else b""
        if hmac.compare_digest(shown, self._token):
            return None
        message = "invalid token" if shown else "missing token"
        return Refusal(401, message, {"WWW-Authenticate": "Bearer"})

    def _judge_size(self, given: dict[bytes, list[str]]) -> Refusal | None:
        lengths = given.get(b"content-length", [])
        if any(length.isdecimal() and int(length) > BODY_MAX_BYTES for length in lengths):
            return Refusal(413, f"the body is larger than {BODY_MAX_BYTES} bytes", CLOSE)
        return None


class Guard:
    """The outermost layer: judges each request, gives it an id and a line in the log, and answers what breaks."""

    def __init__(self, app: ASGIApp, policy: Policy, cors: Cors) -> None:
        self._app = app
        self._policy = policy
        self._cors = cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = {**scope, "path": _without_slash(scope["path"])}
        extra = self._cors.headers(scope)
        exchange = Exchange(scope, receive, send, extra, body_max_bytes=BODY_MAX_BYTES, head_is_get=False)
        with structlog.contextvars.bound_contextvars(request_id=exchange.id):
            await self._answer(exchange)
            exchange.write_log()

    async def _answer(self, exchange: Exchange) -> None:
        try:
            app = self._refusal(exchange.scope) or self._app
            await app(exchange.scope, exchange.receive, exchange.send)
        except Exception:
            log.exception("request failed", path=exchange.scope["path"])
            if exchange.status:
                # Half an answer cannot be taken back; the server closes the connection.
                raise
            await failure(500, f"internal error (request {exchange.id})")(
                exchange.scope, exchange.receive, exchange.send
            )

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        """Return the answer to a request that the application is not to see."""
        # Browsers show no token when they ask whether they may (Fetch standard, "CORS-preflight fetch").
        preflight = self._cors.preflight(scope)
        refused = self._policy.refusal(scope["headers"], with_token=preflight is None)
        if refused is not None:
            return failure(refused.status, refused.message, refused.headers)
        return preflight


def _without_slash(path: str) -> str:
    return path[:-1] if path.endswith("/") and path != "/" else path
