"""What strangers send to a tunnel with rules: any bytes, and never a crash, a way in, or a way elsewhere."""

from urllib.parse import urljoin, urlsplit

from hypothesis import example, given
from hypothesis import strategies as st

from moongate.edge.ingress.password_page import FORM_PATH, PasswordForm
from moongate.edge.ingress.rules import (
    COOKIE,
    Check,
    Request,
    credentials_of,
    has_cookie,
    judge,
    judge_form,
    sign_cookie,
    without_credentials,
)
from moongate.edge.routes import TunnelOptions
from moongate.edge.routes.entries import Page
from moongate.identity.passwords import is_password_hash, verify_password
from moongate.wire import http1

HASH = "scrypt$of something"
HOST = "a.example.test"
KEY = b"key"
NAMES = st.sampled_from([b"Cookie", b"cookie", b"Authorization", b"AUTHORIZATION", b"X-A"])
VALUES = st.binary(max_size=60) | st.builds(
    lambda *parts: b"".join(parts),
    st.sampled_from([b"Basic ", b"basic", COOKIE.encode() + b"=", b"a=b; " + COOKIE.encode() + b"="]),
    st.binary(max_size=40) | st.sampled_from([b"99999999999.", b"1.x", b"YTpi", b"Og=="]),
)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=6)
TARGETS = st.from_regex(rb"/[\x21\x22\x24-\x7e]*", fullmatch=True).map(lambda target: target[:300])


def facts_of(target: bytes, method: bytes = b"GET") -> http1.RequestFacts:
    return http1.check_request(method, target, "1.1", [(b"Host", HOST.encode())])


@given(HEADERS)
def test_no_stranger_gets_in_without_the_password(headers: http1.Headers) -> None:
    assert not has_cookie(headers, HOST, HASH, 0.0, KEY)
    given_text = credentials_of(headers)
    assert given_text is None or ":" in given_text


@given(HEADERS)
def test_what_was_meant_for_the_edge_goes_no_further(headers: http1.Headers) -> None:
    kept = without_credentials(TunnelOptions(basic_auth=HASH, password=HASH), headers)
    assert credentials_of(kept) is None
    assert not any(name.lower() == b"authorization" for name, _ in kept)
    for name, value in kept:
        if name.lower() == b"cookie":
            assert not any(pair.strip().startswith(COOKIE.encode() + b"=") for pair in value.split(b";"))
    assert [field for field in headers if field[0] == b"X-A"] == [field for field in kept if field[0] == b"X-A"]


@given(st.binary(max_size=300) | st.tuples(st.just(b"password=x&next="), st.binary(max_size=60)).map(b"".join))
@example(b"next=%2F%5Cevil.test")
@example(b"next=%2F%09%2Fevil.test")
@example(b"next=/%2Fevil.test")
def test_any_form_leads_to_this_host(body: bytes) -> None:
    request = Request(b"POST", facts_of(FORM_PATH.encode(), b"POST"), [], connected_by_tls=False, asked_by_tls=False)
    verdict = judge_form(TunnelOptions(password=HASH), request, body, now=0.0, key=KEY)
    if isinstance(verdict, Check):
        assert verdict.right is not None
        location = verdict.right.location or ""
        assert urlsplit(urljoin(f"https://{HOST}/", location.replace("\\", "/"))).netloc == HOST
        assert location.isprintable()
        assert location.isascii()


@given(TARGETS)
def test_a_redirect_stays_under_its_address(target: bytes) -> None:
    request = Request(b"GET", facts_of(target), [], connected_by_tls=False, asked_by_tls=False)
    options = TunnelOptions(redirect_url="https://new.example.test/x/")
    verdict = judge(options, request, https_port="", now=0.0, key=KEY, is_known=lambda text, of: False)
    assert not isinstance(verdict, Check)
    location = getattr(verdict, "location", "")
    assert location.startswith("https://new.example.test/x/")
    assert location.endswith(target[1:].decode())


@given(st.integers(1, 10**11), st.text("abc.", min_size=1, max_size=9), st.text(max_size=9))
def test_a_cookie_is_good_until_its_time_and_for_its_host_and_password(until: int, host: str, hash_: str) -> None:
    headers = [(b"Cookie", f"{COOKIE}={sign_cookie(host, hash_, until, KEY)}".encode())]
    assert has_cookie(headers, host, hash_, until - 1, KEY)
    assert not has_cookie(headers, host, hash_, until, KEY)
    assert not has_cookie(headers, host + "x", hash_, until - 1, KEY)
    assert not has_cookie(headers, host, hash_ + "x", until - 1, KEY)


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_whatever_a_page_says_is_text(title: str, logo: str, site: str, then: str) -> None:
    form = PasswordForm(HOST, then, title, Page(title, "https://" + logo, "https://" + site))
    logo_url = "https://x" if "<img" in form.html("") else ""
    plain = PasswordForm(HOST, "", title and "x", Page("x", logo_url, "https://x"))
    assert form.html("").count("<") == plain.html("").count("<")
    assert form.policy.count(";") <= 6
    assert form.policy.isprintable()


@given(
    st.text(max_size=200) | st.from_regex(r"scrypt\$\d{1,6}\$\d{1,3}\$\d{1,3}\$[A-Za-z+/]{0,30}=?\$[A-Za-z+/]{0,50}=")
)
@example("scrypt$16384$8$5$AAAA$AAAA")
def test_a_text_that_is_no_hash_opens_nothing(text: str) -> None:
    if not is_password_hash(text):
        assert not verify_password("x", text)
