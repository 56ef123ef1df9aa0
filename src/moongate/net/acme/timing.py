"""When a certificate is renewed, and how long to wait after a failure."""

from typing import Final

RETRY_FIRST_S: Final = 300.0
"""Public authorities bear about five failed proofs of a name in an hour."""

RETRY_MOST_S: Final = 6 * 3600.0
RETRY_LIMITED_S: Final = 3600.0
"""The least wait after the authority has said that it was asked too often."""


def renew_at(not_before: float, not_after: float) -> float:
    """Return when to renew, in seconds since 1970: with a third of the lifetime left."""
    return not_after - (not_after - not_before) / 3


def retry_after_s(failures: int, *, limited: bool = False) -> float:
    """Return the wait after the first, second, … failure in a row: five minutes, doubled up to six hours."""
    wait = min(RETRY_FIRST_S * 2.0 ** min(failures - 1, 16), RETRY_MOST_S)
    return max(wait, RETRY_LIMITED_S) if limited else wait
