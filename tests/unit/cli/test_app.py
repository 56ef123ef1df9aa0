"""Whole command lines that need no node."""

import json
import re
from pathlib import Path

import pytest

from moongate import __version__
from moongate.cli import main

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOONGATE_HOME", str(tmp_path))
    for name in ("MOONGATE_SERVER", "MOONGATE_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"moongate {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["htp", "3000"], "did you mean 'http'"),
        (["http", "3000", "--subdomian", "x"], "--subdomain"),
        (["http"], "missing argument"),
        (["http", "3000", "--rate-limit", "many"], "invalid value for '--rate-limit'"),
        (["http", "3000"], "which node?"),
        (["http", "ftp://x"], "cannot be 'ftp://x'"),
        (["tcp", "5432", "--proxy-protocol", "v3"], "cannot be 'v3'"),
        (["static", "missing-folder"], "there is no directory"),
        (["up", "-f", "missing.toml"], "cannot read missing.toml"),
        (["join"], "there is no join string"),
        (["config", "check", "missing.toml"], "cannot read missing.toml"),
        (["status", "--api", "ftp://x"], "cannot be 'ftp://x'"),
        (["token", "create", "x", "--expires", "soon"], "cannot be 'soon'"),
    ],
)
def test_a_slip_is_one_clear_line_and_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error, *more = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert said.lower() in error.lower()
    assert all(line.startswith("hint: ") for line in more)


@pytest.mark.parametrize("words", [[], ["agent"], ["token"]])
def test_without_a_command_there_is_help_and_no_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert said.startswith(" ".join(["Usage: moongate", *words]))
    assert "error:" not in said
    assert len(said.splitlines()) > 5


def test_a_slip_is_an_event_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["http", "3000", "--json"]) == 2
    captured = capsys.readouterr()
    event = json.loads(captured.out)
    assert (event["event"], event["code"]) == ("error", "usage.invalid")
    assert captured.err == ""


def test_control_bytes_in_an_argument_are_neutralised(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["\x1b[31mhttp"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_a_node_that_is_not_there_is_exit_code_5_for_the_rest_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--api", "http://127.0.0.1:1"]) == 5
    assert "cannot reach http://127.0.0.1:1" in capsys.readouterr().err


def test_settings_are_checked_shown_and_described(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "moongate.toml").write_text('admin_token = "hush"\n[limits]\nrate_limit_rps = 7\n', encoding="utf-8")
    assert main(["config", "check"]) == 0
    assert main(["config", "show", "--json"]) == 0
    assert main(["config", "show"]) == 0
    shown = capsys.readouterr().out
    assert '"key":"limits.rate_limit_rps","value":"7"' in shown
    assert "hush" not in shown
    assert main(["config", "schema"]) == 0
    assert "limits" in json.loads(capsys.readouterr().out)["properties"]


def test_an_unknown_setting_is_named_with_a_suggestion(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "moongate.toml").write_text('lissten = "x"\n', encoding="utf-8")
    assert main(["config", "check"]) == 2
    assert "did you mean 'listen'" in capsys.readouterr().err


def test_every_flag_in_the_guides_exists() -> None:
    reference = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    pages = [*(ROOT / "docs" / "howto").glob("*.md"), *(ROOT / "docs" / "tutorial").glob("*.md")]
    commands = [
        line
        for page in pages
        for line in re.findall(r"^(?:sudo )?(moongate .*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert commands
    for command in commands:
        words = command.split(">")[0].split()
        names = [" ".join(words[:count]) for count in (4, 3, 2)]
        name = next((name for name in names if f"\n## {name}\n" in reference), command)
        section = reference.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert section, command
        for flag in re.findall(r"(?<=\s)--?[a-z][a-z-]*", command):
            assert re.search(rf"(?:^|[\s,]){flag}[\s,]", section), f"{flag} in: {command}"


def test_the_tunnels_files_in_the_guides_can_be_read(tmp_path: Path) -> None:
    from moongate.cli.tunnels import load_tunnels

    text = (ROOT / "docs" / "howto" / "several-at-once.md").read_text(encoding="utf-8")
    examples = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert examples
    (tmp_path / "public").mkdir()
    for example in examples:
        (tmp_path / "tunnels.toml").write_text(example, encoding="utf-8")
        assert load_tunnels(tmp_path / "tunnels.toml").tunnels
