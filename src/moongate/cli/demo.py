"""`moongate demo`: a node, a sample service and an agent in one process, gone without a trace afterwards."""

import asyncio
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moongate.cli.loops import run_in_loop, stop_requested
from moongate.cli.outcome import Exit
from moongate.cli.places import read_secret
from moongate.cli.publish import Foreground, Manner
from moongate.cli.sample import SampleService
from moongate.cli.text import print_json
from moongate.cli.tunnels import Wanted
from moongate.cli.upstreams import Local
from moongate.config import Config, load_config
from moongate.net.dialing import NodeAddress
from moongate.node.server import Node
from moongate.telemetry import setup_logging

HOST = "127.0.0.1"
LISTEN_PORT = 7171
API_PORT = 4041
NAME = "demo"
# Nobody should wait long for a demonstration to end.
DRAIN_S = 1.0


def run_demo(*, as_json: bool, plain: bool) -> Exit:
    """Run all three until Ctrl-C."""
    manner = Manner(as_json=as_json, plain=plain)
    setup_logging("error")
    with _home() as home:
        return run_in_loop(_run(home, manner))


@contextmanager
def _home() -> Iterator[Path]:
    """Use the state directory that was asked for, else a private one that ends with us."""
    given = os.environ.get("MOONGATE_HOME")
    if given:
        yield Path(given).expanduser().absolute()
        return
    # mkdtemp makes it 0700.
    home = Path(tempfile.mkdtemp(prefix="moongate-demo-"))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


async def _run(home: Path, manner: Manner) -> Exit:
    stop = stop_requested()
    config = _config(home, as_json=manner.as_json)
    node = Node(config)
    await node.start()
    sample = await asyncio.to_thread(SampleService)
    try:
        facts = _introduce(config, as_json=manner.as_json)
        wanted = Wanted("http", Local("http", HOST, sample.port), subdomain=NAME)
        agent = Foreground(NodeAddress.parse(read_secret(home / "join")), [wanted], manner.output(), facts=facts)
        return await agent.run(stop)
    finally:
        await asyncio.to_thread(sample.close)
        await node.aclose()


def _config(home: Path, *, as_json: bool) -> Config:
    """Use the usual ports if they are free, others if not; a port that somebody set is left as it is."""
    overrides: dict[str, object] = {"home": str(home), "drain_s": DRAIN_S}
    if "MOONGATE_LISTEN" not in os.environ:
        overrides["listen"] = f"{HOST}:{_free(LISTEN_PORT, as_json=as_json)}"
    if "MOONGATE_DASHBOARD_PORT" not in os.environ:
        overrides["dashboard_port"] = _free(API_PORT, as_json=as_json)
    return load_config(overrides=overrides)


def _free(usual: int, *, as_json: bool) -> int:
    """Return the usual port, or a free one, and say so."""
    for port in (usual, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            chosen = int(probe.getsockname()[1])
            if chosen != usual and not as_json:
                print(f"port {usual} is taken; using {chosen}", file=sys.stderr)
            return chosen
    return usual


def _introduce(config: Config, *, as_json: bool) -> tuple[str, ...]:
    """Say where things are, and return the same for the panel."""
    api = f"http://{HOST}:{config.dashboard_port or config.listen_address[1]}/api/status"
    token_file = config.home / "admin-token"
    if as_json:
        print_json({"event": "ready", "api": api, "admin_token_file": str(token_file), "home": str(config.home)})
        return ()
    facts = (f"REST API     {api}", f"admin token  {token_file}")
    for fact in facts:
        print(fact, flush=True)
    return facts
