"""Each target for a second or so, with mutations of its seeds; for longer, `python -m fuzz`."""

import random
import time

import pytest

from fuzz.mutating import mutate
from fuzz.targets import TARGETS

SECONDS = 1.0
ROUNDS_MAX = 20_000


def test_every_parser_of_wire_has_a_target() -> None:
    parsers = {"requests", "answers", "heads", "client_hello", "proxy_header", "frames"}
    assert set(TARGETS) >= parsers
    assert all(target.seeds for target in TARGETS.values())


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_accepted_or_refused(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].run(seed)
    TARGETS[name].run(b"")


@pytest.mark.parametrize("name", TARGETS)
def test_mutations_are_accepted_or_refused(name: str) -> None:
    target = TARGETS[name]
    chance = random.Random(name)
    end = time.monotonic() + SECONDS
    for _ in range(ROUNDS_MAX):
        data = mutate(chance.choice(target.seeds), chance.choice(target.seeds), chance)
        try:
            target.run(data)
        except BaseException:
            print("found by", data)
            raise
        if time.monotonic() > end:
            break
