"""Passwords of visitors, worked out beside the loop: the right ones are remembered, the wrong ones slow down.

What is asked, and of whom, is decided in edge.ingress.rules. Each hash costs a thread a quarter of a second, so the
same question asked twice at a time is worked out once, and how many wait for a thread is bounded.
"""

import asyncio
import hmac
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from moongate.edge.ingress.rules import Answer, Check
from moongate.edge.limits import RateLimits, address_key
from moongate.identity.passwords import verify_password
from moongate.tasks import TaskSet

log = structlog.get_logger(__name__)

# Wrong tries of one address at one name: so many at once, then one in each TRY_EVERY_S.
TRIES_AT_ONCE: Final = 10
TRY_EVERY_S: Final = 6.0
KNOWN_MAX: Final = 10_000
# A thread of ours is the processor's; the loop has to have what is left of it.
THREADS: Final = 2
WAITING_MAX: Final = 64
# One name that is being attacked leaves room for those who log in elsewhere.
WAITING_PER_NAME_MAX: Final = 16
BUSY_RETRY_S: Final = 2


class Gate:
    """Which passwords are known to be right, and who may try another."""

    def __init__(
        self,
        key: bytes,
        tasks: TaskSet,
        *,
        now: Callable[[], float] = time.monotonic,
        verify: Callable[[str, str], bool] = verify_password,
    ) -> None:
        """`key` signs the cookies of visitors who gave the password."""
        self.key = key
        self._tasks = tasks
        self._now = now
        self._verify = verify
        # Of this run only: what is remembered must be worth nothing to whoever reads our memory later.
        self._own_key = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._tries = RateLimits(1 / TRY_EVERY_S, depth_s=TRIES_AT_ONCE * TRY_EVERY_S)
        self._working: dict[bytes, asyncio.Task[bool]] = {}
        self._waiting: Counter[str] = Counter()
        self._threads = asyncio.Semaphore(THREADS)

    def knows(self, text: str, hash: str) -> bool:  # noqa: A002 - it is one
        """Whether this was found to be the password of that hash."""
        digest = self._digest(text, hash)
        if digest not in self._known:
            return False
        self._known.move_to_end(digest)
        return True

    def check(self, name: str, address: str, check: Check, done: Callable[[Answer | None], None]) -> None:
        """Find out whether a password is right, and call `done`, never at once, with what then comes of the request."""
        digest = self._digest(check.text, check.hash)
        work = self._working.get(digest)
        if work is None:
            refusal = self._refusal(name, address, check)
            if refusal is not None:
                asyncio.get_running_loop().call_soon(done, refusal)
                return
            work = self._working[digest] = self._tasks.start("password", self._work(digest, name, address, check))
            self._waiting[name] += 1
            work.add_done_callback(lambda _: self._settle(digest, name))
        work.add_done_callback(lambda work: done(_outcome(work, check)))

    def _refusal(self, name: str, address: str, check: Check) -> Answer | None:
        if self._waiting.total() >= WAITING_MAX or self._waiting[name] >= WAITING_PER_NAME_MAX:
            return _later(check, "too many passwords are being checked", BUSY_RETRY_S)
        # Paid before it is known to be wrong, or a thousand tries at a time would cost nothing.
        wait = self._tries.allow((name, address_key(address)), self._now())
        return _later(check, "too many wrong passwords from this address", int(wait) + 1) if wait else None

    async def _work(self, digest: bytes, name: str, address: str, check: Check) -> bool:
        async with self._threads:
            is_right = await asyncio.to_thread(self._verify, check.text, check.hash)
        if is_right:
            self._tries.give_back((name, address_key(address)))
            self._remember(digest)
        else:
            log.info("wrong password", name=name, address=address)
        return is_right

    def _settle(self, digest: bytes, name: str) -> None:
        del self._working[digest]
        self._waiting[name] -= 1
        if not self._waiting[name]:
            del self._waiting[name]

    def _remember(self, digest: bytes) -> None:
        self._known[digest] = None
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    def _digest(self, text: str, hash: str) -> bytes:  # noqa: A002 - it is one
        return hmac.digest(self._own_key, f"{hash}\0{text}".encode("utf-8", "surrogatepass"), "sha256")


def _outcome(work: asyncio.Task[bool], check: Check) -> Answer | None:
    if work.cancelled() or work.exception() is not None:
        return _later(check, "the password could not be checked", BUSY_RETRY_S)
    return check.right if work.result() else check.wrong


def _later(check: Check, message: str, retry_after_s: int) -> Answer:
    hint = f"Try again in {retry_after_s} seconds."
    form = check.wrong.form
    if form is not None:
        form = replace(form, news=f"{message.capitalize()}. {hint}")
    return Answer(429, "limit.exceeded", message, hint=hint, form=form, retry_after_s=retry_after_s)
