"""Commands that speak to a node's REST API."""

import re
import ssl
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from rich.console import Console
from rich.table import Table

from moongate.cli import places
from moongate.cli.outcome import Exit, UsageError
from moongate.cli.text import human_bytes, neutralise, print_json
from moongate.errors import ConfigurationError, MoongateError, TokenInvalid, UpstreamRefused, UpstreamTimeout

TIMEOUT_S = 10.0
PIPE_WIDTH = 1000
_WHOLE = frozenset({"created", "last used", "since", "requests", "in", "out", "tunnels"})
_SPAN = re.compile(r"(\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class ApiError(MoongateError):
    """The node's API answered with an error."""

    code = "api.failed"


class Api:
    """A node's REST API, with errors turned into ours."""

    def __init__(self, base: str | None, token_file: Path | None) -> None:
        self.base = (base or _local_api()).rstrip("/")
        self.token = places.api_token(token_file)
        if urlsplit(self.base).scheme not in ("http", "https"):
            raise UsageError(f"--api cannot be '{self.base}'", hint="give http://HOST:PORT or https://HOST[:PORT]")

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the decoded answer, or None when it has no body.

        Raises:
            TokenInvalid, ApiError, UpstreamRefused, UpstreamTimeout: As the node, or its absence, answers.
        """
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            with httpx.Client(timeout=TIMEOUT_S, verify=_trust(self.base), trust_env=False) as client:
                answer = client.request(method, self.base + path, json=body, headers=headers)
        except httpx.TimeoutException:
            raise UpstreamTimeout(f"{self.base} did not answer within {TIMEOUT_S:.0f} s") from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise UpstreamRefused(f"cannot reach {self.base}: {error}") from None
        return _decoded(answer)


def _decoded(answer: httpx.Response) -> Any:
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        raise TokenInvalid(
            f"the node refused: {_reason(answer)}",
            hint="pass --token-file, set MOONGATE_TOKEN, or run this as the node's own user",
        )
    if not answer.is_success:
        raise ApiError(f"the node answered {answer.status_code}: {_reason(answer)}")
    if not answer.content:
        return None
    try:
        return answer.json()
    except ValueError:
        raise ApiError("the answer is not JSON", hint="is this the address of a moongate node?") from None


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return answer.reason_phrase


def _local_api() -> str:
    from moongate.config import load_config

    config = load_config()
    host, port = config.listen_address
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{host}:{config.dashboard_port or port}"


def _trust(base: str) -> ssl.SSLContext | bool:
    """Trust this machine's node besides the usual authorities."""
    own = places.home() / "ca.pem"
    if not base.startswith("https:") or not own.is_file():
        return True
    context = ssl.create_default_context()
    context.load_verify_locations(own)
    return context


def show_status(base: str | None, token_file: Path | None, *, as_json: bool) -> Exit:
    """Print the node's state and, where a token allows it, its tunnels."""
    api = Api(base, token_file)
    state = api.call("GET", "/api/status")
    tunnels = api.call("GET", "/api/tunnels") if api.token else []
    certificates = api.call("GET", "/api/certificates") if api.token else []
    if as_json:
        print_json({**state, "api": api.base, "tunnels": tunnels, "certificate_states": certificates})
        return Exit.OK
    counts = (_counted(int(state[f"active_{what}s"]), what) for what in ("session", "tunnel"))
    print("  ".join((api.base, "ok", *counts)))
    if not api.token:
        print("no token at hand, so the tunnels are not shown", file=sys.stderr)
    print_table(
        ("public URL", "kind", "agent", "since", "requests", "in", "out"), [_tunnel_row(one) for one in tunnels]
    )
    if certificates:
        rows = [_certificate_row(one) for one in certificates]
        print_table(("certificate for", "state", "ends", "message"), rows)
    return Exit.OK


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _tunnel_row(tunnel: Mapping[str, Any]) -> tuple[str, ...]:
    traffic = (human_bytes(int(tunnel.get(key) or 0)) for key in ("bytes_in", "bytes_out"))
    since = _minute(tunnel.get("connected_since"))
    url, kind, agent, requests = (
        str(tunnel.get(key, "")) for key in ("public_url", "protocol", "client_addr", "request_count")
    )
    return (url, kind, agent, since, requests, *traffic)


def _certificate_row(certificate: Mapping[str, Any]) -> tuple[str, ...]:
    name, state, message = (str(certificate.get(key, "")) for key in ("name", "state", "message"))
    return (name, state, _minute(certificate.get("not_after")), message)


def create_token(
    label: str, scope: str | None, expires: str | None, base: str | None, token_file: Path | None, *, as_json: bool
) -> Exit:
    """Create a token and print it; nobody can print it again."""
    body: dict[str, Any] = {"label": label}
    if scope is not None:
        body["scope"] = scope
    if expires is not None:
        body["ttl_seconds"] = _seconds(expires)
    created = Api(base, token_file).call("POST", "/api/tokens", body)
    if as_json:
        print_json({"event": "token_created", **created})
        return Exit.OK
    print(neutralise(str(created["token"])))
    print(
        f"created '{neutralise(label)}', id {neutralise(str(created['id']))}; the token is shown only this once",
        file=sys.stderr,
    )
    return Exit.OK


def _seconds(text: str) -> int:
    match = _SPAN.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise UsageError(f"--expires cannot be '{text}'", hint="give a number and a unit: 90m, 12h or 30d")
    return int(match[1]) * _SECONDS[match[2]]


def list_tokens(base: str | None, token_file: Path | None, *, as_json: bool) -> Exit:
    """Print every token's label, scope and last use."""
    tokens = Api(base, token_file).call("GET", "/api/tokens")
    if as_json:
        for token in tokens:
            print_json(token)
        return Exit.OK
    print_table(("label", "scope", "created", "last used", "tunnels", "id"), [_token_row(token) for token in tokens])
    return Exit.OK


def _token_row(token: Mapping[str, Any]) -> tuple[str, ...]:
    times = (_minute(token.get(key)) for key in ("created_at", "last_used_at"))
    return (str(token["label"]), str(token.get("scope") or "any"), *times, str(token["tunnel_count"]), str(token["id"]))


def _minute(at: object) -> str:
    """Return a time of the API to the minute, still UTC."""
    return "-" if at is None else str(at)[:16].replace("T", " ")


def revoke_token(wanted: str, base: str | None, token_file: Path | None, *, as_json: bool) -> Exit:
    """Delete the token with this id or label."""
    api = Api(base, token_file)
    token_id = _resolve(wanted, api.call("GET", "/api/tokens"))
    api.call("DELETE", f"/api/tokens/{token_id}")
    if as_json:
        print_json({"event": "token_revoked", "id": token_id})
    else:
        print(f"revoked {neutralise(token_id)}")
    return Exit.OK


def _resolve(wanted: str, tokens: list[Mapping[str, Any]]) -> str:
    matching = [str(token["id"]) for token in tokens if wanted in (token["id"], token["label"])]
    if not matching:
        raise ConfigurationError(f"no token has the id or label '{wanted}'", hint="`moongate token list` shows them")
    if len(matching) > 1:
        raise ConfigurationError(
            f"{len(matching)} tokens have the label '{wanted}'", hint="revoke by id: " + ", ".join(matching)
        )
    return matching[0]


def print_table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows under their headings; nothing when there are none."""
    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading in _WHOLE)
    for row in rows:
        table.add_row(*(neutralise(cell) for cell in row))
    # What is read by a program must not be wrapped.
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    Console(markup=False, highlight=False, width=width).print(table)
