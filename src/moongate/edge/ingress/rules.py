"""What the rules of a tunnel make of a request, in this order: HTTPS or not, redirects, Basic authentication, password.

Pure: options, request and time come in, and out comes what the visitor is answered, what has to be found out first, or
None for a request that may pass. Firewalls are judged before (edge.firewall); working out a hash takes a quarter of a
second and is left to edge.ingress.gate.
"""

import binascii
import hmac
import re
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import parse_qs

from moongate.edge.ingress.password_page import FORM_PATH, PasswordForm
from moongate.edge.routes.entries import Page

if TYPE_CHECKING:
    from moongate.edge.routes import TunnelOptions
    from moongate.wire.http1 import Headers, RequestFacts

COOKIE: Final = "moongate_visitor"
COOKIE_S: Final = 86400
FORM_MAX: Final = 8192  # bytes: a password and the address to go on to
FORM_TYPE: Final = b"application/x-www-form-urlencoded"
_FORM_FIELDS_MAX: Final = 8
_COOKIES_MAX: Final = 4  # of our name; a neighbour under the same domain may have set others
_THEN_MAX: Final = 4096

_COOKIE_START: Final = COOKIE.encode() + b"="
_FORM_TARGET: Final = FORM_PATH.encode()
# A path on this host: with a second slash of either kind it would name another one (WHATWG URL, "special authority").
_TARGET: Final = re.compile(r"/(?![/\\])[!-~]*")


class Request(NamedTuple):
    """What the rules look at."""

    method: bytes
    facts: "RequestFacts"
    headers: "Headers"
    connected_by_tls: bool
    """TLS ends here."""
    asked_by_tls: bool
    """TLS ended here, or at a trusted proxy before."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the visitor is told instead of the upstream's answer."""

    status: int
    code: str
    message: str
    hint: str = ""
    location: str | None = None
    fields: tuple[str, ...] = ()  # further lines of the head
    form: PasswordForm | None = None
    retry_after_s: int | None = None

    def told(self) -> dict[str, Any]:
        """Return it as arguments of whoever writes it out."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Check:
    """A password that was given: is it the one of this hash?"""

    text: str = field(repr=False)
    hash: str = field(repr=False)
    wrong: Answer
    right: Answer | None = None  # None: the request goes on


class WantsForm:
    """The request's body is the password form; it is judged by `judge_form` once it is here."""


WANTS_FORM: Final = WantsForm()
Verdict = Answer | Check | WantsForm | None


def applies(options: "TunnelOptions", *, tls: bool) -> bool:
    """Whether a tunnel has any rule that a request over plain HTTP, or over TLS, could be kept out by."""
    return bool(
        options.redirect
        or options.redirect_url
        or options.basic_auth
        or options.password
        or (tls and options.secure is False)
    )


def judge(
    options: "TunnelOptions",
    request: Request,
    *,
    https_port: str,
    now: float,
    key: bytes,
    is_known: Callable[[str, str], bool],
) -> Verdict:
    """Return what comes of a request.

    `https_port` is what stands behind the host in a URL, `now` the seconds since 1970, `key` signs cookies, and
    `is_known` tells whether a text has been found to be the password of a hash.
    """
    if options.secure is False and request.connected_by_tls:
        return Answer(421, "http.plain_only", "this name is served over http only", hint="Use http:// instead.")
    if options.redirect and options.secure is not False and not request.asked_by_tls:
        return _to_https(request.facts, https_port)
    if options.redirect_url:
        return _elsewhere(options.redirect_url, request.facts)
    if options.basic_auth and (verdict := _judge_basic_auth(options.basic_auth, request, is_known)) is not None:
        return verdict
    if options.password:
        return _judge_password(options, request, now, key)
    return None


def _to_https(facts: "RequestFacts", https_port: str) -> Answer:
    shown = f"[{facts.host}]" if ":" in facts.host else facts.host
    location = f"https://{shown}{https_port}{facts.target.decode('latin-1')}"
    return Answer(308, "http.redirect", "this name is served over https", location=location)


def _elsewhere(url: str, facts: "RequestFacts") -> Answer:
    target = facts.target.decode("latin-1")
    location = url + target[1:] if url.endswith("/") and target.startswith("/") else url
    return Answer(302, "http.redirect", "this name leads to another address", location=location)


# -- Basic authentication (RFC 7617)


def _judge_basic_auth(hash: str, request: Request, is_known: Callable[[str, str], bool]) -> Answer | Check | None:  # noqa: A002
    given = credentials_of(request.headers)
    if given is not None and is_known(given, hash):
        return None
    challenge = (f'WWW-Authenticate: Basic realm="{request.facts.host}", charset="UTF-8"',)
    if given is None:
        return Answer(401, "credentials.required", "this page asks for a user name and a password", fields=challenge)
    wrong = Answer(401, "credentials.wrong", "the user name or the password is wrong", fields=challenge)
    return Check(given, hash, wrong)


def credentials_of(headers: "Headers") -> str | None:
    """Return the `user:password` of a request; None if it names none, or several."""
    given = [value for name, value in headers if name.lower() == b"authorization"]
    if len(given) != 1:
        return None
    scheme, _, token = given[0].strip().partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        plain = b64decode(token.strip(), validate=True)
    except binascii.Error:
        return None
    # Without a word about the charset, older programs send the one of their system.
    try:
        text = plain.decode()
    except UnicodeDecodeError:
        text = plain.decode("latin-1")
    return text if ":" in text else None


# -- the password page


def _judge_password(options: "TunnelOptions", request: Request, now: float, key: bytes) -> Verdict:
    facts = request.facts
    is_form = facts.target.partition(b"?")[0] == _FORM_TARGET
    if is_form and request.method == b"POST":
        return _form_refusal(request) or WANTS_FORM
    if has_cookie(request.headers, facts.host, options.password, now, key):
        return Answer(303, "http.redirect", "the password was given already", location="/") if is_form else None
    then = facts.target.decode("latin-1") if request.method in (b"GET", b"HEAD") and not is_form else "/"
    return _ask("password.required", "this page is protected by a password", options, facts.host, then)


def _form_refusal(request: Request) -> Answer | None:
    facts = request.facts
    kinds = [value for name, value in request.headers if name.lower() == b"content-type"]
    if len(kinds) != 1 or kinds[0].partition(b";")[0].strip().lower() != FORM_TYPE:
        return Answer(415, "http.bad_request", "the password comes as a form")
    if not facts.content_length:
        return Answer(411, "http.bad_request", "the password's form says how long it is")
    if facts.content_length > FORM_MAX:
        return Answer(413, "http.too_large", f"the password's form is larger than {FORM_MAX} bytes")
    return None


def judge_form(options: "TunnelOptions", request: Request, body: bytes, *, now: float, key: bytes) -> Verdict:
    """Return what comes of the password form once its body is here."""
    if not options.password:
        return Answer(303, "http.redirect", "no password is needed any more", location="/")
    try:
        fields = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=_FORM_FIELDS_MAX)
    except ValueError:
        return Answer(400, "http.bad_request", "the password's form cannot be read")
    host, then = request.facts.host, _on_this_host(fields.get("next", ["/"])[0])
    lifetime = f"Max-Age={COOKIE_S}; Path=/; HttpOnly; SameSite=Lax" + ("; Secure" if request.asked_by_tls else "")
    cookie = f"Set-Cookie: {COOKIE}={sign_cookie(host, options.password, int(now) + COOKIE_S, key)}; {lifetime}"
    right = Answer(303, "http.redirect", "the password is right", location=then, fields=(cookie,))
    wrong = _ask("password.wrong", "the password is wrong", options, host, then, news="That is not the password.")
    return Check(fields.get("password", [""])[0], options.password, wrong, right)


def _ask(code: str, message: str, options: "TunnelOptions", host: str, then: str, news: str = "") -> Answer:
    form = PasswordForm(host, _on_this_host(then), news, options.page or Page())
    # A 401 names a scheme (RFC 9110 §11.6.1); browsers pass over one that they do not know, and show the page.
    challenge = (f'WWW-Authenticate: Password realm="{host}"',)
    return Answer(401, code, message, hint="Open this address in a browser.", fields=challenge, form=form)


def _on_this_host(target: str) -> str:
    return target if len(target) <= _THEN_MAX and _TARGET.fullmatch(target) else "/"


# -- the cookie


def sign_cookie(host: str, hash: str, expires_at: int, key: bytes) -> str:  # noqa: A002
    """Return the cookie's value; it ends with its time, with the key, and with the password that it was given for."""
    signed = hmac.digest(key, f"{host}\0{expires_at}\0{hash}".encode(), "sha256")
    return f"{expires_at}.{urlsafe_b64encode(signed).decode().rstrip('=')}"


def has_cookie(headers: "Headers", host: str, hash: str, now: float, key: bytes) -> bool:  # noqa: A002
    """Whether one of a request's cookies is ours, for this host and password, and still good."""
    return any(_is_good(value, host, hash, now, key) for value in _our_cookies(headers)[:_COOKIES_MAX])


def _our_cookies(headers: "Headers") -> list[str]:
    return [
        pair.strip()[len(_COOKIE_START) :].decode("latin-1")
        for name, value in headers
        if name.lower() == b"cookie" and _COOKIE_START in value
        for pair in value.split(b";")
        if pair.strip().startswith(_COOKIE_START)
    ]


def _is_good(value: str, host: str, hash: str, now: float, key: bytes) -> bool:  # noqa: A002
    digits = value.partition(".")[0]
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 12) or int(digits) <= now:
        return False
    expected = sign_cookie(host, hash, int(digits), key)
    return hmac.compare_digest(expected.encode(), value.encode("latin-1"))


# -- what the upstream gets to see


def without_credentials(options: "TunnelOptions", headers: "Headers") -> "Headers":
    """Return the fields without what was meant for us: the user name and password, and the cookie."""
    if not options.basic_auth and not options.password:
        return headers
    kept = []
    for name, value in headers:
        plain = name.lower()
        if options.basic_auth and plain == b"authorization":
            continue
        if options.password and plain == b"cookie" and _COOKIE_START in value:
            others = [pair for pair in value.split(b";") if not pair.strip().startswith(_COOKIE_START)]
            if not (value := b";".join(others).strip()):
                continue
        kept.append((name, value))
    return kept
