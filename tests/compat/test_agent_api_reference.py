"""The pages on the agent's API say what it does, and their commands do what they say."""

import asyncio
import json
import logging
import re
import shlex
import subprocess
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog

from agent_bed import PREFIX, MemoryAgent
from moongate import __version__
from moongate.api.agent.app import agent_openapi_document
from moongate.api.agent.local import LocalApi
from moongate.api.agent.parts import LocalParts
from moongate.cli.app import run
from testbed.rules import published

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reference" / "agent-api.md").read_text(encoding="utf-8")
HOWTO = (DOCS / "howto" / "change-rules-while-it-runs.md").read_text(encoding="utf-8")
OPERATION = re.compile(r"^\| ([A-Z, ]+) \| `([\w/]+)` \| `(\w+)` \|", re.MULTILINE)
SHELL = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)


def example(title: str) -> Any:
    """Return the first example of JSON below a heading of the page."""
    found = re.search(rf"^### {title}\n(?:(?!^### ).)*?^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    return json.loads(found[1])


def test_every_operation_is_on_the_page_with_its_methods() -> None:
    written = {
        (f"{PREFIX}/{path}", method, name if number == 0 else f"{name}By{method.title()}")
        for methods, path, name in OPERATION.findall(PAGE)
        for number, method in enumerate(methods.split(", "))
    }
    document = {
        (path, method.upper(), operation["operationId"])
        for path, operations in agent_openapi_document(__version__)["paths"].items()
        for method, operation in operations.items()
    }
    assert len(written) > 15
    assert written == document


async def test_the_examples_of_the_page_have_the_members_of_real_answers(home: Path) -> None:
    async with published(home) as (_, made):
        assert (await made.ask("GET", "info")).keys() == example("Info").keys()
        assert (await made.ask("GET", "ports/allocate")).keys() == example("Ports").keys()
        site = example("Health")["services"][0]["http"]
        await made.ask("POST", "traffic/create", {"https": [site]})
        health = await made.ask("GET", "health")
        assert health.keys() == example("Health").keys()
        (service,) = health["services"]
        assert service.keys() == example("Health")["services"][0].keys()
        assert service["tunnel"].keys() == example("Health")["services"][0]["tunnel"].keys()
        constant = ("flowID", "flow", "available", "http")
        assert {name: service[name] for name in constant} == {
            name: example("Health")["services"][0][name] for name in constant
        }
        assert (await made.ask("POST", "traffic/create", example("Rules")))["status"] is True


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.password").write_text("open sesame\n")
    (tmp_path / "api.token").write_text("any\n")
    return tmp_path


@pytest.fixture
def agent() -> MemoryAgent:
    return MemoryAgent()


@pytest.fixture
async def api(agent: MemoryAgent) -> AsyncIterator[LocalApi]:
    made = LocalApi(LocalParts(agent=agent), port=0)
    await made.start()
    yield made
    await made.aclose()


async def test_the_how_tos_commands_and_requests_work_from_top_to_bottom(
    folder: Path, agent: MemoryAgent, api: LocalApi
) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    lines = [line for block in SHELL.findall(HOWTO) for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("moongate ") and " start " not in line]
    requests = [line for line in lines if line.startswith("curl ") and " -N " not in line]
    assert (len(commands), len(requests)) == (12, 5)
    for words in commands:
        assert await asyncio.to_thread(run, [*words, "--api-port", str(api.port)]) == 0, words
    for line in requests:
        script = f"api={api.url}{PREFIX}\n{line.replace('curl ', 'curl -qsS --noproxy * ', 1)}"
        # -f: the star is curl's.
        done = await asyncio.to_thread(partial(subprocess.run, ["/bin/sh", "-f", "-c", script], capture_output=True))
        assert json.loads(done.stdout)["status"] is True, (line, done)
    assert sorted(agent.book.https) == ["notes.gate.example.org", "shop.gate.example.org"]
    assert agent.book.https["shop.gate.example.org"].redirect
    assert sorted(agent.book.portmaps) == ["15001", "15432"]
