"""What an agent that stays says to its API: pure, from results and states to JSON objects."""

import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from moongate import __version__
from moongate.agent.health import Checked, Target, targets_of
from moongate.agent.reports import CertificateStatus, TunnelSnapshot
from moongate.agent.rulebook import NOT_APPLIED, Result, RuleBook
from moongate.agent.rules import PortRule, Site
from moongate.errors import LimitExceeded, MoongateError, NoPortFree

Envelope = dict[str, Any]

VERSION: Final = f"v{__version__}"
# So many errors of one request are told in one text; each item's own is with its result.
JOINED_ERRORS: Final = 20

# As programs of this API family name them.
_SYSTEMS: Final = {"win32": "windows", "cygwin": "windows"}
_MACHINES: Final = {
    "x86_64": "amd64",
    "AMD64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i386": "386",
    "i686": "386",
}


def done(**more: Any) -> Envelope:
    """Say that it is done."""
    return {"status": True, "error": "", **more}


def failed(error: str, **more: Any) -> Envelope:
    """Say why it is not done."""
    return {"status": False, "error": error, **more}


def machine() -> Envelope:
    """Return system and architecture."""
    system = os.uname().sysname.lower()
    return {"os": _SYSTEMS.get(system, system), "arch": _MACHINES.get(platform.machine(), platform.machine())}


def told(results: Iterable[Result]) -> Envelope:
    """The envelope of a change: every item's own result, and their errors as one text."""
    results = list(results)
    wrong = [result for result in results if result.error]
    said = [result.sentence() for result in wrong if result.error != NOT_APPLIED] or [one.error for one in wrong[:1]]
    more = [f"and {len(said) - JOINED_ERRORS} more"] if len(said) > JOINED_ERRORS else []
    return {
        "status": not wrong,
        "error": "; ".join([*said[:JOINED_ERRORS], *more]),
        "results": [result.members() for result in results],
    }


def nothing_done(results: Sequence[Result], error: MoongateError, culprit: tuple[str, str] | None = None) -> Envelope:
    """The envelope of a request of which nothing was done: one item is to blame, or none of them."""
    if culprit is None:
        return told(Result(one.kind, one.key, error.message) for one in results) | {"error": error.message}
    return told(
        Result(one.kind, one.key, error.message if (one.kind, one.key) == culprit else NOT_APPLIED) for one in results
    )


def no_port(error: Exception) -> Envelope:
    """Say why no port was allocated."""
    reason = error.message if isinstance(error, MoongateError) else "the node did not answer in time"
    if isinstance(error, NoPortFree):
        reason = "no ports available"
    elif isinstance(error, LimitExceeded):
        reason = "max port quota hit"
    return failed(reason, port=0, message="")


def ports(book: RuleBook) -> list[dict[str, Any]]:
    """The allocated ports, in ascending order."""
    return [port.members() for port in sorted(book.ports.values(), key=lambda one: (one.port, one.transport))]


def service(rule: Site | PortRule, answers: Mapping[Target, Checked], tunnels: Sequence[TunnelSnapshot]) -> Envelope:
    """One line of health: what the service answered, and how the node takes the rule."""
    checked = [answers[target] for target in targets_of(rule) if target in answers]
    errors = [one.error for one in checked if one.error]
    child = {"http": rule.masked()} if isinstance(rule, Site) else {"port": rule.masked()}
    return {
        "flowID": rule.flow,
        "flow": str(rule.flow),
        "available": not errors,
        **child,
        "error": "; ".join(errors),
        "checkedAt": _utc(max((one.at for one in checked), default=time.time())),
        "latencyMs": max((one.latency_ms for one in checked), default=0.0),
        **_published(tunnels),
    }


def _published(tunnels: Sequence[TunnelSnapshot]) -> Envelope:
    if not tunnels:
        return {}
    shown = next((one for one in tunnels if one.state != "ready"), tunnels[0])
    said: Envelope = {"tunnel": {"state": shown.state, "url": tunnels[0].public_url, "note": shown.note}}
    if tunnels[0].certificate.state != "none":
        said["certificate"] = certificate(tunnels[0].certificate)
    return said


def certificate(status: CertificateStatus) -> Envelope:
    """How it is with a certificate."""
    return {"state": status.state, "message": status.message, "notAfter": status.not_after}


def _utc(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
