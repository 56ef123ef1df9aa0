"""Passwords that are worked out beside the loop."""

import asyncio
import threading

import pytest

from moongate.edge.ingress.gate import (
    KNOWN_MAX,
    THREADS,
    TRIES_AT_ONCE,
    TRY_EVERY_S,
    WAITING_MAX,
    WAITING_PER_NAME_MAX,
    Gate,
)
from moongate.edge.ingress.password_page import PasswordForm
from moongate.edge.ingress.rules import Answer, Check
from moongate.tasks import TaskSet

RIGHT = Answer(303, "right", "right")
WRONG = Answer(401, "wrong", "wrong", form=PasswordForm("a.test", "/there"))


class Hashes:
    """Takes no time, or waits until it may go on; counts what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.at_once = 0
        self.most_at_once = 0
        self.go = threading.Event()
        self.go.set()
        self._lock = threading.Lock()

    def verify(self, text: str, hash: str) -> bool:  # noqa: A002 - as what it stands in for
        assert threading.current_thread() is not threading.main_thread(), "the loop waits for a password"
        with self._lock:
            self.asked.append(text)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.go.wait(10)
        with self._lock:
            self.at_once -= 1
        return text == hash


class Door:
    """A gate whose clock stands where the test puts it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.hashes = Hashes()
        self.tasks = TaskSet("test")
        self.gate = Gate(b"key", self.tasks, now=lambda: self.now, verify=self.hashes.verify)

    def ask(self, text: str, *, name: str = "a.test", address: str = "192.0.2.1") -> "asyncio.Future[Answer | None]":
        answered: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self.gate.check(name, address, Check(text, "open", WRONG, RIGHT), answered.set_result)
        assert not answered.done(), "the answer came before the question had been asked to its end"
        return answered

    async def status(self, text: str, **more: str) -> int:
        answer = await self.ask(text, **more)
        assert answer is not None
        return answer.status


async def test_what_was_found_right_is_known_from_then_on_and_the_wrong_is_not() -> None:
    door = Door()
    assert not door.gate.knows("open", "open")
    assert await door.status("open") == 303
    assert door.gate.knows("open", "open")
    assert not door.gate.knows("open", "another hash")
    assert await door.status("shut") == 401
    assert not door.gate.knows("shut", "open")


async def test_what_is_asked_twice_at_a_time_is_worked_out_once() -> None:
    door = Door()
    answers = await asyncio.gather(*[door.ask("open") for _ in range(50)])
    assert answers == [RIGHT] * 50
    assert door.hashes.asked == ["open"]


async def test_one_address_may_err_so_many_times_and_then_slowly() -> None:
    door = Door()
    assert [await door.status(f"wrong {number}") for number in range(TRIES_AT_ONCE)] == [401] * TRIES_AT_ONCE
    answer = await door.ask("open")
    assert answer is not None
    assert (answer.status, answer.retry_after_s) == (429, TRY_EVERY_S + 1)
    assert answer.form is not None
    assert answer.form.then == "/there"
    assert answer.form.news == "Too many wrong passwords from this address. Try again in 7 seconds."
    assert len(door.hashes.asked) == TRIES_AT_ONCE
    # Elsewhere, and from elsewhere, nothing has happened.
    assert await door.status("open", address="192.0.2.2") == 303
    assert await door.status("wrong", name="b.test") == 401
    door.now += TRY_EVERY_S
    assert await door.status("wrong again") == 401
    assert await door.status("wrong again") == 429


async def test_an_address_is_counted_also_while_its_tries_are_worked_out() -> None:
    door = Door()
    door.hashes.go.clear()
    answers = [door.ask(f"wrong {number}") for number in range(TRIES_AT_ONCE + 5)]
    await asyncio.sleep(0)
    door.hashes.go.set()
    statuses = [answer.status if answer is not None else 0 for answer in await asyncio.gather(*answers)]
    assert statuses == [401] * TRIES_AT_ONCE + [429] * 5


async def test_the_right_password_costs_no_try() -> None:
    door = Door()
    for number in range(3 * TRIES_AT_ONCE):
        door.gate._known.clear()
        assert await door.status("open") == 303, number


async def test_few_threads_work_and_few_questions_wait() -> None:
    door = Door()
    door.hashes.go.clear()
    at_one = [door.ask(f"{n}", address=f"192.0.2.{n}") for n in range(WAITING_PER_NAME_MAX + 3)]
    others = [door.ask(f"{n}", address=f"192.0.2.{n}", name=f"{n}.test") for n in range(100, 100 + WAITING_MAX)]
    await asyncio.sleep(0)
    door.hashes.go.set()
    answers = [answer for answer in await asyncio.gather(*at_one) if answer is not None]
    assert [answer.status for answer in answers].count(429) == 3
    statuses = [answer.status for answer in await asyncio.gather(*others) if answer is not None]
    assert statuses.count(401) + WAITING_PER_NAME_MAX == WAITING_MAX
    assert door.hashes.most_at_once <= THREADS
    assert await door.status("open", address="192.0.2.200") == 303


async def test_what_is_remembered_is_bounded() -> None:
    door = Door()
    for number in range(KNOWN_MAX + 10):
        door.gate._remember(door.gate._digest(str(number), "open"))
    assert len(door.gate._known) == KNOWN_MAX
    assert not door.gate.knows("0", "open")
    assert door.gate.knows("10", "open")


async def test_a_visitor_is_answered_also_when_the_working_out_fails(caplog: pytest.LogCaptureFixture) -> None:
    def fail(text: str, hash: str) -> bool:  # noqa: A002 - as what it stands in for
        raise MemoryError

    door = Door()
    door.gate = Gate(b"key", door.tasks, now=lambda: door.now, verify=fail)
    assert await door.status("open") == 429
    assert "password" in caplog.text
