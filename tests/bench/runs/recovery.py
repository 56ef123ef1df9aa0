"""How soon visitors are served again after the link, or the node, was killed."""

import statistics
import time
from collections.abc import Iterable
from http.client import HTTPConnection, HTTPException

from bench.bench import Bench
from bench.figures import Goal, Result
from bench.processes import Processes, Running, free_port, wait_for_port, wait_until
from bench.references import start_origin
from bench.subject import Node

LINK = Goal("first good request at most 1.5 s after a killed link's other side is back", 1.5, at_most=True)
NODE = Goal("first good request at most 1.5 s after a killed node is back", 1.5, at_most=True)
# Short and long outages, so that every step of the agent's waiting is met.
OUTAGES_S = (0.3, 0.7, 1.1, 2.0, 3.3, 5.1, 8.0)
POLL_S = 0.005
GIVE_UP_S = 60.0


def run(bench: Bench) -> Iterable[Result]:
    """Kill, wait, bring back, and ask every 5 ms until the answer is good."""
    outages = OUTAGES_S[1:4:2] if bench.quick else OUTAGES_S
    with bench.processes("recovery") as processes:
        origin = start_origin(processes)
        node = Node(processes)
        relay_port = free_port()
        relay = _start_relay(processes, relay_port, node.port)
        tunnel = node.publish("http", origin.port, name="back", through=relay_port)
        bench.note(node)
        _first_good(node.port, tunnel.host)
        link_s, node_s = [], []
        for outage_s in outages:
            relay.kill()
            time.sleep(outage_s)
            relay = _start_relay(processes, relay_port, node.port)
            link_s.append(_first_good(node.port, tunnel.host))
            bench.say(f"link gone for {outage_s} s: good again after {link_s[-1]:.3f} s")
        for outage_s in outages:
            node.running.kill()
            time.sleep(outage_s)
            node.launch()
            wait_for_port(node.port, node.running)
            node_s.append(_first_good(node.port, tunnel.host))
            bench.say(f"node gone for {outage_s} s: good again after {node_s[-1]:.3f} s")
        yield _judge("recovery-link", "the agent's connection", LINK, link_s, outages)
        yield _judge("recovery-node", "the node", NODE, node_s, outages)


def _judge(name: str, what: str, goal: Goal, seconds: list[float], outages: tuple[float, ...]) -> Result:
    return Result(
        name=name,
        title=f"After kill -9 of {what}: worst time to the first good request",
        unit="s",
        goal=goal,
        ours=max(seconds),
        judged=max(seconds),
        judged_unit="s",
        rounds={"moongate": seconds},
        details={"median, s": round(statistics.median(seconds), 3), "outages, s": list(outages)},
    )


def _start_relay(processes: Processes, port: int, target: int) -> Running:
    options = ["--port", str(port), "--target", str(target), "--round-trip-ms", "0", "--mbit", "0"]
    relay = processes.load("delay_relay", *options)
    # Its own word, not a probe of the port: a probe would be one more connection at the node.
    wait_until(lambda: "relay" in relay.said(), "the relay accepts", relay)
    return relay


def _first_good(port: int, host: str) -> float:
    """Seconds until a new visitor gets a good answer."""
    begin = time.monotonic()
    while time.monotonic() < begin + GIVE_UP_S:
        if _good(port, host):
            return time.monotonic() - begin
        time.sleep(POLL_S)
    raise RuntimeError(f"no good answer within {GIVE_UP_S:.0f} s")


def _good(port: int, host: str) -> bool:
    visitor = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        visitor.request("GET", "/", headers={"Host": host})
        answer = visitor.getresponse()
        answer.read()
        return answer.status == 200
    except (OSError, HTTPException):
        return False
    finally:
        visitor.close()
