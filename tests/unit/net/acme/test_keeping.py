"""Names that want a certificate get one, keep a good one, and are told how it goes; the authority is staged."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from moongate.net.acme.client import Order, OrderFailed, ProofFailed
from moongate.net.acme.keeping import WINDOW_S, CertificateKeeper, CertificateStatus, NoAuthority
from moongate.net.acme.proofs import Kind, Proof
from moongate.net.acme.store import AcmeStore
from moongate.net.acme.timing import RETRY_FIRST_S, RETRY_LIMITED_S
from moongate.net.certificates import PROOF_ALPN, Certificates
from testbed import until_async

NAME = "shop.example.test"
LIFETIME_S = 90 * 86400.0
START = datetime(2026, 6, 1, tzinfo=UTC).timestamp()


@dataclass
class Clock:
    now: float = START

    def __call__(self) -> float:
        return self.now


@dataclass
class StagedAuthority:
    """Gives what it is asked for, unless it was told to refuse."""

    clock: Clock
    refusals: list[Exception] = field(default_factory=list)
    unreachable: set[Kind] = field(default_factory=set)
    asked: list[tuple[str, Kind]] = field(default_factory=list)
    looks: list[tuple[Kind, bytes | None, bool]] = field(default_factory=list)
    delay: threading.Event | None = None
    keeper: "Kept | None" = None

    def begin(self, name: str, kind: Kind) -> Order:
        self.asked.append((name, kind))
        if self.delay is not None:
            self.delay.wait(10)
        if self.refusals:
            raise self.refusals.pop(0)
        key = _new_key()
        return Order(name, key, Proof(kind, name, "token", "token.thumbprint"), cast(Any, None), None)

    def answer(self, order: Order) -> None:
        assert self.keeper is not None
        assert order.proof is not None
        kept = self.keeper
        context = kept.certificates.proof_for(order.name, (PROOF_ALPN,))
        self.looks.append((order.proof.kind, kept.proofs.get("token"), context is not None))

    def is_proven(self, order: Order) -> bool:
        assert order.proof is not None
        if order.proof.kind in self.unreachable:
            raise ProofFailed(f"nothing there by {order.proof.kind}", hint="look at the DNS")
        return True

    def finalize(self, order: Order) -> None:
        pass

    def fetch(self, order: Order) -> bytes | None:
        return _chain(order.name, order.key, self.clock())

    def close(self) -> None:
        pass


def _new_key() -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec

    from moongate.net.acme.store import key_pem

    return key_pem(ec.generate_private_key(ec.SECP256R1()))


def _chain(name: str, key_text: bytes, now: float) -> bytes:
    key: Any = serialization.load_pem_private_key(key_text, password=None)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin = datetime.fromtimestamp(now, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(seconds=LIFETIME_S))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


@dataclass
class Kept:
    """A keeper at work, and what it said."""

    keeper: CertificateKeeper
    certificates: Certificates
    proofs: dict[str, bytes]
    said: asyncio.Queue[tuple[str, CertificateStatus]]

    async def until(self, state: str, *, message: str = "") -> CertificateStatus:
        """Wait until somebody is told this; what was said before is over."""
        async with asyncio.timeout(10):
            while True:
                _, status = await self.said.get()
                if status.state == state and message in status.message:
                    return status

    async def finds_nothing_to_do(self) -> None:
        """Let it look at what is due."""
        self.keeper.look()
        for _ in range(5):  # turns of the loop until it has looked and begun what is due
            await asyncio.sleep(0)
        assert len(self.keeper._tasks) == 0

    def has_certificate(self, name: str = NAME) -> bool:
        return self.certificates.context_for(name) is not self.certificates.context_for("nobody.example.test")


@asynccontextmanager
async def keeping(
    home: Path, authority: StagedAuthority, kinds: tuple[Kind, ...] = ("tls-alpn-01", "http-01")
) -> AsyncIterator[Kept]:
    certificates = Certificates(home, "gate.test", issuable=lambda _: False)
    proofs: dict[str, bytes] = {}
    said: asyncio.Queue[tuple[str, CertificateStatus]] = asyncio.Queue()
    keeper = CertificateKeeper(
        store=AcmeStore(home, "https://acme.example.test/directory"),
        authority=authority,
        certificates=certificates,
        proofs=proofs,
        kinds=kinds,
        on_change=lambda name, status: said.put_nowait((name, status)),
        now=authority.clock,
    )
    authority.keeper = kept = Kept(keeper, certificates, proofs, said)
    running = asyncio.create_task(keeper.run())
    try:
        yield kept
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await keeper.aclose()


@pytest.fixture
def authority() -> StagedAuthority:
    return StagedAuthority(Clock())


async def test_a_name_that_wants_a_certificate_gets_it(home: Path, authority: StagedAuthority) -> None:
    async with keeping(home, authority) as kept:
        assert kept.keeper.want(NAME).state == "pending"
        assert not kept.has_certificate()
        status = await kept.until("ready")
        assert status.not_after == START + LIFETIME_S
        assert kept.has_certificate()
        assert kept.keeper.statuses() == {NAME: status}


@pytest.mark.parametrize(
    ("kind", "look"),
    [
        ("http-01", ("http-01", b"token.thumbprint", False)),
        ("tls-alpn-01", ("tls-alpn-01", None, True)),
    ],
)
async def test_a_proof_is_shown_while_the_authority_looks_and_not_after(
    home: Path, authority: StagedAuthority, kind: Kind, look: tuple[Kind, bytes | None, bool]
) -> None:
    async with keeping(home, authority, (kind,)) as kept:
        kept.keeper.want(NAME)
        await kept.until("ready")
        assert authority.looks == [look]
        assert kept.proofs == {}
        assert kept.certificates.proof_for(NAME, (PROOF_ALPN,)) is None


async def test_a_certificate_is_taken_up_again_after_a_restart(home: Path, authority: StagedAuthority) -> None:
    async with keeping(home, authority) as kept:
        kept.keeper.want(NAME)
        before = await kept.until("ready")
    async with keeping(home, authority) as kept:
        kept.keeper.want(NAME)
        assert await kept.until("ready") == before
        assert kept.has_certificate()
    assert len(authority.asked) == 1


async def test_a_certificate_is_renewed_when_a_third_of_its_life_is_left(
    home: Path, authority: StagedAuthority
) -> None:
    async with keeping(home, authority) as kept:
        kept.keeper.want(NAME)
        await kept.until("ready")
        authority.clock.now += LIFETIME_S * 2 / 3 - 1
        await kept.finds_nothing_to_do()
        authority.clock.now += 2
        kept.keeper.look()
        assert (await kept.until("ready")).not_after == authority.clock.now + LIFETIME_S
    assert len(authority.asked) == 2


async def test_a_good_certificate_stays_ready_while_its_renewal_fails(home: Path, authority: StagedAuthority) -> None:
    async with keeping(home, authority) as kept:
        kept.keeper.want(NAME)
        before = await kept.until("ready")
        authority.clock.now += LIFETIME_S * 2 / 3 + 1
        authority.refusals = [OrderFailed("out of order")]
        kept.keeper.look()
        status = await kept.until("ready", message="out of order")
        assert status.not_after == before.not_after
        authority.refusals = [OrderFailed("still out of order")]
        authority.clock.now = START + LIFETIME_S + 1
        kept.keeper.look()
        assert (await kept.until("failed")).message == "still out of order"


async def test_after_a_failure_the_name_is_left_alone_and_then_tried_again(
    home: Path, authority: StagedAuthority
) -> None:
    authority.refusals = [OrderFailed("no", hint="do that")]
    async with keeping(home, authority) as kept:
        kept.keeper.want(NAME)
        assert (await kept.until("failed")).message == "no; do that"
        authority.clock.now += RETRY_FIRST_S - 1
        await kept.finds_nothing_to_do()
        authority.clock.now += 1
        kept.keeper.look()
        await kept.until("ready")
    assert (kept.keeper.orders, kept.keeper.failures) == (2, 1)


async def test_what_somebody_has_mended_is_tried_again_at_once(home: Path, authority: StagedAuthority) -> None:
    authority.refusals = [OrderFailed("no")]
    async with keeping(home, authority) as kept:
        kept.keeper.want(NAME)
        await kept.until("failed")
        kept.keeper.retry()
        await kept.until("ready")


async def test_names_that_had_no_certificate_before_a_restart_are_not_resumed(
    home: Path, authority: StagedAuthority
) -> None:
    async with keeping(home, authority) as kept:
        kept.keeper.want(NAME)
        await kept.until("ready")
    async with keeping(home, authority) as kept:
        kept.keeper.resume([NAME, "other.example.test", "../no name"])
        await kept.until("ready")
        assert list(kept.keeper.statuses()) == [NAME]


async def test_an_authority_that_was_asked_too_often_is_not_asked_again_soon(
    home: Path, authority: StagedAuthority
) -> None:
    authority.refusals = [OrderFailed("too many", limited=True)]
    async with keeping(home, authority) as kept:
        kept.keeper.want(NAME)
        await kept.until("failed")
        authority.clock.now += RETRY_LIMITED_S - 1
        await kept.finds_nothing_to_do()


async def test_who_leaves_and_comes_back_does_not_make_us_ask_again_at_once(
    home: Path, authority: StagedAuthority
) -> None:
    authority.refusals = [OrderFailed("no")]
    async with keeping(home, authority) as kept:
        kept.keeper.want(NAME)
        await kept.until("failed")
        kept.keeper.unwant(NAME)
        assert kept.keeper.statuses() == {}
        kept.keeper.want(NAME)
        assert (await kept.until("failed")).message == "no"
    assert len(authority.asked) == 1


async def test_where_one_way_fails_the_other_is_tried_and_kept(home: Path, authority: StagedAuthority) -> None:
    authority.unreachable = {"tls-alpn-01"}
    async with keeping(home, authority) as kept:
        kept.keeper.want(NAME)
        await kept.until("ready")
        kept.keeper.want("second.example.test")
        await kept.until("ready")
    assert [kind for _, kind in authority.asked] == ["tls-alpn-01", "http-01", "http-01"]


async def test_when_no_way_works_both_reasons_are_told(home: Path, authority: StagedAuthority) -> None:
    authority.unreachable = {"tls-alpn-01", "http-01"}
    async with keeping(home, authority) as kept:
        kept.keeper.want(NAME)
        status = await kept.until("failed")
    assert "nothing there by tls-alpn-01; nothing there by http-01" in status.message


async def test_a_name_that_is_no_longer_wanted_shows_no_certificate_even_when_it_comes_late(
    home: Path, authority: StagedAuthority
) -> None:
    authority.delay = threading.Event()
    async with keeping(home, authority) as kept:
        kept.keeper.want(NAME)
        await kept.until("pending")
        assert kept.keeper.unwant(NAME)
        assert not kept.keeper.unwant(NAME)
        authority.delay.set()
        kept.keeper.want("second.example.test")
        await kept.until("ready")
        assert not kept.has_certificate()


async def test_stopping_waits_for_no_authority(home: Path, authority: StagedAuthority) -> None:
    authority.delay = threading.Event()
    async with asyncio.timeout(5):
        async with keeping(home, authority) as kept:
            kept.keeper.want(NAME)
            await kept.until("pending")
    authority.delay.set()


async def test_a_certificate_that_cannot_be_kept_is_shown_and_not_ordered_again(
    home: Path, authority: StagedAuthority
) -> None:
    async with keeping(home, authority) as kept:
        (kept.keeper._store.folder / f".{NAME}.pem.{os.getpid()}").mkdir()  # in the way of the file's draft
        with structlog.testing.capture_logs() as logs:
            kept.keeper.want(NAME)
            await kept.until("ready")
            await until_async(lambda: len(kept.keeper._tasks) == 0)
        assert kept.has_certificate()
        assert any(entry["log_level"] == "error" and NAME in entry["reason"] for entry in logs)
    assert len(authority.asked) == 1


async def test_nobody_uses_up_what_the_account_bears(
    home: Path, authority: StagedAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moongate.net.acme.keeping.ORDERS_IN_WINDOW", 2)
    async with keeping(home, authority) as kept:
        for name in ("a.example.test", "b.example.test"):
            kept.keeper.want(name)
            await kept.until("ready")
        kept.keeper.want(NAME)
        await kept.until("pending", message="waits its turn")
        authority.clock.now += WINDOW_S - 1
        await kept.finds_nothing_to_do()
        authority.clock.now += 2
        kept.keeper.look()
        await kept.until("ready")


def test_without_an_authority_whoever_wants_a_certificate_is_told_the_remedy() -> None:
    nobody = NoAuthority()
    status = nobody.want(NAME)
    assert (status.state, nobody.statuses()) == ("failed", {NAME: status})
    assert "acme.directory" in status.message
    assert nobody.unwant(NAME)
    assert nobody.statuses() == {}
