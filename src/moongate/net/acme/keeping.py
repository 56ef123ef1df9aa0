"""Which names want a certificate, how it is with each, and the work that gets and renews them.

The state lives in the loop; the conversation with the authority is handed, request by request, to one thread.
"""

import asyncio
import ssl
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeVar

from moongate.errors import ConfigurationError, MoongateError
from moongate.net.acme.proofs import Kind, Proof, proof_context
from moongate.net.acme.store import AcmeStore, Pair
from moongate.net.acme.timing import renew_at, retry_after_s
from moongate.net.acme.worker import Worker
from moongate.net.certificates import Certificates
from moongate.tasks import TaskSet
from moongate.telemetry import get_logger

if TYPE_CHECKING:
    from moongate.net.acme.client import Order

log = get_logger(__name__)
T = TypeVar("T")

State = Literal["none", "pending", "ready", "failed"]

ORDERS_AT_A_TIME: Final = 8
ORDERS_IN_WINDOW: Final = 300
WINDOW_S: Final = 3 * 3600.0
"""What Let's Encrypt bears of one account; whoever may claim names could otherwise use it up for all."""

FAILURES_KEPT: Final = 4096
"""Names whose last failure is remembered, so that nobody who leaves and comes back makes us ask too often."""

POLL_FIRST_S: Final = 0.5
POLL_MOST_S: Final = 5.0
PROOF_TIMEOUT_S: Final = 120.0
ISSUE_TIMEOUT_S: Final = 120.0
LOOK_AGAIN_S: Final = 60.0
"""The wall clock may jump: what is due is looked at this often at least."""


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    """How it is with a name's certificate; `not_after` in seconds since 1970, None while there is none."""

    state: State
    message: str = ""
    not_after: float | None = None


class Authority(Protocol):
    """Who gives certificates; every call blocks."""

    def begin(self, name: str, kind: Kind) -> "Order": ...
    def answer(self, order: "Order") -> None: ...
    def is_proven(self, order: "Order") -> bool: ...
    def finalize(self, order: "Order") -> None: ...
    def fetch(self, order: "Order") -> bytes | None: ...
    def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class _Entry:
    """One name that wants a certificate; times are seconds since 1970."""

    name: str
    status: CertificateStatus
    due_at: float
    loaded: bool = False
    busy: bool = False


class NoAuthority:
    """Stands where no directory is set: whoever wants a certificate is told so."""

    orders = 0
    failures = 0

    def __init__(self) -> None:
        self._wanted: dict[str, CertificateStatus] = {}

    def want(self, name: str) -> CertificateStatus:
        reason = "this node has no certificate authority; its administrator can set acme.directory"
        return self._wanted.setdefault(name, CertificateStatus("failed", reason))

    def resume(self, names: Iterable[str]) -> None:
        """There is no certificate of before that could be shown."""

    def unwant(self, name: str) -> bool:
        return self._wanted.pop(name, None) is not None

    def statuses(self) -> dict[str, CertificateStatus]:
        return dict(self._wanted)

    def retry(self) -> None:
        """There is nobody to ask."""

    async def run(self) -> None:
        """There is nothing to do."""

    async def aclose(self) -> None:
        """There is nothing to stop."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """How often in a row a name got no certificate, why the last time, and when to try again (epoch)."""

    count: int
    text: str
    again_at: float


class CertificateKeeper:
    """Gets certificates for the names that want one, and renews them in time."""

    def __init__(
        self,
        *,
        store: AcmeStore,
        authority: Authority,
        certificates: Certificates,
        proofs: dict[str, bytes],
        kinds: Iterable[Kind],
        on_change: Callable[[str, CertificateStatus], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        """`proofs` is what the edge answers under /.well-known/acme-challenge/, by token."""
        self.orders = 0
        self.failures = 0
        self._store = store
        self._authority = authority
        self._certificates = certificates
        self._proofs = proofs
        self._kinds = list(kinds)
        self._on_change = on_change
        self._now = now
        self._entries: dict[str, _Entry] = {}
        self._failed: OrderedDict[str, _Failure] = OrderedDict()
        self._begun: deque[float] = deque()  # when orders were begun, in the window
        self._work = asyncio.Event()
        self._tasks = TaskSet("certificates by ACME")
        # One thread: the library's client keeps its nonces and connections without a lock.
        self._worker = Worker("acme")

    def want(self, name: str) -> CertificateStatus:
        """Get a certificate for this name and keep it valid; return how it is with it now."""
        entry = self._entries.get(name)
        if entry is None:
            entry = self._entries[name] = _Entry(name, CertificateStatus("pending", "being looked for"), 0.0)
            self._work.set()
        return entry.status

    def resume(self, names: Iterable[str]) -> None:
        """Care for those of the names that had a certificate before a restart, while their agents are not back."""
        for name in names:
            if self._store.has(name):
                self.want(name)

    def unwant(self, name: str) -> bool:
        """Care for this name no more, and say whether we did; its file stays for the case that it comes back."""
        if self._entries.pop(name, None) is None:
            return False
        self._certificates.drop_pair(name, source="acme")
        return True

    def status(self, name: str) -> CertificateStatus:
        """How it is with the certificate of a name."""
        entry = self._entries.get(name)
        return entry.status if entry is not None else CertificateStatus("none")

    def statuses(self) -> dict[str, CertificateStatus]:
        """Return how it is with every name that wants a certificate."""
        return {entry.name: entry.status for entry in self._entries.values()}

    async def run(self) -> None:
        """Do what is due, until cancelled."""
        removed = await asyncio.to_thread(self._store.remove_expired, self._now())
        if removed:
            log.info("files of certificates that ended long ago were removed", files=removed)
        while True:
            self._work.clear()
            wait_s = self._start_due()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._work.wait()

    def look(self) -> None:
        """Look at once at what is due."""
        self._work.set()

    def retry(self) -> None:
        """Try at once again what has failed: somebody has mended it."""
        now = self._now()
        for name in self._failed:
            if (entry := self._entries.get(name)) is not None:
                entry.due_at = min(entry.due_at, now)
        self._failed.clear()
        self._work.set()

    async def aclose(self) -> None:
        """Stop; a request that is under way is not waited for."""
        await self._tasks.aclose()
        self._worker.close(self._authority.close)

    # -- what is due

    def _start_due(self) -> float:
        """Begin what is due as far as there is room, and return after how many seconds to look again."""
        now = self._now()
        idle = [entry for entry in self._entries.values() if not entry.busy]
        due = [entry for entry in idle if entry.due_at <= now]
        for entry in due[: max(0, ORDERS_AT_A_TIME - len(self._tasks))]:
            entry.busy = True
            self._tasks.start(entry.name, self._attend(entry))
        later = min((entry.due_at for entry in idle if entry.due_at > now), default=now + LOOK_AGAIN_S)
        return min(max(later - now, 0.0), LOOK_AGAIN_S)

    async def _attend(self, entry: _Entry) -> None:
        try:
            await self._attend_to(entry)
        except MoongateError as error:
            self._fail(entry, error.message, error.hint, limited=getattr(error, "limited", False))
        except Exception:
            self._fail(entry, "this node made a mistake; its log says more", "")
            raise
        finally:
            entry.busy = False
            asyncio.get_running_loop().call_soon(self._work.set)  # by then this task has left the set

    async def _attend_to(self, entry: _Entry) -> None:
        if not entry.loaded:
            await self._load(entry)
            if entry.due_at > self._now():
                return
        if self._waits_its_turn(entry):
            return
        if entry.status.state != "ready":
            self._tell(entry, CertificateStatus("pending", "the authority is being asked"))
        self.orders += 1
        pair = await self._obtain(entry.name)
        try:
            await asyncio.to_thread(self._store.save, entry.name, pair)
        except ConfigurationError as error:
            # It is good all the same, and another order would end here too.
            log.error("a certificate was not kept, after a restart it is ordered again", reason=error.message)
        self._failed.pop(entry.name, None)
        self._install(entry, pair)
        log.info("a certificate is there", name=entry.name, not_after=pair.not_after)

    def _waits_its_turn(self, entry: _Entry) -> bool:
        """Count one more order, or put the name off: the account is everybody's, and nobody may use up what it bears."""
        now, begun = self._now(), self._begun
        while begun and not now - WINDOW_S < begun[0] <= now:  # of long ago, or from before a clock was set back
            begun.popleft()
        if len(begun) < ORDERS_IN_WINDOW:
            begun.append(now)
            return False
        entry.due_at = begun[0] + WINDOW_S
        if entry.status.state != "ready":
            text = f"waits its turn: {ORDERS_IN_WINDOW} certificates were asked for in {WINDOW_S / 3600:g} hours"
            self._tell(entry, CertificateStatus("pending", text))
        return True

    async def _load(self, entry: _Entry) -> None:
        """Take up what is known of a name: its certificate of before, and how often there was none."""
        pair = await asyncio.to_thread(self._store.load, entry.name)
        entry.loaded = True
        if pair is not None and self._now() < pair.not_after:
            self._install(entry, pair)
        failure = self._failed.get(entry.name)
        if failure is not None:
            entry.due_at = max(entry.due_at, failure.again_at)
            self._tell(entry, self._status_after(entry, failure))

    def _install(self, entry: _Entry, pair: Pair) -> None:
        if self._entries.get(entry.name) is not entry:
            return  # nobody wants it any more
        self._certificates.set_pair(entry.name, pair.chain, pair.key, source="acme")
        entry.due_at = renew_at(pair.not_before, pair.not_after)
        self._tell(entry, CertificateStatus("ready", not_after=pair.not_after))

    def _fail(self, entry: _Entry, reason: str, hint: str, *, limited: bool = False) -> None:
        self.failures += 1
        before = self._failed.pop(entry.name, None)
        count = before.count + 1 if before is not None else 1
        wait_s = retry_after_s(count, limited=limited)
        failure = _Failure(count, f"{reason}; {hint}" if hint else reason, self._now() + wait_s)
        self._failed[entry.name] = failure
        while len(self._failed) > FAILURES_KEPT:
            self._failed.popitem(last=False)
        entry.due_at = failure.again_at
        log.warning("no certificate", name=entry.name, reason=reason, hint=hint, failures=count, again_in_s=wait_s)
        self._tell(entry, self._status_after(entry, failure))

    def _status_after(self, entry: _Entry, failure: _Failure) -> CertificateStatus:
        """A certificate that is still good stays what visitors see, while its renewal fails."""
        not_after = entry.status.not_after
        is_good = not_after is not None and self._now() < not_after
        return CertificateStatus("ready" if is_good else "failed", failure.text, not_after)

    def _tell(self, entry: _Entry, status: CertificateStatus) -> None:
        entry.status = status
        if self._entries.get(entry.name) is entry:
            self._on_change(entry.name, status)

    # -- one order

    async def _obtain(self, name: str) -> Pair:
        """Return a new certificate, proven in the first way that succeeds.

        Raises:
            OrderFailed: If there is none.
        """
        from moongate.net.acme.client import ProofFailed  # the library behind it is loaded only where it is used

        failures: list[ProofFailed] = []
        for kind in tuple(self._kinds):
            try:
                pair = await self._obtain_by(name, kind)
            except ProofFailed as failure:
                failures.append(failure)
                continue
            # What has worked for one name is tried first for the next.
            self._kinds.sort(key=lambda known: known != kind)
            return pair
        raise ProofFailed(
            "; ".join(failure.message for failure in failures),
            hint="; ".join(failure.hint for failure in failures if failure.hint),
        )

    async def _obtain_by(self, name: str, kind: Kind) -> Pair:
        order = await self._worker.call(self._authority.begin, name, kind)
        if order.proof is not None:
            async with self._shown(order.proof):
                await self._worker.call(self._authority.answer, order)
                await self._poll(lambda: self._authority.is_proven(order), PROOF_TIMEOUT_S, f"a look at {name}")
        await self._worker.call(self._authority.finalize, order)
        chain = await self._poll(lambda: self._authority.fetch(order), ISSUE_TIMEOUT_S, f"a certificate for {name}")
        return _pair_of(name, chain, order.key)

    @asynccontextmanager
    async def _shown(self, proof: Proof) -> AsyncIterator[None]:
        """Show a proof to whoever asks for it, as long as it is awaited."""
        if proof.kind == "http-01":
            self._proofs[proof.token] = proof.key_authorization.encode()
        else:
            self._certificates.show_proof(proof.name, self._proof_context(proof))
        try:
            yield
        finally:
            if proof.kind == "http-01":
                self._proofs.pop(proof.token, None)
            else:
                self._certificates.hide_proof(proof.name)

    def _proof_context(self, proof: Proof) -> ssl.SSLContext:
        return proof_context(proof, self._store.folder)

    async def _poll(self, ask: Callable[[], T | None], timeout_s: float, what: str) -> T:
        """Ask until there is an answer, less and less often.

        Raises:
            OrderFailed: If there is none in time.
        """
        from moongate.net.acme.client import OrderFailed

        loop = asyncio.get_running_loop()
        deadline, wait_s = loop.time() + timeout_s, POLL_FIRST_S
        while not (answer := await self._worker.call(ask)):
            if loop.time() > deadline:
                raise OrderFailed(f"the authority was waited for {timeout_s:g} s in vain: {what}")
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 1.5, POLL_MOST_S)
        return answer


def _pair_of(name: str, chain: bytes, key: bytes) -> Pair:
    from moongate.net.acme.client import OrderFailed

    try:
        return Pair.of(chain, key)
    except ValueError as error:
        raise OrderFailed(f"what the authority made for {name} cannot be used: {error}") from None
