"""One bulk TCP stream: against `ssh -R` and an HAProxy pair at once, and against plain TCP over a long wire."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bench.bench import Bench, cpu_used
from bench.figures import Goal, Result, compare, in_turns
from bench.processes import Processes, Running, free_port, measure, wait_for_port
from bench.references import Reference, make_key_pair, start_haproxy_pair, start_ssh_remote
from bench.subject import Node

SSH = Goal("at least 2 × `ssh -R`", 2.0)
HAPROXY = Goal("at least 0.8 of an HAProxy pair with TLS 1.3 between", 0.8)
WIRE = Goal("at least 0.9 of plain TCP over the same wire", 0.9)
ROUND_TRIP_MS = 50

Side = tuple[int, Mapping[str, Running | Reference]]


def run(bench: Bench) -> Iterable[Result]:
    """Move gigabytes down and up through each candidate in turns."""
    with bench.processes("bulk") as processes:
        upstream = _start_upstream(processes)
        haproxy = start_haproxy_pair(processes, make_key_pair(processes.folder), upstream)
        ssh = start_ssh_remote(processes, upstream)
        node = Node(processes)
        tunnel = node.publish("tcp", upstream)
        bench.note(haproxy, ssh, node)
        sides: dict[str, Side] = {
            "moongate": (tunnel.port, {"node": node.running, "agent": tunnel.agent}),
            "HAProxy pair": (haproxy.port, {"pair": haproxy}),
            "ssh -R": (ssh.port, {"ssh and sshd": ssh}),
        }
        for direction in ("download", "upload"):
            yield from _direction(bench, sides, direction)


def _start_upstream(processes: Processes) -> int:
    port = free_port()
    wait_for_port(port, processes.load("bulk_server", "--port", str(port)))
    return port


def _direction(bench: Bench, sides: Mapping[str, Side], direction: str) -> Iterable[Result]:
    mib = int(bench.pick(3072, 512))
    measured = in_turns(
        bench.rounds(3), {name: _transfer(bench, name, side, direction, mib) for name, side in sides.items()}
    )
    rounds = {name: [found["mb_per_s"] for found in all_found] for name, all_found in measured.items()}
    details = {
        f"CPU s per GB, {name}": {
            part: round(sum(found["cpu_s"][part] for found in all_found) / len(all_found) / (mib * 2**20 / 1e9), 3)
            for part in all_found[0]["cpu_s"]
        }
        for name, all_found in measured.items()
    }
    for reference, goal, short in (("ssh -R", SSH, "ssh"), ("HAProxy pair", HAPROXY, "haproxy")):
        yield compare(
            f"bulk-{direction}-{short}",
            f"One bulk TCP {direction} of {mib} MiB",
            "MB/s",
            goal,
            {name: rounds[name] for name in ("moongate", reference)},
            reference=reference,
            details={key: value for key, value in details.items() if key.endswith(("moongate", reference))},
        )


def _transfer(bench: Bench, name: str, side: Side, direction: str, mib: int) -> Callable[[], dict[str, Any]]:
    port, parts = side

    def once() -> dict[str, Any]:
        with cpu_used(parts) as used:
            found = measure("bulk_client", "--port", str(port), "--direction", direction, "--mib", str(mib))
        bench.say(f"{name}: {direction} {found['mb_per_s']:,.0f} MB/s, CPU s {used}")
        return found | {"cpu_s": used}

    return once


def run_far(bench: Bench) -> Iterable[Result]:
    """The same over a wire of 50 ms round trip between agent and node, and plain TCP over an equal wire."""
    with bench.processes("bulk-far") as processes:
        upstream = _start_upstream(processes)
        ceiling_port = _start_relay(processes, upstream, 0, 0)
        plain_port = _start_relay(processes, upstream, ROUND_TRIP_MS, 1000)
        node = Node(processes)
        tunnel = node.publish("tcp", upstream, through=_start_relay(processes, node.port, ROUND_TRIP_MS, 1000))
        bench.note(node)
        mib = int(bench.pick(1024, 256))
        ceiling = _transfer(bench, "relay's ceiling", (ceiling_port, {}), "download", 2 * mib)()["mb_per_s"]
        sides: dict[str, Side] = {
            "moongate": (tunnel.port, {"node": node.running, "agent": tunnel.agent}),
            "plain TCP": (plain_port, {}),
        }
        for direction in ("download", "upload"):
            transfers = {name: _transfer(bench, name, side, direction, mib) for name, side in sides.items()}
            measured = in_turns(bench.rounds(3), transfers)
            yield compare(
                f"bulk-{direction}-far",
                f"One bulk TCP {direction} of {mib} MiB at {ROUND_TRIP_MS} ms added round trip",
                "MB/s",
                WIRE,
                {name: [found["mb_per_s"] for found in all_found] for name, all_found in measured.items()},
                reference="plain TCP",
                details={"delay relay's own ceiling, MB/s, no delay and no rated speed": round(ceiling)},
            )


def _start_relay(processes: Processes, target: int, round_trip_ms: float, mbit: float) -> int:
    port = free_port()
    options = {"port": port, "target": target, "round-trip-ms": round_trip_ms, "mbit": mbit}
    relay = processes.load(
        "delay_relay", *(text for key, value in options.items() for text in (f"--{key}", str(value)))
    )
    wait_for_port(port, relay)
    return port
