"""The sample service of the demonstration."""

from collections.abc import Iterator

import httpx
import pytest

from moongate.cli.sample import BODY_MAX_BYTES, SampleService


@pytest.fixture
def sample() -> Iterator[SampleService]:
    service = SampleService()
    yield service
    service.close()


@pytest.fixture
def client(sample: SampleService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{sample.port}", trust_env=False) as client:
        yield client


def test_the_page_is_there_and_head_has_its_length(client: httpx.Client) -> None:
    page = client.get("/?from=test")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    head = client.head("/")
    assert (head.content, head.headers["content-length"]) == (b"", page.headers["content-length"])


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_the_echo_answers_what_it_got(client: httpx.Client, method: str) -> None:
    content = b"" if method == "GET" else "größe".encode()
    seen = client.request(method, "/echo?a=1", content=content, headers=[("X-Twice", "1"), ("X-Twice", "2")]).json()
    assert (seen["method"], seen["path"], seen["body"]) == (method, "/echo?a=1", content.decode())
    assert seen["headers"]["x-twice"] == ["1", "2"]


def test_the_echo_takes_no_more_than_its_limit(client: httpx.Client) -> None:
    assert client.post("/echo", content=b"x" * BODY_MAX_BYTES).status_code == 200
    assert client.post("/echo", content=b"x" * (BODY_MAX_BYTES + 1)).status_code == 413
    assert client.post("/echo", content=iter([b"x"])).status_code == 413


def test_what_is_not_there_is_said(client: httpx.Client) -> None:
    assert client.get("/nothing").status_code == 404
    assert client.delete("/").status_code == 405


def test_stopping_ends_the_clocks_that_run(sample: SampleService) -> None:
    with httpx.stream("GET", f"http://127.0.0.1:{sample.port}/clock", trust_env=False, timeout=10) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        sample._server.stopping.set()
        assert not [line for line in lines if line]
