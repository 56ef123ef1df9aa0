import io
import json

import pytest

from moongate.cli.text import human_age, human_bytes, human_duration, json_line, neutralise, print_json, shortened


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[2J\x1b]0;owned\x07", "\\x1b[2J\\x1b]0;owned\\x07"),
        ("a\r\nb\tc", "a\\x0d\\x0ab\\x09c"),
        ("\x7f\x9b31m", "\\x7f\\x9b31m"),
        ("evil\u202egpj.exe", "evil\\u202egpj.exe"),
        ("line\u2028end", "line\\u2028end"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("lone\ud800", "lone\\ud800"),
        ("tag\U000e0041", "tag\\U000e0041"),
    ],
)
def test_what_a_terminal_would_act_on_is_shown_as_an_escape(hostile: str, shown: str) -> None:
    assert neutralise(hostile) == shown


@pytest.mark.parametrize("text", ["", "GET /a?b=1", "naïve café", "月の門", "a → b · c"])
def test_ordinary_text_is_left_as_it_is(text: str) -> None:
    assert neutralise(text) == text


def test_a_json_line_is_ascii_without_control_bytes_and_reads_back_the_same() -> None:
    members = {"path": "/\x1b[31m\x7f\u202e\n", "n": 1}
    line = json_line(members)
    assert line.isascii()
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert json.loads(line) == members


def test_a_json_line_is_one_write_so_that_no_reader_finds_half_of_it() -> None:
    writes: list[str] = []

    class Pipe(io.StringIO):
        def write(self, text: str) -> int:
            writes.append(text)
            return len(text)

    print_json({"n": 1}, Pipe())
    assert writes == ['{"n":1}\n']


def test_text_that_is_too_long_ends_in_an_ellipsis() -> None:
    assert shortened("abcdef", 4) == "abc…"
    assert shortened("abcd", 4) == "abcd"


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (150 * 1024, "150 KiB"),
        (2 * 1024**3, "2.0 GiB"),
        (5 * 1024**5, "5120 TiB"),
    ],
)
def test_bytes_are_short(count: int, shown: str) -> None:
    assert human_bytes(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.00004, "40 µs"),
        (0.00084, "0.8 ms"),
        (0.0125, "12 ms"),
        (0.9, "900 ms"),
        (1.25, "1.25 s"),
        (180, "3 min"),
        (7200, "2 h"),
        (172800, "2 d"),
    ],
)
def test_durations_are_short(seconds: float, shown: str) -> None:
    assert human_duration(seconds) == shown


def test_ages_are_said_to_the_second_at_best() -> None:
    assert human_age(0.3) == "now"
    assert human_age(12.4) == "12 s ago"
    assert human_age(240) == "4 min ago"
