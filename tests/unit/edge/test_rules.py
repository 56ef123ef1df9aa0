"""What the rules of a tunnel make of a request."""

from base64 import b64encode
from typing import Any, ClassVar
from urllib.parse import urlencode

import pytest

from moongate.edge.ingress.password_page import FORM_PATH, PasswordForm
from moongate.edge.ingress.rules import (
    COOKIE,
    COOKIE_S,
    FORM_MAX,
    WANTS_FORM,
    Answer,
    Check,
    Request,
    Verdict,
    applies,
    credentials_of,
    has_cookie,
    judge,
    judge_form,
    sign_cookie,
    without_credentials,
)
from moongate.edge.routes import TunnelOptions
from moongate.edge.routes.entries import Page
from moongate.wire import http1
from moongate.wire.http1 import Headers

KEY = b"k" * 32
NOW = 1_000_000.5
HASH = "scrypt$a hash that nothing here works out"
FORM = [(b"Content-Type", b"application/x-www-form-urlencoded")]


def request(
    target: str = "/a?b=c",
    *more: tuple[bytes, bytes],
    method: bytes = b"GET",
    host: bytes = b"shop.example.test",
    tls: bool = False,
    proxied_tls: bool = False,
) -> Request:
    headers: Headers = [(b"Host", host), *more]
    facts = http1.check_request(method, target.encode(), "1.1", headers)
    return Request(method, facts, headers, tls, tls or proxied_tls)


def verdict(options: TunnelOptions, asked: Request, known: tuple[str, ...] = ()) -> Verdict:
    return judge(
        options, asked, https_port=":4443", now=NOW, key=KEY, is_known=lambda text, of: of == HASH and text in known
    )


def answer(options: TunnelOptions, asked: Request, known: tuple[str, ...] = ()) -> Answer:
    found = verdict(options, asked, known)
    assert isinstance(found, Answer)
    return found


def basic(text: str | bytes, scheme: bytes = b"Basic") -> tuple[bytes, bytes]:
    return (b"Authorization", scheme + b" " + b64encode(text.encode() if isinstance(text, str) else text))


def cookie(host: str = "shop.example.test", hash_: str = HASH, until: float = NOW + 60, key: bytes = KEY) -> bytes:
    return f"{COOKIE}={sign_cookie(host, hash_, int(until), key)}".encode()


class TestHttpAndHttps:
    def test_without_rules_everything_passes(self) -> None:
        options = TunnelOptions(rate_limit_rps=3, keep=True)
        assert verdict(options, request()) is None
        assert verdict(options, request(tls=True)) is None
        assert not applies(options, tls=True)

    @pytest.mark.parametrize(
        "options",
        [
            TunnelOptions(redirect=True),
            TunnelOptions(redirect_url="https://n.test"),
            TunnelOptions(basic_auth=HASH),
            TunnelOptions(password=HASH),
        ],
    )
    def test_a_rule_is_looked_at_whatever_way_the_visitor_came(self, options: TunnelOptions) -> None:
        assert applies(options, tls=True)
        assert applies(options, tls=False)
        assert applies(TunnelOptions(secure=False), tls=True)
        assert not applies(TunnelOptions(secure=False), tls=False)

    def test_a_name_that_is_not_secure_is_refused_over_tls_and_only_there(self) -> None:
        options = TunnelOptions(secure=False)
        found = answer(options, request(tls=True))
        assert (found.status, found.code) == (421, "http.plain_only")
        assert verdict(options, request()) is None

    def test_a_secure_name_is_served_both_ways_until_it_redirects(self) -> None:
        assert verdict(TunnelOptions(secure=True), request()) is None
        assert verdict(TunnelOptions(secure=True), request(tls=True)) is None
        found = answer(TunnelOptions(secure=True, redirect=True), request())
        assert (found.status, found.location) == (308, "https://shop.example.test:4443/a?b=c")
        assert verdict(TunnelOptions(secure=True, redirect=True), request(tls=True)) is None

    def test_a_proxy_that_ended_tls_is_not_redirected_in_a_circle(self) -> None:
        assert verdict(TunnelOptions(secure=True, redirect=True), request(proxied_tls=True)) is None

    def test_nobody_is_redirected_to_where_he_would_be_refused(self) -> None:
        assert verdict(TunnelOptions(secure=False, redirect=True), request()) is None


class TestRedirectUrl:
    @pytest.mark.parametrize(
        ("url", "target", "location"),
        [
            ("https://new.example.test", "/a?b=c", "https://new.example.test"),
            ("https://new.example.test/x", "/a?b=c", "https://new.example.test/x"),
            ("https://new.example.test/", "/a?b=c", "https://new.example.test/a?b=c"),
            ("https://new.example.test/x/", "/", "https://new.example.test/x/"),
            ("https://new.example.test/", "//evil.test/", "https://new.example.test//evil.test/"),
        ],
    )
    def test_the_path_is_appended_if_the_address_ends_with_a_slash(self, url: str, target: str, location: str) -> None:
        found = answer(TunnelOptions(redirect_url=url), request(target))
        assert (found.status, found.location) == (302, location)

    def test_a_request_about_the_server_itself_has_no_path_to_append(self) -> None:
        asked = request("*", method=b"OPTIONS")
        assert answer(TunnelOptions(redirect_url="https://n.test/"), asked).location == "https://n.test/"

    def test_https_comes_before_the_other_address(self) -> None:
        options = TunnelOptions(secure=True, redirect=True, redirect_url="https://n.test/", basic_auth=HASH)
        assert answer(options, request()).status == 308
        assert answer(options, request(tls=True)).status == 302


class TestBasicAuth:
    OPTIONS = TunnelOptions(basic_auth=HASH)

    def test_who_shows_nothing_is_asked_for_a_name_and_a_password(self) -> None:
        found = answer(self.OPTIONS, request())
        assert (found.status, found.code) == (401, "credentials.required")
        assert found.fields == ('WWW-Authenticate: Basic realm="shop.example.test", charset="UTF-8"',)

    def test_credentials_that_are_not_known_have_to_be_worked_out(self) -> None:
        found = verdict(self.OPTIONS, request("/", basic("anna:öffne dich")))
        assert isinstance(found, Check)
        assert (found.text, found.hash, found.right) == ("anna:öffne dich", HASH, None)
        assert (found.wrong.status, found.wrong.code) == (401, "credentials.wrong")
        assert "dich" not in repr(found)

    def test_known_credentials_pass(self) -> None:
        assert verdict(self.OPTIONS, request("/", basic("anna:x")), known=("anna:x",)) is None

    @pytest.mark.parametrize(
        ("headers", "text"),
        [
            ([], None),
            ([(b"Authorization", b"Bearer abc")], None),
            ([(b"Authorization", b"Basic")], None),
            ([(b"Authorization", b"Basic %%%")], None),
            ([basic("no colon")], None),
            ([basic("a:b"), basic("a:b")], None),
            ([basic("a:b:c", b"bAsIc")], "a:b:c"),
            ([basic("a:ü".encode("latin-1"))], "a:ü"),
            ([basic(":")], ":"),
        ],
    )
    def test_what_counts_as_credentials(self, headers: Headers, text: str | None) -> None:
        assert credentials_of(headers) == text


class TestPassword:
    OPTIONS = TunnelOptions(password=HASH, page=Page("Back room", "https://cdn.test/l.png", "https://example.test/"))

    def test_a_visitor_without_a_cookie_gets_the_page(self) -> None:
        found = answer(self.OPTIONS, request("/a?b=c"))
        assert (found.status, found.code) == (401, "password.required")
        assert found.form == PasswordForm("shop.example.test", "/a?b=c", page=self.OPTIONS.page or Page())

    def test_a_post_is_not_repeated_after_the_page(self) -> None:
        form = answer(self.OPTIONS, request("/pay", method=b"POST")).form
        assert form is not None
        assert form.then == "/"

    @pytest.mark.parametrize("target", ["//evil.test/", "/\\evil.test/", "/" + "a" * 5000])
    def test_the_page_leads_to_no_other_host(self, target: str) -> None:
        form = answer(self.OPTIONS, request(target)).form
        assert form is not None
        assert form.then == "/"

    def test_a_good_cookie_passes_also_among_bad_ones(self) -> None:
        bad = cookie(key=b"another")
        assert verdict(self.OPTIONS, request("/", (b"Cookie", cookie()))) is None
        assert verdict(self.OPTIONS, request("/", (b"cookie", b"a=b; " + bad + b";" + cookie() + b"; c=d"))) is None

    @pytest.mark.parametrize(
        "value",
        [
            cookie(host="other.example.test"),
            cookie(hash_="scrypt$another"),
            cookie(until=NOW - 1),
            cookie(key=b"another"),
            cookie()[:-1],
            cookie() + b"A",
            f"{COOKIE}=".encode(),
            f"{COOKIE}=.".encode(),
            f"{COOKIE}=99999999999999999999.AA".encode(),
            COOKIE.encode() + "=٣.x".encode(),
            b"x" + cookie(),
            b"; ".join([cookie(key=b"another")] * 10 + [cookie()]),
        ],
    )
    def test_any_other_cookie_does_not(self, value: bytes) -> None:
        assert answer(self.OPTIONS, request("/", (b"Cookie", value))).status == 401

    def test_the_form_is_read_before_it_is_judged(self) -> None:
        asked = request(FORM_PATH, *FORM, (b"Content-Length", b"20"), method=b"POST")
        assert verdict(self.OPTIONS, asked) is WANTS_FORM

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ([(b"Content-Length", b"5")], 415),
            ([(b"Content-Type", b"application/json"), (b"Content-Length", b"5")], 415),
            ([*FORM, *FORM, (b"Content-Length", b"5")], 415),
            ([*FORM, (b"Content-Length", b"0")], 411),
            ([*FORM, (b"Transfer-Encoding", b"chunked")], 411),
            ([*FORM, (b"Content-Length", b"%d" % (FORM_MAX + 1))], 413),
        ],
    )
    def test_what_is_no_form_of_ours_is_refused_by_its_head(self, headers: Headers, status: int) -> None:
        assert answer(self.OPTIONS, request(FORM_PATH, *headers, method=b"POST")).status == status

    def test_who_comes_back_to_the_form_is_led_on(self) -> None:
        assert answer(self.OPTIONS, request(FORM_PATH, (b"Cookie", cookie()))).location == "/"
        assert answer(self.OPTIONS, request(FORM_PATH)).status == 401

    def test_the_right_password_gives_a_cookie_that_lasts_a_day(self) -> None:
        found = judged_form({"password": "pä$$ word", "next": "/a?b=c"})
        assert isinstance(found, Check)
        assert (found.text, found.hash) == ("pä$$ word", HASH)
        assert found.right is not None
        assert (found.right.status, found.right.location) == (303, "/a?b=c")
        (line,) = found.right.fields
        name, _, value = line.partition(": ")
        assert name == "Set-Cookie"
        assert value.endswith("; Max-Age=86400; Path=/; HttpOnly; SameSite=Lax")
        sent = [(b"Cookie", value.partition(";")[0].encode())]
        assert has_cookie(sent, "shop.example.test", HASH, NOW + COOKIE_S - 2, KEY)
        assert not has_cookie(sent, "shop.example.test", HASH, NOW + COOKIE_S + 1, KEY)

    def test_over_tls_the_cookie_stays_there(self) -> None:
        found = judged_form({"password": "x"}, tls=True)
        assert isinstance(found, Check)
        assert found.right is not None
        assert found.right.fields[0].endswith("; Secure")

    def test_the_wrong_password_gets_the_page_again(self) -> None:
        found = judged_form({"password": "x", "next": "/a"})
        assert isinstance(found, Check)
        assert found.wrong.status == 401
        assert found.wrong.form is not None
        assert (found.wrong.form.news, found.wrong.form.then) == ("That is not the password.", "/a")
        assert found.wrong.fields[0].startswith("WWW-Authenticate: ")

    @pytest.mark.parametrize(
        "target", ["https://evil.test/", "//evil.test", "/\\evil.test", "/a\r\nX: y", "", "a", "/ä"]
    )
    def test_a_form_made_elsewhere_cannot_lead_elsewhere(self, target: str) -> None:
        found = judged_form({"password": "x", "next": target})
        assert isinstance(found, Check)
        assert found.right is not None
        assert found.right.location == "/"

    @pytest.mark.parametrize("body", [b"\xff\xfe", b"&".join([b"a=b"] * 9)])
    def test_a_form_that_cannot_be_read_is_refused(self, body: bytes) -> None:
        found = judge_form(self.OPTIONS, request(FORM_PATH, method=b"POST"), body, now=NOW, key=KEY)
        assert isinstance(found, Answer)
        assert found.status == 400

    def test_a_form_without_a_password_is_a_wrong_one(self) -> None:
        found = judged_form({"next": "/"})
        assert isinstance(found, Check)
        assert found.text == ""

    def test_a_password_that_was_taken_away_meanwhile_is_not_asked_for(self) -> None:
        found = judge_form(TunnelOptions(), request(FORM_PATH, method=b"POST"), b"password=x", now=NOW, key=KEY)
        assert isinstance(found, Answer)
        assert (found.status, found.location) == (303, "/")

    def test_both_kinds_are_asked_for_one_after_the_other(self) -> None:
        options = TunnelOptions(basic_auth=HASH, password=HASH)
        assert answer(options, request()).code == "credentials.required"
        assert answer(options, request("/", basic("a:b")), known=("a:b",)).code == "password.required"
        assert verdict(options, request("/", basic("a:b"), (b"Cookie", cookie())), known=("a:b",)) is None


def judged_form(fields: dict[str, str], **more: Any) -> Verdict:
    asked = request(FORM_PATH, *FORM, method=b"POST", **more)
    return judge_form(TunnelOptions(password=HASH), asked, urlencode(fields).encode(), now=NOW, key=KEY)


class TestWhatTheUpstreamSees:
    HEADERS: ClassVar[Headers] = [
        (b"Host", b"a.test"),
        basic("a:b"),
        (b"Cookie", b"a=b; " + cookie() + b"; c=d"),
        (b"COOKIE", cookie()),
    ]

    def test_without_rules_it_sees_everything(self) -> None:
        assert without_credentials(TunnelOptions(keep=True), self.HEADERS) is self.HEADERS

    def test_it_does_not_see_what_was_meant_for_us(self) -> None:
        kept = without_credentials(TunnelOptions(basic_auth=HASH, password=HASH), self.HEADERS)
        assert kept == [(b"Host", b"a.test"), (b"Cookie", b"a=b; c=d")]

    def test_an_authorization_that_we_do_not_ask_for_is_its_own(self) -> None:
        kept = without_credentials(TunnelOptions(password=HASH), self.HEADERS)
        assert [name for name, _ in kept] == [b"Host", b"Authorization", b"Cookie"]


class TestThePage:
    def test_nothing_that_a_publisher_or_visitor_says_becomes_markup(self) -> None:
        evil = '"><script>alert(1)</script>'
        form = PasswordForm("a.test", f"/{evil}", evil, Page(evil, f"https://a.test/{evil}", f"https://a.test/{evil}"))
        shown = form.html("id")
        assert "<script" not in shown
        assert shown.count("&lt;script") == 7

    def test_a_logo_is_allowed_by_its_origin_alone(self) -> None:
        form = PasswordForm("a.test", "/", page=Page(logo_url="https://cdn.test:8443/a/logo.png"))
        assert "; img-src https://cdn.test:8443" in form.policy
        assert '<img src="https://cdn.test:8443/a/logo.png"' in form.html("id")

    @pytest.mark.parametrize(
        "url", ["https://a;script-src'*'/", "https://u:p@a.test/", "ftp://a.test/", "https://[/", ""]
    )
    def test_a_logo_without_a_plain_origin_is_left_out(self, url: str) -> None:
        form = PasswordForm("a.test", "/", page=Page(logo_url=url))
        assert "img-src" not in form.policy
        assert "<img" not in form.html("id")
