"""Small requests while one visitor downloads at full speed through the same tunnel."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.bench import Bench
from bench.figures import Goal, Result, in_turns
from bench.processes import Processes
from bench.references import make_key_pair, start_nginx_pair, start_origin
from bench.runs.http import paced
from bench.subject import Node

GOAL = Goal("p99 of small requests during a full-speed download within 3 × of what it is alone", 3.0, at_most=True)
RATE_PER_S = 200
CONNECTIONS = 16
LARGE_MIB = 4096


def run(bench: Bench) -> Iterable[Result]:
    """Measure the small requests alone and beside a download, in turns; the nginx pair does the same for comparison."""
    with bench.processes("fairness") as processes:
        origin = start_origin(processes, LARGE_MIB)
        pair = start_nginx_pair(processes, make_key_pair(processes.folder), origin.port)
        node = Node(processes)
        tunnel = node.publish("http", origin.port, name="fair")
        bench.note(origin, pair, node)
        small = Small(bench, processes, bench.pick(8, 3))
        targets = {"moongate": (node.port, tunnel.host), "nginx pair": (pair.port, "localhost")}
        sides = {
            f"{name}, {state}": partial(small.measure, *target, busy=state == "busy")
            for name, target in targets.items()
            for state in ("alone", "busy")
        }
        measured = in_turns(bench.rounds(3), sides)
        yield _judge(measured)


@dataclass(frozen=True, slots=True)
class Small:
    """The small requests, and the download beside them."""

    bench: Bench
    processes: Processes
    seconds: float

    def measure(self, port: int, host: str, *, busy: bool) -> dict[str, Any]:
        if not busy:
            return self._paced(port, host)
        options = ["--port", str(port), "--host", host, "--path", "/large", "--seconds", str(self.seconds + 3)]
        downloader = self.processes.load("downloader", *options)
        found = self._paced(port, host)
        downloader.popen.wait(60)
        found["download"] = downloader.said().strip()
        self.bench.say(f"  beside {found['download']}")
        return found

    def _paced(self, port: int, host: str) -> dict[str, Any]:
        found = paced(port, host, rate=RATE_PER_S, connections=CONNECTIONS, seconds=self.seconds)
        self.bench.say(f"{host}: p50 {found['p50_ms']:.2f} ms, p99 {found['p99_ms']:.2f} ms")
        return found


def _judge(measured: dict[str, list[dict[str, Any]]]) -> Result:
    rounds = {name: [found["p99_ms"] for found in all_found] for name, all_found in measured.items()}
    p99 = {name: statistics.median(values) for name, values in rounds.items()}
    return Result(
        name="fairness",
        title=f"p99 of {RATE_PER_S} small requests/s while one visitor downloads on the same tunnel",
        unit="ms",
        goal=GOAL,
        ours=p99["moongate, busy"],
        reference=p99["moongate, alone"],
        reference_name="moongate, alone",
        judged=p99["moongate, busy"] / p99["moongate, alone"],
        rounds=rounds,
        details={
            "nginx pair does": round(p99["nginx pair, busy"] / p99["nginx pair, alone"], 2),
            "downloads": {name: [found.get("download") for found in all_found] for name, all_found in measured.items()},
        },
    )
