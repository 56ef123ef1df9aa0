"""The example of a container: what hadolint finds in it, and whether what it names exists."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTAINERFILE = ROOT / "examples" / "Containerfile"


def instructions() -> list[tuple[str, str]]:
    """Return each instruction and its arguments; we continue no line."""
    text = CONTAINERFILE.read_text(encoding="utf-8")
    assert "\\\n" not in text
    return [
        (name, rest)
        for name, _, rest in (line.partition(" ") for line in text.splitlines())
        if name and not name.startswith("#")
    ]


def arguments(wanted: str) -> list[str]:
    found = [rest for name, rest in instructions() if name == wanted]
    assert found, wanted
    return found


def test_hadolint_finds_nothing() -> None:
    # It comes with the development environment, where there is one for the platform.
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("hadolint has no build for this platform")
    command = [str(program), "--no-color", "--failure-threshold", "style", str(CONTAINERFILE)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_every_file_that_is_copied_into_the_build_exists() -> None:
    copied = [words.split()[:-1] for words in arguments("COPY") if not words.startswith("--from=")]
    assert copied
    missing = [name for names in copied for name in names if not (ROOT / name).exists()]
    assert missing == []


def test_the_agent_in_it_is_nobody_and_its_state_is_a_volume_of_its_own() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", arguments("USER")[-1])
    assert "MOONGATE_HOME=/data" in " ".join(arguments("ENV"))
    assert json.loads(arguments("VOLUME")[-1]) == ["/data"]


def test_the_commands_in_it_exist() -> None:
    reference = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    entry = json.loads(arguments("ENTRYPOINT")[-1])
    check = json.loads(arguments("HEALTHCHECK")[-1].partition("CMD ")[2])
    for command in (entry, check):
        assert f"\n## {' '.join(command)}\n" in reference
    server, place = json.loads(arguments("CMD")[-1])
    assert server in reference.partition(f"\n## {' '.join(entry)}\n")[2]
    # The secret comes as a file: arguments and variables can be seen from outside.
    assert place.startswith("@/run/secrets/")
