"""What the OpenAPI document promises is what the running application does, whatever a generator sends it."""

import asyncio
import logging
import sys
from pathlib import Path

import pytest
import structlog

from api_bed import ADMIN_TOKEN, Sent, api_bed, make_capture
from moongate.audit.exchanges import Capture
from moongate.audit.ids import Ids

# Of a run without end a bounded part; `--phases` leaves the order to the tool.
EXAMPLES = 12
TIME_S = 20


@pytest.mark.slow
async def test_schemathesis_finds_nothing(home: Path, tmp_path: Path) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    ids = Ids()

    def resend(sent: Sent) -> Capture:
        return make_capture(ids, sent.tunnel.id, method=sent.method, path=sent.path, request_headers=sent.headers)

    async with api_bed(home, resend=resend) as bed:
        for number in range(3):
            tunnel = await bed.open_tunnel(f"tunnel{number}", kind="tcp" if number == 2 else "http")
            bed.capture(tunnel.id, method="POST", request_body=b"hello", response_body=b"\xff")
        for label in ("ci-deploy", "laptop"):
            await bed.client.post("/api/tokens", json={"label": label})
        arguments = [
            f"{bed.url}/api/openapi.json",
            "--header",
            f"Authorization: Bearer {ADMIN_TOKEN}",
            "--checks",
            "all",
        ]
        arguments += ["--max-examples", str(EXAMPLES), "--max-time", str(TIME_S), "--seed", "1", "--no-color"]
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("schemathesis"),
            "run",
            *arguments,
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert b"No issues found" in output
