"""The page on the REST API says what the application does."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from api_bed import ApiBed, api_bed, make_capture
from moongate import __version__
from moongate.api.app import openapi_document

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "rest-api.md").read_text(encoding="utf-8")
EXAMPLES = {
    title: json.loads(example)
    for title, example in re.findall(r"^### (\w+)\n(?:(?!^### ).)*?^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
}


@pytest.fixture
async def bed(home: Path) -> AsyncIterator[ApiBed]:
    async with api_bed(home, resend=lambda sent: make_capture(made.ids, sent.tunnel.id)) as made:
        yield made


def members(shown: Any) -> Any:
    """Return what an answer is made of: the names of its members, at every depth."""
    match shown:
        case dict():
            return {name: members(value) for name, value in shown.items()}
        case list():
            return [members(shown[0])] if shown else []
        case _:
            return None


def test_every_operation_is_on_the_page_with_its_statuses() -> None:
    rows = re.findall(r"^\| `([A-Z]+) (/api/\S+)` \| `(\w+)` \| ([^|]+) \|$", PAGE, re.MULTILINE)
    written = {(method, path, name): set(re.findall(r"\b\d{3}\b", statuses)) for method, path, name, statuses in rows}
    document = {
        (method.upper(), path, operation["operationId"]): set(operation["responses"]) - {"401", "503"}
        for path, operations in openapi_document(__version__)["paths"].items()
        for method, operation in operations.items()
    }
    assert len(written) > 10
    assert written == document


async def test_the_examples_of_the_page_have_the_members_of_real_answers(bed: ApiBed) -> None:
    tunnel = await bed.open_tunnel()
    capture = bed.capture(tunnel.id, request_body=b"x", response_body=b"x")
    bed.parts.connections.open(
        "HTTP", tunnel_id=tunnel.id, tunnel_name=tunnel.name, identity="admin", remote_address="198.51.100.7:40122"
    )
    made = await bed.client.post("/api/tokens", json={"label": "ci-deploy"})
    paths = {
        "Status": "/api/status",
        "Tunnels": "/api/tunnels",
        "Requests": f"/api/tunnels/{tunnel.id}/requests",
        "Tokens": "/api/tokens",
        "History": "/api/history",
        "Connections": "/api/connections",
        "Certificates": "/api/certificates",
    }
    answers = {title: members((await bed.client.get(path)).json()) for title, path in paths.items()}
    assert answers == {title: members(EXAMPLES[title]) for title in paths}
    created = next(
        json.loads(text)
        for text in re.findall(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
        if '"token":' in text
    )
    assert members(made.json()) == members(created)
    replay = (await bed.client.post(f"/api/tunnels/{tunnel.id}/replay/{capture.public()['id']}?send=true")).json()[
        "replay"
    ]
    example = EXAMPLES["Replay"]["replay"]
    assert replay.keys() == example.keys()
    assert {part: replay["diff"][part].keys() for part in example["diff"]} == {
        part: example["diff"][part].keys() for part in example["diff"]
    }
