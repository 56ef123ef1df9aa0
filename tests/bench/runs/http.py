"""HTTP through a tunnel against nginx → TLS → nginx: the most it does, and how long it takes when it need not hurry."""

import re
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.bench import Bench, cpu_used
from bench.figures import Goal, Result, compare, in_turns
from bench.peers import program
from bench.processes import Running, measure
from bench.references import Reference, make_key_pair, start_nginx_pair, start_origin
from bench.subject import Node

CONNECTIONS = 64
RATE_PER_S = 2000

MOST = Goal("requests/s at least 1.0 × of nginx → TLS → nginx", 1.0)
P50 = Goal(f"p50 at {RATE_PER_S} requests/s within 1.3 × of nginx → TLS → nginx", 1.3, at_most=True)
P99 = Goal(f"p99 at {RATE_PER_S} requests/s within 1.3 × of nginx → TLS → nginx", 1.3, at_most=True)


def run(bench: Bench) -> Iterable[Result]:
    """Measure throughput with wrk and fixed-rate latency with our paced generator, both in turns."""
    with bench.processes("http") as processes:
        origin = start_origin(processes)
        pair = start_nginx_pair(processes, make_key_pair(processes.folder), origin.port)
        node = Node(processes)
        tunnel = node.publish("http", origin.port, name="bench")
        bench.note(origin, pair, node)
        seconds = bench.pick(6, 2)
        ours: dict[str, Running | Reference] = {"node": node.running, "agent": tunnel.agent, "origin": origin}
        theirs: dict[str, Running | Reference] = {"pair": pair, "origin": origin}
        sides = {
            "moongate": (node.port, tunnel.host, ours),
            "nginx pair": (pair.port, "localhost", theirs),
        }
        yield _throughput(bench, sides, seconds, origin.port)
        yield from _latency(bench, sides, seconds)


Side = tuple[int, str, Mapping[str, Running | Reference]]


def _throughput(bench: Bench, sides: Mapping[str, Side], seconds: float, origin: int) -> Result:
    for port, host, _ in sides.values():
        wrk(port, host, 1)
    rounds = in_turns(bench.rounds(), {name: _wrk_once(bench, name, side, seconds) for name, side in sides.items()})
    direct = wrk(origin, "localhost", 2)["per_s"]
    details = {"origin alone, same generator": direct, "rounds": rounds}
    return compare(
        "http-throughput",
        f"HTTP requests/s, {CONNECTIONS} keep-alive connections, 1 KiB answers",
        "requests/s",
        MOST,
        {name: [found["per_s"] for found in all_found] for name, all_found in rounds.items()},
        reference="nginx pair",
        details=details,
    )


def _wrk_once(bench: Bench, name: str, side: Side, seconds: float) -> Callable[[], dict[str, Any]]:
    port, host, parts = side

    def once() -> dict[str, Any]:
        with cpu_used(parts) as used:
            found = wrk(port, host, seconds)
        found["cpu µs per request"] = {part: round(s / found["per_s"] / seconds * 1e6, 1) for part, s in used.items()}
        bench.say(f"{name}: {found['per_s']:,.0f} requests/s, {found['cpu µs per request']}")
        return found

    return once


def _latency(bench: Bench, sides: Mapping[str, Side], seconds: float) -> Iterable[Result]:
    def once(name: str, side: Side) -> Callable[[], dict[str, Any]]:
        def pace() -> dict[str, Any]:
            with cpu_used(side[2]) as used:
                found = paced(side[0], side[1], rate=RATE_PER_S, connections=CONNECTIONS, seconds=seconds)
            bench.say(f"{name}: p50 {found['p50_ms']:.3f} ms, p99 {found['p99_ms']:.3f} ms, bad {found['bad']}")
            return found | {"cpu_s": used}

        return pace

    rounds = in_turns(bench.rounds(), {name: once(name, side) for name, side in sides.items()})
    for share, goal in (("p50", P50), ("p99", P99)):
        yield compare(
            f"http-{share}",
            f"HTTP {share} at {RATE_PER_S} requests/s, open loop",
            "ms",
            goal,
            {name: [found[f"{share}_ms"] for found in all_found] for name, all_found in rounds.items()},
            reference="nginx pair",
            details={"rounds": rounds} if share == "p99" else {},
        )


def paced(port: int, host: str, *, rate: float, connections: int, seconds: float, path: str = "/") -> dict[str, Any]:
    """Run the open-loop generator.

    Raises:
        RuntimeError: If more than one answer in a thousand was not a good one.
    """
    options = {"port": port, "host": host, "rate": rate, "connections": connections, "seconds": seconds, "path": path}
    found = measure("paced", *(text for key, value in options.items() for text in (f"--{key}", str(value))))
    if found["bad"] > found["answered"] / 1000:
        raise RuntimeError(f"{found['bad']} of {found['answered']} answers were bad")
    return found


def wrk(port: int, host: str, seconds: float, script: Path | None = None) -> dict[str, Any]:
    """Run wrk with one thread and return what it counted; a script says what else than / is asked for.

    Raises:
        RuntimeError: If it met errors or answers other than 2xx.
    """
    argv = [program("wrk"), "-t1", f"-c{CONNECTIONS}", f"-d{seconds:.0f}s", "--latency", "-H", f"Host: {host}"]
    argv += ["-s", str(script)] if script is not None else []
    argv.append(f"http://127.0.0.1:{port}/")
    said = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60, check=False).stdout
    rate = re.search(r"Requests/sec:\s*([\d.]+)", said)
    if rate is None or "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"wrk was not content:\n{said}")
    return {"per_s": float(rate.group(1))}
