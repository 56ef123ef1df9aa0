"""What the tests with real peers share."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from peers_bed import Site, Tunnel, publishing

Publish = Callable[..., Tunnel]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The node that most tests share; those that stop or change one start their own."""
    with Site(tmp_path_factory.mktemp("site") / "home") as site:
        yield site


@pytest.fixture
def publish(site: Site) -> Iterator[Publish]:
    """Open tunnels on the shared node that end with the test."""
    with ExitStack() as stack:
        yield lambda *arguments, **env: stack.enter_context(publishing(site, *arguments, **env))
