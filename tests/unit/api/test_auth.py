import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.api.auth import bearer_token


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer abc", "abc"),
        ("  BEARER   abc  ", "abc"),
        ("Bearer", ""),
        ("Bearer ", ""),
        ("Basic abc", ""),
        ("abc", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_only_a_bearer_credential_is_a_token(header: str | None, token: str) -> None:
    assert bearer_token(header) == token


@given(st.text())
def test_no_header_breaks_the_reading(header: str) -> None:
    assert bearer_token(header) == bearer_token(header).strip()
