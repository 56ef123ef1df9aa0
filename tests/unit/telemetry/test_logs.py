import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from moongate.telemetry import get_logger, setup_logging


class Output:
    """What was written to standard error until now."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._read = ""

    def text(self) -> str:
        self._read += self._capsys.readouterr().err
        return self._read

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def out(capsys: pytest.CaptureFixture[str]) -> Iterator[Output]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield Output(capsys)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_logs_are_one_object_a_line(out: Output) -> None:
    setup_logging("info", "json")
    get_logger("moongate.edge.ingress").info("request ended", status=200, path="/a\nb")
    [line] = out.lines()
    assert (line["event"], line["status"], line["path"]) == ("request ended", 200, "/a\nb")
    assert (line["level"], line["source"]) == ("info", "edge.ingress")
    assert line["timestamp"].endswith("Z")


def test_libraries_log_in_the_same_format(out: Output) -> None:
    setup_logging("info", "json")
    logging.getLogger("other.package").warning("disk %s is full", "sda")
    [line] = out.lines()
    assert (line["event"], line["source"], line["level"]) == ("disk sda is full", "other.package", "warning")


def test_the_level_follows_a_reload(out: Output) -> None:
    setup_logging("warning", "json")
    log = get_logger("moongate.x")
    log.info("unheard")
    setup_logging("debug", "json")
    log.debug("heard")
    assert [line["event"] for line in out.lines()] == ["heard"]


@pytest.mark.parametrize(
    "key", ["token", "raw_token", "admin_token", "password", "Authorization", "cookie", "set_cookie", "api_key", "join"]
)
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_values_of_keys_that_name_a_secret_are_dropped(out: Output, key: str, log_format: Any) -> None:
    setup_logging("info", log_format)
    get_logger("moongate.x").info("login", **{key: "hush"})
    assert "hush" not in out.text()
    assert "***" in out.text()


@pytest.mark.parametrize(
    "text",
    [
        "got Authorization: Bearer hush",
        "joining moongate://127.0.0.1:7171/#hush.abcdef",
        "opening postgresql://me:hush@db/x",
    ],
)
def test_what_looks_like_a_secret_inside_a_text_is_masked(out: Output, text: str) -> None:
    setup_logging("info", "json")
    get_logger("moongate.x").info(text, headers={"cookie": "hush", "list": [text]})
    logging.getLogger("lib").error(text)
    assert len(out.lines()) == 2
    assert "hush" not in out.text()


def test_a_token_in_a_traceback_is_masked(out: Output) -> None:
    setup_logging("info", "json")
    try:
        raise ValueError("refused: Bearer hush")
    except ValueError:
        get_logger("moongate.x").exception("failed")
    assert "ValueError" in out.text()
    assert "hush" not in out.text()


def test_an_id_of_a_token_is_no_secret(out: Output) -> None:
    setup_logging("info", "json")
    get_logger("moongate.x").info("session opened", token_id="0a1b", count=0)
    assert (out.lines()[0]["token_id"], out.lines()[0]["count"]) == ("0a1b", 0)


def test_control_bytes_of_strangers_do_not_reach_a_terminal(out: Output) -> None:
    setup_logging("info", "console")
    get_logger("moongate.x").info("request", path="/\x1b]0;owned\x07\r\x9b2J")
    logging.getLogger("lib").warning("agent \x1b[2J")
    assert "\\x1b" in out.text()
    assert not set("\x1b\x07\r\x9b") & set(out.text())


def test_ids_bound_to_a_context_are_on_every_line(out: Output) -> None:
    setup_logging("info", "json")
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        get_logger("moongate.x").info("inside")
    assert out.lines()[0]["request_id"] == "r-1"
