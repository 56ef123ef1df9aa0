"""Certificates by ACME in a node: who makes them, where their proofs are shown, and what is measured."""

from collections.abc import Callable
from typing import Final

from moongate import __version__
from moongate.config import Config
from moongate.net.acme.keeping import CertificateKeeper, CertificateStatus, NoAuthority
from moongate.net.acme.proofs import Kind
from moongate.net.acme.store import AcmeStore
from moongate.net.certificates import Certificates
from moongate.telemetry import Metrics

# Port 443 is the one that a public node listens on anyhow, so that way is tried first.
_KINDS: Final[dict[str, tuple[Kind, ...]]] = {
    "http-01": ("http-01",),
    "tls-alpn-01": ("tls-alpn-01",),
    "both": ("tls-alpn-01", "http-01"),
}


def make_keeper(
    config: Config,
    certificates: Certificates,
    proofs: dict[str, bytes],
    on_change: Callable[[str, CertificateStatus], None],
) -> CertificateKeeper | NoAuthority:
    """Return who cares for certificates as the settings say.

    Raises:
        ConfigurationError: If its folder in the state directory cannot be made.
    """
    settings = config.acme
    if settings.directory is None:
        return NoAuthority()
    from moongate.net.acme.client import AcmeClient  # a heavy library, for those who use it

    store = AcmeStore(config.home, settings.directory)
    authority = AcmeClient(
        settings.directory,
        store,
        email=settings.email,
        ca_file=settings.ca_file,
        user_agent=f"moongate/{__version__}",
    )
    return CertificateKeeper(
        store=store,
        authority=authority,
        certificates=certificates,
        proofs=proofs,
        kinds=_KINDS[settings.challenge],
        on_change=on_change,
    )


def measure(metrics: Metrics, keeper: CertificateKeeper | NoAuthority) -> None:
    """Add what is worth watching of certificates."""
    for state in ("ready", "pending", "failed"):
        metrics.gauge(
            f"moongate_certificates_{state}",
            f"Names whose certificate by ACME is {state}.",
            lambda state=state: sum(status.state == state for status in keeper.statuses().values()),  # type: ignore[misc]
        )
    metrics.gauge(
        "moongate_certificates_first_end_timestamp_seconds",
        "When the certificate by ACME ends that ends first; 0 without any.",
        lambda: min((status.not_after for status in keeper.statuses().values() if status.not_after), default=0.0),
    )
    metrics.counter("moongate_certificate_orders_total", "Certificates asked for by ACME.", lambda: keeper.orders)
    metrics.counter("moongate_certificate_failures_total", "Orders that brought none.", lambda: keeper.failures)
