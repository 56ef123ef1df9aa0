"""Scopes against what a regular expression says, and names drawn against the scope they are drawn from."""

import re
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from moongate.errors import ScopeInvalid
from moongate.identity.scopes import Scope, matches

names = st.text("ab-1", max_size=12)
patterns = st.text("ab-*?", min_size=1, max_size=8)


@given(patterns, names)
def test_a_glob_matches_what_its_regular_expression_matches(pattern: str, name: str) -> None:
    expression = "".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern)
    assert matches(pattern, name) is (re.fullmatch(expression, name) is not None)


@given(st.lists(st.from_regex(r"[a-z0-9*?-]{1,70}", fullmatch=True), min_size=1, max_size=4), st.integers())
def test_a_drawn_name_is_allowed_and_could_be_a_label(entries: list[str], seed: int) -> None:
    chance = Random(seed)
    scope = Scope.parse(",".join(entries), "tunnel.test")
    drawn = scope.draw(lambda digits: f"{chance.getrandbits(4 * digits):0{digits}x}", lambda _name: True)
    if drawn is not None:
        assert scope.allows(drawn)
        assert re.fullmatch(r"(?!-)[a-z0-9-]{3,63}(?<!-)", drawn)


@given(st.text(max_size=60) | st.text("tcpud:0123456789-,*?a. ", max_size=60))
def test_any_text_is_a_scope_or_refused_as_one(text: str) -> None:
    try:
        scope = Scope.parse(text, "tunnel.test")
    except ScopeInvalid:
        return
    assert scope.is_unrestricted is (not text.strip())
    if scope.text is not None:
        assert Scope.parse(scope.text, "tunnel.test") == scope


def test_many_stars_take_no_longer_than_their_product() -> None:
    assert not matches("*a" * 40 + "b", "a" * 63)
