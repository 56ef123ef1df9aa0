"""Writes what was found: `docs/benchmarks.md` for people, `docs/benchmarks.json` for programs, and two pictures."""

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.figures import Result, result_from_json
from bench.plots import bars, lines

HEADER = """# Benchmarks

Written by `make bench`; do not edit. Remarks come from `tests/bench/notes.toml`, the same figures stand in
[benchmarks.json](benchmarks.json). Both sides of every comparison ran in turns (A B A B …) in one run on one machine, all
processes on the same cores, with the same number of hops and the same encryption; figures are medians of the rounds.
Moongate ran as `moongate server` starts it, with capture, records, history and metrics on.
"""
HOW = """## How it was measured

- **Origin of HTTP**: nginx, one worker, 1 KiB from memory, keep-alive. Its own most, with the same generator, stands in the JSON.
- **Throughput**: `wrk`, one thread, 64 keep-alive connections, closed loop.
- **Latency at a fixed rate**: `tests/bench/loads/paced.py`, open loop over 64 keep-alive connections; every request is timed from
  the moment it was *due*, so a stall also counts for those that had to wait (coordinated omission). Debian has no wrk2, and
  its `hey` and `h2load` do not correct this.
- **Files**: `moongate static` against nginx → TLS → nginx with `root`, no service behind either; `wrk` asks for the files in turn,
  and one visitor downloads a large file again and again.
- **Bulk**: a Python source and sink with 1 MiB `sendall` and `recv_into`, the same for every candidate.
- **Long wire**: `tests/bench/loads/delay_relay.py` between agent and node (and before the upstream for plain TCP): 25 ms each way,
  rated 1 Gbit/s each way, 8 ms of queue at its entrance, never more than 16 MiB in flight each way. It delays the opening of a
  connection by a round trip as well. Its ceiling without delay and rating is in the table's details.
- **Visitors**: `tests/bench/loads/visitors.py`, connect, one line, its echo, close; 32 at a time, from 64 loopback addresses.
- **Idle agents**: `tests/bench/loads/idle_agents.py`, clients of the tunnel protocol over TLS, each with one tunnel, answering probes.
- **Recovery**: a relay between agent and node (or the node) is ended with `kill -9`, comes back after outages from 0.3 to 8 s,
  and a new visitor asks every 5 ms.
"""


@dataclass(frozen=True, slots=True)
class Run:
    """Everything a report needs besides the results."""

    machine: Mapping[str, str]
    versions: Mapping[str, str]
    configurations: Mapping[str, str]
    began_at: str


def write_report(folder: Path, run: Run, results: Sequence[Result], notes_file: Path) -> None:
    """Write all four files; results of an earlier whole run that were not measured now are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = _stored(folder / "benchmarks.json")
    # A part that failed before has either run now or is missing; its old failure says nothing any more.
    kept = [one for one in stored[0] if not one.failure]
    merged = {one.name: one for one in (*kept, *results)}
    run = Run(run.machine, run.versions, {**stored[1], **run.configurations}, run.began_at)
    everything = sorted(merged.values(), key=lambda one: _order(one.name))
    whole = {
        "machine": dict(run.machine),
        "versions": dict(run.versions),
        "began_at": run.began_at,
        "results": [one.as_json() for one in everything],
        "configurations": dict(run.configurations),
    }
    (folder / "benchmarks.json").write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    (folder / "benchmarks.svg").write_text(bars(everything))
    flat = next((one for one in everything if one.name == "memory-flat" and not one.failure), None)
    if flat:
        (folder / "benchmarks-memory.svg").write_text(lines(flat.rounds, "seconds / 2", "MiB"))
    notes = tomllib.loads(notes_file.read_text()) if notes_file.exists() else {}
    (folder / "benchmarks.md").write_text(_markdown(run, everything, notes, flat is not None))


def goal_lines(results: Sequence[Result]) -> list[str]:
    """What the run prints at its end: goal, figure, ratio and verdict."""
    return [
        f"{one.verdict.upper():6} {one.name:24} {one.goal.text}: {_number(one.judged)} {one.judged_unit}"
        f" ({_number(one.ours)} {one.unit}{_against(one)})" + (f" {one.failure.splitlines()[0]}" if one.failure else "")
        for one in results
    ]


ORDER = ("http", "static", "bulk", "fairness", "tcp", "idle", "memory", "recovery")


def _order(name: str) -> tuple[int, str]:
    return next((place for place, begin in enumerate(ORDER) if name.startswith(begin)), len(ORDER)), name


def _stored(path: Path) -> tuple[list[Result], dict[str, str]]:
    if not path.exists():
        return [], {}
    whole = json.loads(path.read_text())
    return [result_from_json(one) for one in whole["results"]], whole["configurations"]


def _markdown(run: Run, results: Sequence[Result], notes: Mapping[str, Any], with_memory: bool) -> str:
    parts = [
        HEADER,
        _machine(run),
        "## Goals and figures\n",
        _table(results),
        "![Share of each goal](benchmarks.svg)\n",
    ]
    if with_memory:
        parts.append("Memory over the visitors of `memory-flat`:\n\n![Memory](benchmarks-memory.svg)\n")
    parts += [_remarks(results, notes), HOW, "## Details\n", *map(_details, results)]
    parts += ["## Configurations\n\n`$RUN` is the folder of the run.\n"]
    parts += [f"### {name}\n\n```\n{text.rstrip()}\n```\n" for name, text in run.configurations.items()]
    return "\n".join(parts)


def _machine(run: Run) -> str:
    rows = [*run.machine.items(), *run.versions.items(), ("run began", run.began_at)]
    return "## Machine and versions\n\n| what | |\n| --- | --- |\n" + "".join(f"| {k} | {v} |\n" for k, v in rows)


def _table(results: Sequence[Result]) -> str:
    head = "| benchmark | Moongate | reference | judged | goal | |\n| --- | ---: | ---: | ---: | --- | --- |\n"
    return head + "".join(_row(one) for one in results)


def _row(one: Result) -> str:
    reference = f"{_number(one.reference)} {one.unit} ({one.reference_name})" if one.reference is not None else "–"
    judged = f"{_number(one.judged)} {one.judged_unit}"
    ours = f"{_number(one.ours)} {one.unit}"
    verdict = "**below**" if one.verdict == "below" else one.verdict
    quick = " (quick run)" if one.quick else ""
    return f"| `{one.name}` {one.title}{quick} | {ours} | {reference} | {judged} | {one.goal.text} | {verdict} |\n"


def _remarks(results: Sequence[Result], notes: Mapping[str, Any]) -> str:
    """The hand-written profile and reason of each goal that was missed, and remarks on the others."""
    text = []
    for one in results:
        note = notes.get(one.name, {})
        if one.failure:
            text.append(f"### `{one.name}`: failed\n\n```\n{one.failure}\n```\n")
        elif not one.met:
            text.append(
                f"### `{one.name}`: below the goal\n\n{_number(one.judged)} {one.judged_unit}, wanted {one.goal.sense}"
                f" {one.goal.bound:g}.\n\n**Profile.** {note.get('profile', 'not written yet')}\n\n"
                f"**Reason.** {note.get('reason', 'not written yet')}\n"
            )
        elif remark := note.get("remark"):
            text.append(f"### `{one.name}`\n\n{remark}\n")
    return "## Remarks\n\n" + "\n".join(text) if text else ""


def _details(one: Result) -> str:
    rounds = [f"  - {side}: {_rounds(values)}" for side, values in one.rounds.items() if values]
    plain = {key: value for key, value in one.details.items() if key != "rounds"}
    listed = [f"  - {key}: {_short(value)}" for key, value in plain.items()]
    return "\n".join([f"- `{one.name}`, measured {one.measured_at}", *rounds, *listed]) + "\n"


def _rounds(values: Sequence[float]) -> str:
    if len(values) > 12:
        return f"{len(values)} samples, {_number(min(values))} to {_number(max(values))}"
    return ", ".join(map(_number, values))


def _short(value: Any) -> str:
    if isinstance(value, float):
        return _number(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)


def _against(one: Result) -> str:
    return f" against {_number(one.reference)} {one.unit} of {one.reference_name}" if one.reference is not None else ""


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"
