"""How the database keeps time: whole microseconds since 1970 UTC.

An integer sorts, compares and survives SQLite and PostgreSQL alike, and costs the drivers nothing to bind.
"""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_micros(epoch_s: float) -> int:
    """Turn seconds since 1970 into what the database keeps."""
    return int(epoch_s * 1_000_000)


def to_datetime(micros: int) -> datetime:
    """Turn what the database keeps into an aware UTC datetime."""
    return _EPOCH + timedelta(microseconds=micros)


def from_datetime(at: datetime) -> int:
    """Turn an aware datetime into what the database keeps."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def rfc3339(at: datetime, *, timespec: str = "seconds") -> str:
    """Write an aware datetime as RFC 3339 in UTC, ending in Z."""
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=timespec) + "Z"


def micros_text(micros: int, *, timespec: str = "seconds") -> str:
    """Write what the database keeps as RFC 3339 in UTC."""
    return rfc3339(to_datetime(micros), timespec=timespec)
