"""Scopes: the table of the compatibility document, and the corners around it."""

import pytest

from moongate.errors import ScopeInvalid
from moongate.identity.scopes import SCOPE_CHARACTERS_MAX, Scope

DOMAIN = "tunnel.test"


def scope(text: str | None) -> Scope:
    return Scope.parse(text, DOMAIN)


def hex_of_ones(digits: int) -> str:
    return "1" * digits


def everything_is_free(_name: str) -> bool:
    return True


@pytest.mark.parametrize(
    ("text", "subdomain", "allowed"),
    [
        (None, "anything", True),
        ("", "anything", True),
        ("   ", "anything", True),
        ("team-*,demo", "team-7", True),
        ("team-*,demo", "demo", True),
        ("team-*,demo", "demo2", False),
        ("team-*,demo", "team", False),
        ("Team-*", "team-a", True),
        ("team-*", "TEAM-A", True),
        ("a?c", "abc", True),
        ("a?c", "abbc", False),
        (" a , b ,, ", "b", True),
        ("http", "anything", True),
        ("*.tunnel.test", "anything", True),
        ("demo.Tunnel.Test", "demo", True),
        ("tcp", "anything", False),
        ("tcp,demo", "demo", True),
    ],
)
def test_a_subdomain_is_allowed_when_a_pattern_matches(text: str | None, subdomain: str, allowed: bool) -> None:
    assert scope(text).allows(subdomain) is allowed


@pytest.mark.parametrize(
    ("text", "port", "allowed"),
    [
        (None, 20000, True),
        ("team-*", 20000, True),
        ("tcp", 20000, True),
        ("tcp:20000-20049", 20000, True),
        ("tcp:20000-20049", 20049, True),
        ("tcp:20000-20049", 20050, False),
        ("tcp:20007", 20007, True),
        ("tcp:20007", 20008, False),
        ("tcp:1-2,tcp:5-6", 5, True),
        ("udp", 20000, False),
        ("udp:20000-20049", 20000, False),
    ],
)
def test_a_port_is_allowed_unless_the_scope_names_others(text: str | None, port: int, allowed: bool) -> None:
    assert scope(text).allows_port(port) is allowed


@pytest.mark.parametrize(
    ("text", "protocols"),
    [
        (None, {"http", "tls", "tcp", "udp"}),
        ("demo", {"http", "tls", "tcp", "udp"}),
        ("tcp", {"tcp"}),
        ("udp,demo", {"http", "tls", "udp"}),
        ("http", {"http", "tls", "tcp", "udp"}),
    ],
)
def test_a_protocol_is_allowed_when_some_tunnel_of_it_could_be(text: str | None, protocols: set[str]) -> None:
    assert {name for name in ("http", "tls", "tcp", "udp") if scope(text).allows_protocol(name)} == protocols


@pytest.mark.parametrize(
    "text",
    [
        "team_7",
        "a.b.tunnel.test",
        "a..b",
        ".b",
        "a.",
        "ü",
        "a b",
        "tcp:",
        "tcp:0",
        "tcp:5-1",
        "tcp:70000",
        "sctp:1",
        ",",
        " , ,",
        "a\0",
        "[a-z]",
        "x" * (SCOPE_CHARACTERS_MAX + 1),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ScopeInvalid):
        scope(text)


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        (None, "11111111"),
        ("team-*", "team-11111111"),
        ("a?c", "a1c"),
        ("demo,team-*", "team-11111111"),
        ("*-*", "1111-1111"),
        ("demo,other", "demo"),
        ("tcp", None),
        ("-x*", None),
        ("x" * 60 + "*", "x" * 60 + "111"),
        ("x" * 64 + "*", None),
    ],
)
def test_a_name_is_drawn_that_matches(text: str | None, drawn: str | None) -> None:
    assert scope(text).draw(hex_of_ones, everything_is_free) == drawn


def test_the_first_free_literal_is_taken() -> None:
    assert scope("one,two,three").draw(hex_of_ones, lambda name: name != "one") == "two"
    assert scope("one,two").draw(hex_of_ones, lambda _name: False) is None


def test_a_drawn_name_that_is_taken_is_drawn_again() -> None:
    numbers = iter(range(100))
    drawn = scope("team-*").draw(lambda digits: f"{next(numbers):0{digits}x}", lambda name: name.endswith("5"))
    assert drawn == "team-00000005"


def test_the_text_is_kept_as_it_was_given() -> None:
    assert scope(" Team-*, demo ").text == "Team-*, demo"
    assert scope(None).text is None
    assert scope(" ").text is None
