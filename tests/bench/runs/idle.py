"""What ten thousand agents that do nothing cost the node in memory."""

import json
import time
from collections.abc import Iterable
from typing import Any

from bench.bench import Bench
from bench.figures import Goal, Result
from bench.processes import Running, wait_until
from bench.subject import Node

GOAL = Goal("at most 64 KiB of node memory for each idle agent", 64.0, at_most=True)
AGENTS = 10_000
CONNECT_TIMEOUT_S = 600.0
# Two rounds of probes and the flush of what was written behind.
SETTLE_S = 12.0


def run(bench: Bench) -> Iterable[Result]:
    """Connect them all over TLS, let them answer two probes each, and compare resident memory."""
    agents = int(bench.pick(AGENTS, 1000))
    with bench.processes("idle") as processes:
        node = Node(processes)
        bench.note(node)
        time.sleep(1)
        before = node.running.rss_bytes()
        options = ["--port", str(node.port), "--agents", str(agents), "--home", str(node.home)]
        load = processes.load("idle_agents", *options)
        connected = wait_until(
            lambda: _newest(load, "connected"), f"{agents} agents are connected", load, timeout_s=CONNECT_TIMEOUT_S
        )
        peak = node.running.rss_bytes()
        cpu_before = node.running.cpu_s()
        time.sleep(SETTLE_S)
        idle_cpu = (node.running.cpu_s() - cpu_before) / SETTLE_S
        after, tally = node.running.rss_bytes(), _newest(load, "lost") or {}
        if tally.get("lost") or tally.get("claimed") != agents:
            raise RuntimeError(f"not all agents stayed: {tally}")
        each = (after - before) / agents / 1024
        bench.say(f"{agents} agents in {connected['seconds']:.1f} s, {each:.1f} KiB each, {tally}")
        yield Result(
            name="idle-agents",
            title=f"{agents:,} idle agents over TLS, one tunnel each: node memory per agent",
            unit="KiB each",
            goal=GOAL,
            ours=each,
            judged=each,
            judged_unit="KiB",
            details={
                "node before, MiB": round(before / 2**20, 1),
                "node after, MiB": round(after / 2**20, 1),
                "node right after the last connected, MiB": round(peak / 2**20, 1),
                "agents connected per second": round(agents / connected["seconds"]),
                "processor share of the node while idle": round(idle_cpu, 3),
                "probes answered": tally["probes"],
            },
        )


def _newest(load: Running, key: str) -> dict[str, Any] | None:
    for line in reversed(load.said().splitlines()):
        if line.startswith("{") and f'"{key}"' in line:
            found: dict[str, Any] = json.loads(line)
            return found
    return None
