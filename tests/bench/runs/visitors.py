"""New TCP visitors per second, and whether memory stays flat while very many come and go."""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from bench.bench import Bench, cpu_used
from bench.figures import Goal, Result, compare, in_turns
from bench.processes import Processes, Running, free_port, measure, wait_for_port
from bench.references import Reference, make_key_pair, start_haproxy_pair, start_origin
from bench.subject import Node

RATE = Goal("new TCP visitors/s at least 1.0 × of the HAProxy pair", 1.0)
FLAT = Goal("memory of node and agent within ± 5 % over 200 000 visitors", 5.0, at_most=True)
SLOTS = 32
CHURN = 200_000
WARM_UP = 20_000
SAMPLE_S = 0.5


def run(bench: Bench) -> Iterable[Result]:
    """Visitors that connect, say one line, hear it back and leave, on 32 slots."""
    with bench.processes("visitors") as processes:
        upstream = _start_echo(processes)
        pair = start_haproxy_pair(processes, make_key_pair(processes.folder), upstream)
        node = Node(processes)
        tunnel = node.publish("tcp", upstream)
        bench.note(pair, node)
        seconds = bench.pick(6, 2)

        def come(name: str, port: int, parts: dict[str, Running | Reference]) -> Callable[[], dict[str, Any]]:
            def once() -> dict[str, Any]:
                with cpu_used(parts) as used:
                    found = _visit(port, "--seconds", str(seconds))
                found["cpu µs per visitor"] = {part: round(s / found["visitors"] * 1e6) for part, s in used.items()}
                bench.say(f"{name}: {found['per_s']:,.0f} visitors/s, p99 {found['p99_ms']:.1f} ms, "
                          f"{found['cpu µs per visitor']}")  # fmt: skip
                return found

            return once

        measured = in_turns(
            bench.rounds(),
            {
                "moongate": come("moongate", tunnel.port, {"node": node.running, "agent": tunnel.agent}),
                "HAProxy pair": come("HAProxy pair", pair.port, {"pair": pair}),
            },
        )
        yield compare(
            "tcp-visitors",
            f"New TCP visitors/s, {SLOTS} at a time",
            "visitors/s",
            RATE,
            {name: [found["per_s"] for found in all_found] for name, all_found in measured.items()},
            reference="HAProxy pair",
            details={"rounds": measured},
        )


def run_churn(bench: Bench) -> Iterable[Result]:
    """Let visitors of both kinds come and go by the hundred thousand and watch the memory."""
    with bench.processes("churn") as processes:
        origin, upstream = start_origin(processes), _start_echo(processes)
        node = Node(processes)
        tcp, http = node.publish("tcp", upstream), node.publish("http", origin.port, name="churn")
        bench.note(node)
        count, warm_up = int(bench.pick(CHURN, 20_000)), int(bench.pick(WARM_UP, 4_000))
        watched = {"node": node.running, "agent (tcp)": tcp.agent, "agent (http)": http.agent}

        def come(visitors: int) -> None:
            _visit(tcp.port, "--count", str(visitors // 2))
            _visit(node.port, "--count", str(visitors // 2), "--http-host", http.host)

        come(warm_up)
        with Sampler(watched) as sampler:
            for part in range(10):
                come(count // 10)
                bench.say(f"{(part + 1) * count // 10:,} visitors: {sampler.newest()}")
        yield _flat(sampler.samples, count, warm_up)


def _flat(samples: dict[str, list[float]], count: int, warm_up: int) -> Result:
    # The drift is judged against the start after the warm-up: pools and rings are full then.
    drift = {name: max(abs(value / values[0] - 1) for value in values) * 100 for name, values in samples.items()}
    worst = max(drift.values())
    return Result(
        name="memory-flat",
        title=f"Memory over {count:,} visitors, half TCP and half HTTP, after {warm_up:,} to warm up",
        unit="MiB",
        goal=FLAT,
        ours=samples["node"][-1],
        reference=samples["node"][0],
        reference_name="the node after the warm-up",
        judged=worst,
        judged_unit="% largest drift",
        rounds={f"{name}, MiB": values for name, values in samples.items()},
        details={"largest drift, %": {name: round(value, 2) for name, value in drift.items()}},
    )


class Sampler:
    """Notes the resident memory of processes twice a second while a block runs."""

    def __init__(self, watched: dict[str, Running]) -> None:
        self.watched = watched
        self.samples: dict[str, list[float]] = {name: [] for name in watched}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Sampler":
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._sample()

    def newest(self) -> dict[str, float]:
        return {name: values[-1] for name, values in self.samples.items()}

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self._sample()

    def _sample(self) -> None:
        for name, running in self.watched.items():
            self.samples[name].append(round(running.rss_bytes() / 2**20, 2))


def _start_echo(processes: Processes) -> int:
    port = free_port()
    wait_for_port(port, processes.load("echo_server", "--port", str(port)))
    # The probe of the port was a visitor too; let the server see it leave.
    time.sleep(0.05)
    return port


def _visit(port: int, *options: str) -> dict[str, Any]:
    found = measure("visitors", "--port", str(port), "--slots", str(SLOTS), *options)
    if found["failed"] > found["visitors"] / 1000:
        raise RuntimeError(f"{found['failed']} of {found['visitors']} visitors failed")
    return found
