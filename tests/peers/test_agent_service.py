"""An agent as a service, over everything that happens to a machine nobody looks at.

Process 1 here is not systemd: tests run the unit's ExecStart as it would, with its socket, watchdog and credentials.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from moongate.cli import units
from moongate.net.dialing import NodeAddress, make_join
from peers_bed import Site
from testbed import free_port, require_peer, until
from testbed.network import neighbour
from testbed.origin import Origin
from testbed.service_manager import ServiceManager, environment, read_unit

pytestmark = [pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
HOWTO = ROOT / "docs" / "howto" / "agent-as-a-service.md"
WATCHDOG_S = 2
# A node that hears nothing takes a link for dead after 15 s (docs/protocol/tunnel.md).
DEAD_AFTER_S = 25.0
BACK_S = 20.0


class Machine:
    """A machine with an agent as its service: what it has on disk, and who starts it."""

    def __init__(self, folder: Path, site: Site, *, before: tuple[str, ...] = (), node: str = "127.0.0.1") -> None:
        self.folder = folder
        self.tracer: tuple[str, ...] = ()
        self._before = before
        self.image = folder / "image"
        self.image.mkdir(parents=True)
        self.api_port = free_port()
        self._site = site
        self._node = node
        # Commands know nothing of the node's own state.
        (folder / "nobody").mkdir()
        self.env = {**environment(folder), "MOONGATE_HOME": str(folder / "nobody")}
        self.manager: ServiceManager | None = None

    @property
    def unit(self) -> Path:
        return self.image / "etc/systemd/system" / units.UNIT

    def install(self) -> None:
        """Install the agent, with a watchdog that a test can wait for."""
        address = NodeAddress.parse((self._site.home / "join").read_text(encoding="utf-8").strip())
        join = self.folder / "join"
        join.write_text(make_join(self._node, address.port, address.token or "", address.fingerprint), encoding="utf-8")
        self.run("agent", "install", "--root", str(self.image), "--server", f"@{join}", "--api-port", self.port)
        text = self.unit.read_text(encoding="utf-8")
        assert f"WatchdogSec={units.WATCHDOG_S}\n" in text
        self.unit.write_text(
            text.replace(f"WatchdogSec={units.WATCHDOG_S}\n", f"WatchdogSec={WATCHDOG_S}\n"), encoding="utf-8"
        )

    def boot(self) -> ServiceManager:
        """Start what the unit says, and wait until it is ready."""
        if self.manager is None:
            self.manager = ServiceManager(
                self.unit, self.folder / "systemd", self.env, before=[*self._before, *self.tracer]
            )
        self.manager.start()
        self.manager.wait_ready()
        return self.manager

    @property
    def port(self) -> str:
        return str(self.api_port)

    def run(self, *arguments: str, check: bool = True) -> str:
        command = [*self._before, sys.executable, "-m", "moongate.cli", *arguments]
        done = subprocess.run(command, env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=60)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def publish(self, name: str, origin: int) -> None:
        self.run("route", "add", f"{name}.localhost", str(origin), "--api-port", self.port)

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_: object) -> None:
        if self.manager is not None:
            self.manager.__exit__()


@pytest.fixture
def own_site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path / "home") as site:
        yield site


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin(lambda request: request.say(b"here")) as origin:
        yield origin


@pytest.fixture
def machine(tmp_path: Path, own_site: Site) -> Iterator[Machine]:
    require_peer("systemctl")
    with Machine(tmp_path / "machine", own_site) as machine:
        yield machine


@pytest.fixture
def published(machine: Machine, own_site: Site, origin: Origin) -> ServiceManager:
    """The service, running, with one site that is reached."""
    machine.install()
    manager = machine.boot()
    machine.publish("shop", origin.port)
    until(lambda: own_site.answers("shop"), timeout_s=BACK_S)
    return manager


# --- readiness and the watchdog ----------------------------------------------------------


def test_a_service_is_ready_when_its_api_answers_and_says_how_it_stands(
    published: ServiceManager, machine: Machine
) -> None:
    assert published.lines("READY") == ["1"]
    url = f"http://127.0.0.1:{machine.api_port}/api/client/v1.0/info"
    assert httpx.get(url, trust_env=False, timeout=10).json()["status"] is True
    assert published.lines("STATUS"), "systemctl status would show nothing"
    assert published.stop() == 0
    until(lambda: published.lines("STOPPING"))


def test_a_service_is_ready_while_its_node_is_away_and_publishes_when_that_comes(
    published: ServiceManager, machine: Machine, own_site: Site
) -> None:
    own_site.end()
    assert published.stop() == 0
    machine.boot()
    assert "shop.localhost" in machine.run("route", "ls", "--api-port", machine.port)
    own_site.program = own_site.start()
    until(lambda: own_site.answers("shop"), timeout_s=BACK_S)


def test_signs_of_life_come_in_time_and_a_hanging_agent_is_replaced(
    published: ServiceManager, machine: Machine, own_site: Site
) -> None:
    until(lambda: published.lines("WATCHDOG"), timeout_s=2 * WATCHDOG_S)
    first = published.pid
    os.kill(first, signal.SIGSTOP)

    def replaced() -> bool:
        published.look()
        return published.pid != first and own_site.answers("shop")

    until(replaced, timeout_s=60)
    assert published.ended_by_watchdog == 1
    # Where it hung, for whoever looks into the journal.
    assert "Fatal Python error: Aborted" in published.said
    assert "shop.localhost" in machine.run("route", "ls", "--api-port", machine.port)


# --- what happens to machines ------------------------------------------------------------


def test_what_was_published_is_back_after_the_power_was_cut_on_both_sides(
    published: ServiceManager, machine: Machine, own_site: Site
) -> None:
    for _ in range(3):
        published.power_off()
        own_site.restart(signal.SIGKILL)
        assert own_site.answers("shop", 503), "the name was not kept for the agent"
        machine.boot()
        until(lambda: own_site.answers("shop"), timeout_s=BACK_S)


def test_a_machine_that_slept_is_back_within_seconds_of_waking(published: ServiceManager, own_site: Site) -> None:
    os.kill(published.pid, signal.SIGSTOP)
    try:
        until(lambda: _status(own_site, "shop") == 503, timeout_s=DEAD_AFTER_S, what="the node has noticed")
    finally:
        os.kill(published.pid, signal.SIGCONT)
    until(lambda: own_site.answers("shop"), timeout_s=BACK_S)
    assert published.runs


def test_a_machine_that_changes_its_network_is_back_within_seconds(tmp_path: Path, origin: Origin) -> None:
    require_peer("systemctl")
    with neighbour() as there:
        port = free_port()
        listen = {"MOONGATE_LISTEN": f"{there.our_address}:{port}", "MOONGATE_PLAIN_HTTP": "true"}
        with (
            Site(tmp_path / "home", **listen) as site,
            Machine(tmp_path / "machine", site, before=tuple(there.inside), node=there.our_address) as machine,
        ):
            machine.install()
            machine.boot()
            machine.run(
                "route", "add", "shop.localhost", "--webroot", str(_folder(tmp_path)), "--api-port", machine.port
            )

            def status() -> int:
                with suppress(httpx.HTTPError):
                    headers = {"Host": "shop.localhost"}
                    url = f"http://{there.our_address}:{port}/"
                    return httpx.get(url, headers=headers, trust_env=False, timeout=20).status_code
                return 0

            until(lambda: status() == 200, timeout_s=BACK_S)
            there.unplug()
            until(lambda: status() == 503, timeout_s=DEAD_AFTER_S, what="the node has noticed")
            there.plug_in(3)
            until(lambda: status() == 200, timeout_s=BACK_S)


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "public"
    folder.mkdir()
    (folder / "index.html").write_text("here", encoding="utf-8")
    return folder


def _status(site: Site, name: str) -> int:
    with suppress(httpx.HTTPError):
        return site.get(name).status_code
    return 0


# --- what the unit forbids ---------------------------------------------------------------

CALL = re.compile(r"^(?:\d+ +)?([a-z0-9_]+)\((.*)", re.MULTILINE)


def test_the_agent_needs_nothing_that_its_unit_forbids(machine: Machine, own_site: Site, origin: Origin) -> None:
    trace = machine.folder / "trace"
    # -D: the agent stays our child, and strace is the one that is beside it.
    machine.tracer = (require_peer("strace"), "-D", "-f", "-q", "-o", str(trace))
    machine.install()
    machine.boot()
    machine.publish("shop", origin.port)
    until(lambda: own_site.answers("shop"), timeout_s=BACK_S)
    assert machine.manager is not None
    pid = machine.manager.pid
    assert machine.manager.stop() == 0
    until(lambda: re.search(rf"^{pid} +\+\+\+ exited", _text(trace), re.MULTILINE), what="the end of the trace")
    calls = CALL.findall(_text(trace))
    names = {name for name, _ in calls}
    assert {"execve", "socket", "openat"} <= names
    assert names - _allowed() == set()
    settings = read_unit(machine.unit.read_text(encoding="utf-8"))
    families = {found[1] for name, rest in calls if name == "socket" and (found := re.match(r"(AF_\w+)", rest))}
    assert families <= set(settings["RestrictAddressFamilies"][0].split())
    # MemoryDenyWriteExecute= (systemd.exec(5)).
    executable = [rest for name, rest in calls if name in ("mmap", "mprotect", "pkey_mprotect") and "PROT_EXEC" in rest]
    assert [rest for rest in executable if "PROT_WRITE" in rest] == []


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _allowed() -> set[str]:
    """Return the calls that the unit's SystemCallFilter lets pass, as systemd itself lists them."""
    unit = read_unit(units.system_unit(units.Service(("/x",), Path("/x"), Path("/x"), 1)))
    allowed: set[str] = set()
    for setting in unit["SystemCallFilter"]:
        calls = {call for group in setting.lstrip("~").split() for call in _group(group)}
        allowed = allowed - calls if setting.startswith("~") else allowed | calls
    # What strace is attached by, and what every filter lets pass.
    return allowed | _group("@default")


def _group(name: str) -> set[str]:
    command = [require_peer("systemd-analyze"), "syscall-filter", "--no-pager", name]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    words = [line.strip() for line in listed if line.strip() and not line.strip().startswith("#")]
    return {call for word in words for call in (_group(word) if word.startswith("@") else {word})}


# --- the guide ---------------------------------------------------------------------------


def test_the_guide_works_as_it_is_written(machine: Machine, own_site: Site, origin: Origin) -> None:
    text = HOWTO.read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    assert len(lines) > 10
    followed = Follower(machine, own_site, origin)
    for line in lines:
        followed.follow(line)
    assert followed.reboots == 1
    assert followed.seen_after_reboot
    assert not machine.unit.exists()


class Follower:
    """Does what the guide says, line by line: on the node, and on a machine whose systemd the tests are."""

    def __init__(self, machine: Machine, site: Site, origin: Origin) -> None:
        self.reboots = 0
        self.seen_after_reboot = False
        self._machine = machine
        self._site = site
        self._origin = origin

    def follow(self, line: str) -> None:
        words = shlex.split(line.replace("gate.example.org", "localhost").replace(" 8080", f" {self._origin.port}"))
        words = words[1:] if words[0] == "sudo" else words
        match words:
            case ["reboot"]:
                self._reboot()
            case ["rm", name]:
                # Whoever installs as their own or into an image later has it still.
                assert (self._machine.folder / name).is_file()
            case ["journalctl", *_]:
                assert self._machine.manager is not None
                assert self._machine.manager.runs
            case ["moongate", "token" | "join", *_]:
                self._on_the_node(words[1:])
            case ["moongate", *_]:
                self._on_the_machine(words[1:])
            case _:
                pytest.fail(f"nobody knows how to follow: {line}")

    def _on_the_node(self, words: list[str]) -> None:
        *words, arrow, target = words
        assert arrow == ">"
        folder = self._machine.folder
        given = [str(folder / word) if word.endswith(".token") else word for word in words]
        code, out, err = self._site.command(*given)
        assert code == 0, err
        (folder / target).write_text(out, encoding="utf-8")

    def _on_the_machine(self, words: list[str]) -> None:
        machine = self._machine
        image = ["--root", str(machine.image)]
        port = ["--api-port", machine.port]
        match words:
            case ["agent", "install", "--root", _, *more]:
                other = machine.folder / "other"
                other.mkdir()
                machine.run("agent", "install", "--root", str(other), *more)
                assert (other / machine.unit.relative_to(machine.image)).is_file()
            case ["agent", "install", "--user", *more]:
                if not Path("/run/systemd/system").is_dir():
                    machine.run(*words, *port)
                    machine.run("agent", "uninstall", "--user")
            case ["agent", "install", "--dry-run"]:
                assert "ExecStart=" in machine.run(*words)
            case ["agent", "install", *_]:
                machine.run(*words, *image, *port)
                machine.boot()
            case ["agent", "status", *_]:
                # It can say only that it is to start: no systemd runs here.
                said = machine.run(*words, *image, check=False)
                assert "starts at boot" in said or json.loads(said)["enabled"]
            case ["agent", "uninstall"]:
                assert machine.manager is not None
                machine.manager.stop()
                machine.run(*words, *image)
            case ["route", "add", *_]:
                machine.run(*words, *port)
                until(lambda: self._site.answers("shop"), timeout_s=BACK_S)
            case ["route", "ls"]:
                assert "shop.localhost" in machine.run(*words, *port)
                self.seen_after_reboot = self.reboots > 0 and self._site.answers("shop")
            case _:
                machine.run(*words, *port)

    def _reboot(self) -> None:
        self.reboots += 1
        assert self._machine.manager is not None
        self._machine.manager.power_off()
        until(lambda: _status(self._site, "shop") == 503, timeout_s=BACK_S)
        self._machine.boot()
        until(lambda: self._site.answers("shop"), timeout_s=BACK_S)
