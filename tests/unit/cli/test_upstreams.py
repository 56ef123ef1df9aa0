import pytest

from moongate.cli.outcome import UsageError
from moongate.cli.upstreams import Local, parse_local


@pytest.mark.parametrize(
    ("text", "kind", "local"),
    [
        ("3000", "http", Local("http", "localhost", 3000)),
        ("3000", "tcp", Local("tcp", "localhost", 3000)),
        (" 3000 ", "tls", Local("tcp", "localhost", 3000)),
        ("db.internal:5432", "tcp", Local("tcp", "db.internal", 5432)),
        ("[::1]:8080", "http", Local("http", "::1", 8080)),
        ("http://10.0.0.7:8080", "http", Local("http", "10.0.0.7", 8080)),
        ("http://intranet/", "http", Local("http", "intranet", 80)),
        ("https://intranet", "http", Local("https", "intranet", 443)),
        ("https://[fe80::1]:8443", "http", Local("https", "fe80::1", 8443)),
        ("tcp://db:5432", "tcp", Local("tcp", "db", 5432)),
        ("53", "udp", Local("udp", "localhost", 53)),
        ("10.0.0.7:53", "udp", Local("udp", "10.0.0.7", 53)),
        ("udp://[::1]:53", "udp", Local("udp", "::1", 53)),
        ("HTTP://Intranet:80", "http", Local("http", "Intranet", 80)),
    ],
)
def test_a_port_an_address_or_a_url_names_a_service(text: str, kind: str, local: Local) -> None:
    assert parse_local(text, kind) == local


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "http"),
        ("0", "http"),
        ("65536", "tcp"),
        ("localhost", "http"),
        ("localhost:", "http"),
        (":3000", "http"),
        ("a b:3000", "http"),
        ("-x:3000", "tcp"),
        ("[::1]", "tcp"),
        ("٣٠٠٠", "http"),
        ("host:٣٠", "http"),
        ("ftp://host:21", "http"),
        ("http://host:80", "tcp"),
        ("tcp://host", "tcp"),
        ("tcp://host:53", "udp"),
        ("udp://host:53", "tcp"),
        ("http://host:80/path", "http"),
        ("http://me@host:80", "http"),
        ("http://host:80?x", "http"),
        ("http://host:port", "http"),
    ],
)
def test_what_names_no_service_is_refused_with_a_hint(text: str, kind: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_local(text, kind)
    assert refused.value.hint


@pytest.mark.parametrize("text", ["http://localhost:3000", "https://[::1]:443"])
def test_a_service_is_shown_as_its_url(text: str) -> None:
    assert str(parse_local(text, "http")) == text
    assert str(parse_local("db:5432", "tcp")) == "db:5432"
