"""What the agent's OpenAPI document promises is what its API does, whatever a generator sends it."""

import asyncio
import logging
import sys
from pathlib import Path

import pytest
import structlog

from agent_bed import PREFIX, MemoryAgent
from moongate.api.agent.local import LocalApi
from moongate.api.agent.parts import LocalParts

EXAMPLES = 12
TIME_S = 20
# A request that was understood is answered 200 and says in its envelope that it is refused: programs expect that here.
NOT_HERE = "negative_data_rejection"


@pytest.mark.slow
async def test_schemathesis_finds_nothing_in_the_agents_api(tmp_path: Path) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    agent = MemoryAgent()
    await agent.allocate(22872, "tcp")
    await agent.create({"https": [{"domain": "shop.example.test", "upstreamURL": "http://127.0.0.1:9001"}]})
    api = LocalApi(LocalParts(agent=agent), port=0)
    await api.start()
    arguments = [f"{api.url}{PREFIX}/openapi.json", "--checks", "all", "--exclude-checks", NOT_HERE]
    arguments += ["--max-examples", str(EXAMPLES), "--max-time", str(TIME_S), "--seed", "1", "--no-color"]
    try:
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("schemathesis"),
            "run",
            *arguments,
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    finally:
        await api.aclose()
    assert process.returncode == 0, output.decode()
    assert b"No issues found" in output
