"""When certificates are renewed, and how patiently."""

from hypothesis import given
from hypothesis import strategies as st

from moongate.net.acme.timing import RETRY_FIRST_S, RETRY_LIMITED_S, RETRY_MOST_S, renew_at, retry_after_s

DAY = 86400.0


def test_ninety_days_are_renewed_when_thirty_are_left() -> None:
    assert renew_at(0, 90 * DAY) == 60 * DAY


@given(st.floats(0, 4e9), st.floats(1, 1e9))
def test_a_certificate_is_renewed_within_its_lifetime(not_before: float, lifetime: float) -> None:
    assert not_before <= renew_at(not_before, not_before + lifetime) <= not_before + lifetime


@given(st.integers(1, 10**6), st.booleans())
def test_waits_grow_within_their_bounds(failures: int, limited: bool) -> None:
    wait = retry_after_s(failures, limited=limited)
    assert RETRY_FIRST_S <= wait <= RETRY_MOST_S
    assert retry_after_s(failures + 1, limited=limited) >= wait


def test_a_failing_name_is_tried_at_most_five_times_in_an_hour() -> None:
    at, tries, failures = 0.0, 0, 0
    while at < 3600:
        tries, failures = tries + 1, failures + 1
        at += retry_after_s(failures)
    assert 1 < tries <= 5


def test_an_authority_that_was_asked_too_often_is_left_alone_for_an_hour() -> None:
    assert retry_after_s(1, limited=True) == RETRY_LIMITED_S
