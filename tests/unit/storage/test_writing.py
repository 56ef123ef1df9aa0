"""Writing behind, with a database that can be told to fail."""

import asyncio
import logging

import pytest

import moongate.storage.writing
from moongate.errors import StorageError
from moongate.storage.writing import WriteBehind
from testbed import until_async


class Sink:
    """Takes what is put into it, unless it is broken."""

    def __init__(self) -> None:
        self.waiting = 0
        self.written = 0
        self.broken: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.writers = self.writers_max = 0

    async def flush(self) -> None:
        self.writers += 1
        self.writers_max = max(self.writers_max, self.writers)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.broken is not None:
                raise self.broken
            self.written, self.waiting = self.written + self.waiting, 0
        finally:
            self.writers -= 1


async def test_what_waits_is_written_without_being_asked() -> None:
    sink = Sink()
    writer = WriteBehind("test", sink.flush, interval_s=0.01)
    writer.start()
    sink.waiting = 3
    await until_async(lambda: sink.written == 3)
    await writer.aclose()


async def test_the_last_is_written_when_it_closes_even_if_never_started() -> None:
    sink = Sink()
    sink.waiting = 3
    await WriteBehind("test", sink.flush, interval_s=10).aclose()
    assert sink.written == 3


async def test_an_outage_is_said_once_and_survived(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    sink = Sink()
    sink.waiting, sink.broken = 3, StorageError("the disk is full")
    writer = WriteBehind("test", sink.flush, interval_s=0.001)
    writer.start()
    await until_async(lambda: writer.failures >= 3)
    sink.broken = None
    await until_async(lambda: sink.written == 3)
    await writer.aclose()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "test: the disk is full; what is to be written is kept and tried again",
        "test: the database takes writes again",
    ]


async def test_a_defect_does_not_end_the_writer(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()
    sink.waiting, sink.broken = 3, ZeroDivisionError()
    writer = WriteBehind("test", sink.flush, interval_s=0.001)
    writer.start()
    await until_async(lambda: writer.failures >= 1)
    sink.broken = None
    await until_async(lambda: sink.written == 3)
    await writer.aclose()
    assert "writing failed" in caplog.text


async def test_closing_gives_up_on_a_database_that_stays_broken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(moongate.storage.writing, "LAST_ATTEMPTS_S", 0.01)
    sink = Sink()
    sink.broken = StorageError("the disk is full")
    await WriteBehind("test", sink.flush, interval_s=0.001).aclose()
    assert "gave up" in caplog.text


async def test_writing_now_shares_one_writer_and_does_not_outwait_its_patience() -> None:
    sink = Sink()
    sink.gate = asyncio.Event()
    writer = WriteBehind("test", sink.flush, interval_s=10)
    sink.waiting = 3
    await asyncio.gather(*(writer.write_now(0.01) for _ in range(5)))
    assert sink.written == 0
    sink.gate.set()
    await writer.aclose()
    assert (sink.written, sink.writers_max) == (3, 1)


async def test_writing_now_does_not_wait_at_all_during_an_outage() -> None:
    sink = Sink()
    sink.broken = StorageError("the disk is full")
    writer = WriteBehind("test", sink.flush, interval_s=10)
    await writer.write_now(10)
    sink.gate = asyncio.Event()
    await writer.write_now(10)
    sink.broken = None
    sink.gate.set()
    await writer.aclose()
