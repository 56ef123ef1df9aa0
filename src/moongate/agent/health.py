"""Whether the programs behind the rules can be reached: all are asked at once, and the answer is kept for a moment."""

import asyncio
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from moongate.agent.rules import PortRule, Rule, Site
from moongate.errors import MoongateError
from moongate.net.dialing import dial_tcp

CONNECT_TIMEOUT_S: Final = 2.0
CALL_TIMEOUT_S: Final = 4.5
CACHED_S: Final = 1.0
# Each check holds a socket for up to two seconds; a process often may open no more than 1024 files.
AT_A_TIME: Final = 256

Target = tuple[str, str, int]
"""A directory as ("directory", path, 0), or a carrier ("tcp", "udp") with host and port."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What one target answered; an empty error is a good answer. `at` is in seconds since 1970."""

    error: str
    at: float
    latency_ms: float


def targets_of(rule: Rule) -> tuple[Target, ...]:
    """Return what must answer for a rule to be available; None of it for one that only redirects."""
    if isinstance(rule, Site):
        return _site_targets(rule)
    if isinstance(rule, PortRule) and rule.destination:
        return ((rule.transport, rule.destination, rule.dst_port),)
    return ()


def _site_targets(site: Site) -> tuple[Target, ...]:
    targets: list[Target] = []
    if site.web_root:
        targets.append(("directory", site.web_root, 0))
    if site.upstream is not None:
        targets.append(("tcp", site.upstream[1], site.upstream[2]))
    if site.tls:
        targets.append(("tcp", site.tls_host, site.tls))
    return tuple(targets)


def is_listed(rule: Rule) -> bool:
    """Whether health speaks of a rule: every site, and every port that leads somewhere."""
    return isinstance(rule, Site) or (isinstance(rule, PortRule) and bool(rule.destination))


class Health:
    """Asks targets, many at a time and each once, however many rules lead to it."""

    def __init__(self) -> None:
        self._known: dict[Target, Checked] = {}
        self._checked_at = float("-inf")
        self._asking = asyncio.Lock()

    async def check(self, rules: Iterable[Rule]) -> dict[Target, Checked]:
        """Return what every target of these rules answered, within five seconds; not older than one."""
        targets = {target for rule in rules for target in targets_of(rule)}
        async with self._asking:
            now = time.monotonic()
            if now - self._checked_at < CACHED_S and targets <= self._known.keys():
                return self._known
            self._known = await _check_all(targets)
            self._checked_at = time.monotonic()
            return self._known


async def _check_all(targets: set[Target]) -> dict[Target, Checked]:
    turn = asyncio.Semaphore(AT_A_TIME)
    answers: dict[Target, Checked] = {}

    async def check(target: Target) -> None:
        async with turn:
            answers[target] = await _check(target)

    tasks = [asyncio.create_task(check(target), name="check health") for target in targets]
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=CALL_TIMEOUT_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    overdue = Checked("not checked in time", time.time(), CALL_TIMEOUT_S * 1000)
    return {target: answers.get(target, overdue) for target in targets}


async def _check(target: Target) -> Checked:
    kind, place, port = target
    began = time.monotonic()
    if kind == "directory":
        error = await asyncio.to_thread(_directory_error, place)
    elif kind == "udp":
        # Nobody answers a datagram that means nothing; that the name has an address is all there is to know.
        error = ""
    else:
        error = await _connect_error(place, port)
    return Checked(error, time.time(), round((time.monotonic() - began) * 1000, 2))


async def _connect_error(host: str, port: int) -> str:
    try:
        transport, _ = await dial_tcp(host, port, asyncio.Protocol, timeout_s=CONNECT_TIMEOUT_S)
    except MoongateError as error:
        return error.message
    transport.abort()
    return ""


def _directory_error(path: str) -> str:
    if not Path(path).is_dir():
        return f"there is no directory {path}"
    return "" if os.access(path, os.R_OK | os.X_OK) else f"{path} may not be read"
