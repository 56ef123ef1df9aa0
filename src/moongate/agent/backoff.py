"""How long to wait before the next attempt: quick at first, for ever in the end."""

from collections.abc import Callable
from typing import Final

FIRST_S: Final = (0.2, 0.4, 0.8)
STEADY_S: Final = 1.0
STEADY_FOR_S: Final = 120.0
MOST_S: Final = 15.0


def delay_s(attempt: int, lost_for_s: float, random: Callable[[], float]) -> float:
    """Return the wait before attempt 1, 2, …: 0.2, 0.4, 0.8, then about 1 s for two minutes, later at most 15 s.

    `random` returns a number in [0, 1); jitter keeps ten thousand agents from coming back in the same instant.
    """
    if attempt <= len(FIRST_S):
        return FIRST_S[attempt - 1]
    if lost_for_s < STEADY_FOR_S:
        return STEADY_S * (0.8 + 0.4 * random())
    # Doubles for every two minutes of absence.
    grown = min(MOST_S, 2.0 * 2 ** min(lost_for_s / STEADY_FOR_S - 1, 4))
    return grown * (0.6 + 0.4 * random())
