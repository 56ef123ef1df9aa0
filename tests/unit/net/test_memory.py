from collections.abc import Iterator

import pytest

from moongate.net import memory


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    memory._glibc.cache_clear()
    memory.tune_allocator.cache_clear()
    yield
    memory._glibc.cache_clear()
    memory.tune_allocator.cache_clear()


def test_glibc_takes_what_it_is_told() -> None:
    if memory._glibc() is None:
        pytest.skip("this is not glibc")
    assert memory.tune_allocator() is True
    memory.return_memory()


def test_on_other_systems_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moongate.net.memory.sys.platform", "darwin")
    assert memory.tune_allocator() is False
    memory.return_memory()
