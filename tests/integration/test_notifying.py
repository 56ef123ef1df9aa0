"""What a service manager hears from an agent, on a socket of the tests."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from moongate.agent.systemd import Notifier
from testbed import until_async

WATCHDOG_S = 0.2


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket as systemd has it, and its address as NOTIFY_SOCKET writes it."""
    name = f"@moongate-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0", 1) if request.param == "abstract" else name)
        listener.setblocking(False)
        yield listener, name


def heard(listener: socket.socket) -> list[str]:
    messages = []
    try:
        while True:
            messages.append(listener.recv(4096).decode())
    except BlockingIOError:
        return messages


@asynccontextmanager
async def watched(notifier: Notifier, alive: list[bool]) -> AsyncIterator[asyncio.Task[None]]:
    """Run the watchdog; whether the agent is alive is in the list."""
    task = asyncio.create_task(notifier.watchdog(lambda: alive[0]))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_readiness_status_and_the_end_are_told_in_order(manager: tuple[socket.socket, str]) -> None:
    listener, name = manager
    notifier = Notifier.from_env({"NOTIFY_SOCKET": name})
    notifier.status("starting")
    notifier.ready()
    notifier.status("online")
    notifier.status("online")
    notifier.stopping()
    assert heard(listener) == ["STATUS=starting", "READY=1", "STATUS=online", "STOPPING=1"]


def test_a_status_is_one_short_line_whatever_is_in_it(manager: tuple[socket.socket, str]) -> None:
    listener, name = manager
    Notifier.from_env({"NOTIFY_SOCKET": name}).status("lost\nREADY=1\r\x1b " + "x" * 1000)
    (message,) = heard(listener)
    assert "\n" not in message
    assert message.startswith("STATUS=lost READY=1")
    assert len(message) < 300


async def test_signs_of_life_come_twice_in_the_time_that_the_watchdog_allows(
    manager: tuple[socket.socket, str],
) -> None:
    listener, name = manager
    notifier = Notifier.from_env({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))})
    assert notifier.watchdog_s == WATCHDOG_S
    messages: list[str] = []

    def five() -> bool:
        messages.extend(heard(listener))
        return len(messages) >= 5

    async with watched(notifier, [True]):
        began = asyncio.get_running_loop().time()
        await until_async(five)
        took_s = asyncio.get_running_loop().time() - began
    assert set(messages) == {"WATCHDOG=1"}
    # The first comes at once, so that five take four intervals; more would be waste.
    assert took_s >= 3 * WATCHDOG_S / 2


async def test_an_agent_that_is_not_alive_gives_no_sign_and_says_why(
    manager: tuple[socket.socket, str], capsys: pytest.CaptureFixture[str]
) -> None:
    listener, name = manager
    notifier = Notifier.from_env({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "20000"})
    alive = [True]
    async with watched(notifier, alive):
        await until_async(lambda: heard(listener))
        alive[0] = False
        await until_async(lambda: not heard(listener))
        await asyncio.sleep(0.05)
        assert heard(listener) == []
        alive[0] = True
        await until_async(lambda: heard(listener))
    assert "no sign of life" in capsys.readouterr().out


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "²"},
        {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
    ],
)
async def test_without_a_watchdog_of_ours_there_is_nothing_to_wait_for(
    variables: dict[str, str], tmp_path: Path
) -> None:
    notifier = Notifier.from_env({"NOTIFY_SOCKET": str(tmp_path / "notify"), **variables})
    assert notifier.watchdog_s is None
    await asyncio.wait_for(notifier.watchdog(lambda: True), 5)


def test_a_watchdog_that_names_this_process_is_ours() -> None:
    variables = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}
    assert Notifier.from_env(variables).watchdog_s == 1


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative/path"])
async def test_without_a_manager_everything_is_silent(address: str) -> None:
    notifier = Notifier.from_env({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"})
    notifier.ready()
    notifier.status("x")
    notifier.stopping()
    await asyncio.wait_for(notifier.watchdog(lambda: True), 5)


def test_a_manager_that_is_gone_or_never_reads_does_not_hold_the_agent_up(tmp_path: Path) -> None:
    gone = Notifier.from_env({"NOTIFY_SOCKET": str(tmp_path / "missing")})
    gone.ready()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "full"))
        full = Notifier.from_env({"NOTIFY_SOCKET": str(tmp_path / "full")})
        for number in range(30):
            full.status(f"line {number}")
