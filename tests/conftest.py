"""Fixtures of every test. What a test leaves behind is a failure of that test."""

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import psutil
import pytest
import structlog
import uvloop
from hypothesis import HealthCheck, settings

import testbed

# Two cores are shared with whatever else runs there: a slow example is not a failure.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "default")


LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
# What talks over real sockets runs on the loop that a node runs on.
ON_UVLOOP = {"integration", "peers", "compat"}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Choose the loop by the test's folder; `pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])` runs on both."""
    marker = item.get_closest_marker("asyncio")
    if marker is not None and "loop_factories" in marker.kwargs:
        return LOOPS
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    name = "uvloop" if folder in ON_UVLOOP else "asyncio"
    return {name: LOOPS[name]}


@pytest.fixture
def free_port() -> Callable[[], int]:
    return testbed.free_port


@pytest.fixture
def require_peer() -> Callable[[str], str]:
    return testbed.require_peer


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A state directory of its own."""
    path = tmp_path / "home"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture(autouse=True, scope="session")
def _no_process_left() -> Iterator[None]:
    yield
    left = psutil.Process().children(recursive=True)
    _, alive = psutil.wait_procs(left, timeout=2)
    names = [f"{process.pid} {process.name()}" for process in alive if process.is_running()]
    for process in alive:
        process.kill()
    assert names == [], "the tests left processes behind"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing of the person who runs the tests: neither their settings nor their state."""
    for name in [name for name in os.environ if name.startswith("MOONGATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.getbasetemp() / "data"))


@pytest.fixture(autouse=True)
def _log_set_up_by_nobody() -> None:
    """A test that sets up logging must not set it up for the next one."""
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _no_task_left(request: pytest.FixtureRequest) -> None:
    function = getattr(request, "function", None)
    if inspect.iscoroutinefunction(inspect.unwrap(function)) if function else False:
        request.getfixturevalue("_tasks_end")


@pytest.fixture
async def _tasks_end() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    for _ in range(20):
        left = {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task() and not task.done()}
        if not left:
            return
        await asyncio.sleep(0.005)
    pytest.fail("the test left tasks behind: " + ", ".join(sorted(str(task.get_coro()) for task in left)))
