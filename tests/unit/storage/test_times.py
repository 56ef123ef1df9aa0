"""How the database keeps time."""

from datetime import UTC, datetime, timedelta, timezone

from moongate.storage.times import from_datetime, micros_text, rfc3339, to_datetime, to_micros


def test_a_time_is_written_in_utc_with_whole_seconds_and_a_z() -> None:
    at = datetime(2026, 2, 3, 5, 6, 7, 891_000, tzinfo=timezone(timedelta(hours=1)))
    assert rfc3339(at) == "2026-02-03T04:06:07Z"
    assert rfc3339(at, timespec="milliseconds") == "2026-02-03T04:06:07.891Z"


def test_the_database_keeps_microseconds() -> None:
    at = datetime(2026, 2, 3, 4, 6, 7, 891_234, tzinfo=UTC)
    assert to_datetime(from_datetime(at)) == at
    assert to_micros(1.5) == 1_500_000
    assert micros_text(1_500_000) == "1970-01-01T00:00:01Z"
