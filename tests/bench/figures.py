"""What a benchmark finds: rounds of measured values, a goal, and whether the goal was met."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on one judged number, with the sentence that promises it."""

    text: str
    bound: float
    at_most: bool = False

    def met(self, judged: float) -> bool:
        if math.isnan(judged):
            return False
        return judged <= self.bound if self.at_most else judged >= self.bound

    @property
    def sense(self) -> str:
        return "≤" if self.at_most else "≥"


@dataclass(slots=True)
class Result:
    """One line of the report: our figure, the reference's, and the judged number against its goal."""

    name: str
    title: str
    unit: str
    goal: Goal
    ours: float
    reference: float | None = None
    reference_name: str = ""
    judged: float = math.nan
    judged_unit: str = "×"
    rounds: dict[str, list[float]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    failure: str = ""
    measured_at: str = ""
    quick: bool = False

    @property
    def met(self) -> bool:
        return not self.failure and self.goal.met(self.judged)

    @property
    def verdict(self) -> str:
        if self.failure:
            return "failed"
        return "pass" if self.met else "below"

    def as_json(self) -> dict[str, Any]:
        """The result as plain JSON values; a figure that does not exist is null."""
        whole = asdict(self) | {"met": self.met, "verdict": self.verdict}
        return {key: _finite(value) for key, value in whole.items()}


def result_from_json(stored: Mapping[str, Any]) -> Result:
    """Rebuild a result that an earlier run wrote."""
    known = {key: stored[key] for key in Result.__dataclass_fields__ if key in stored}
    known["goal"] = Goal(**stored["goal"])
    for key in ("ours", "judged"):
        known[key] = math.nan if known.get(key) is None else known[key]
    return Result(**known)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def compare(
    name: str,
    title: str,
    unit: str,
    goal: Goal,
    rounds: Mapping[str, Sequence[float]],
    *,
    ours: str = "moongate",
    reference: str,
    details: Mapping[str, Any] | None = None,
) -> Result:
    """Judge the ratio of the medians of two sides measured in turns."""
    mine, theirs = statistics.median(rounds[ours]), statistics.median(rounds[reference])
    return Result(
        name=name,
        title=title,
        unit=unit,
        goal=goal,
        ours=mine,
        reference=theirs,
        reference_name=reference,
        judged=mine / theirs if theirs else math.nan,
        rounds={side: list(values) for side, values in rounds.items()},
        details=dict(details or {}),
    )


def in_turns(rounds: int, sides: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Measure the sides A B A B …, so that a slow minute of the machine hits all of them alike."""
    found: dict[str, list[T]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, measure in sides.items():
            found[side].append(measure())
    return found


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of an ordered list."""
    if not ordered:
        return math.nan
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]
