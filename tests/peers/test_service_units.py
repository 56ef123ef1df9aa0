"""What systemd itself thinks of the units, and what `install` leaves in a system that is not running."""

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from moongate.cli import main, units
from moongate.errors import ConfigurationError
from testbed import require_peer
from testbed.service_manager import read_unit

SECRET = "hush-hush-token"
JOIN = f"moongate://gate.example.org:443/#{SECRET}"
# systemd-analyze counts from 0 (nothing can be done) to 10; a unit without any setting of this kind has 9.6.
MAX_EXPOSURE = 1.6


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.mkdir()
    return path


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home, with the folders that systemd and we look into."""
    home = tmp_path / "me"
    (home / "run").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
    monkeypatch.setenv("MOONGATE_HOME", str(home / "state"))
    return home


def analyze(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([require_peer("systemd-analyze"), *arguments], capture_output=True, text=True)


def join_given_by_file(folder: Path) -> str:
    path = folder / "given"
    path.write_text(JOIN, encoding="utf-8")
    return f"@{path}"


def contents(folder: Path) -> Mapping[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file()}


def test_the_unit_of_a_machine_is_valid_enabled_and_holds_no_secret(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require_peer("systemctl")
    assert main(["agent", "install", "--root", str(image), "--server", join_given_by_file(tmp_path)]) == 0
    unit = image / "etc/systemd/system" / units.UNIT
    checked = analyze("verify", "--man=no", unit)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert (unit.parent / "multi-user.target.wants" / units.UNIT).is_symlink()
    secrets = [path for path, text in contents(image).items() if SECRET in text]
    assert secrets == [image / "etc/moongate-agent/join"]
    assert secrets[0].stat().st_mode & 0o777 == 0o600
    assert SECRET not in capsys.readouterr().out
    assert main(["agent", "status", "--root", str(image), "--json"]) == 1
    state = json.loads(capsys.readouterr().out)
    assert (state["installed"], state["enabled"], state["running"]) == (True, True, False)


def test_installing_again_replaces_and_uninstalling_leaves_the_rules(image: Path, tmp_path: Path) -> None:
    require_peer("systemctl")
    assert main(["agent", "install", "--root", str(image), "--server", join_given_by_file(tmp_path)]) == 0
    # The node is known from the first time.
    assert main(["agent", "install", "--root", str(image), "--api-port", "4101"]) == 0
    assert (image / "etc/moongate-agent/join").read_text(encoding="utf-8").strip() == JOIN
    unit = image / "etc/systemd/system" / units.UNIT
    assert read_unit(unit.read_text(encoding="utf-8"))["ExecStart"][0].endswith("--api-port 4101")
    rules = image / "var/lib/moongate-agent/rules.json"
    rules.parent.mkdir(parents=True)
    rules.write_text("{}", encoding="utf-8")
    for _ in range(2):
        assert main(["agent", "uninstall", "--root", str(image)]) == 0
    assert list(contents(image)) == [rules]
    assert not (unit.parent / "multi-user.target.wants" / units.UNIT).is_symlink()


def test_the_unit_of_a_user_is_valid_and_enabled(person: Path, tmp_path: Path) -> None:
    require_peer("systemctl")
    if Path("/run/systemd/system").is_dir():
        pytest.skip("a systemd runs here, and would run this agent")
    assert main(["agent", "install", "--user", "--server", join_given_by_file(tmp_path)]) == 0
    unit = person / ".config/systemd/user" / units.UNIT
    checked = analyze("verify", "--user", "--man=no", unit)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert (unit.parent / "default.target.wants" / units.UNIT).is_symlink()
    assert SECRET not in unit.read_text(encoding="utf-8")
    join = person / ".config/moongate/agent-join"
    assert join.read_text(encoding="utf-8").strip() == JOIN
    assert join.stat().st_mode & 0o777 == 0o600
    assert main(["agent", "uninstall", "--user"]) == 0
    assert not join.exists()
    assert not unit.exists()


def test_systemd_finds_little_that_the_agent_of_a_machine_could_do_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["agent", "install", "--dry-run"]) == 0
    unit = tmp_path / units.UNIT
    unit.write_text(capsys.readouterr().out, encoding="utf-8")
    found = analyze("security", "--offline=yes", "--no-pager", unit)
    level = re.search(r"exposure level for \S+: (\d+\.\d+)", found.stdout)
    assert level is not None, found.stdout + found.stderr
    assert float(level[1]) <= MAX_EXPOSURE


@pytest.mark.parametrize("odd", ["with space", "100%n", "semi;colon", "ünïcode", "{x}", "#"])
def test_systemd_reads_an_odd_path_as_we_meant_it(odd: str, tmp_path: Path) -> None:
    folder = tmp_path / odd
    folder.mkdir()
    program = folder / "moongate"
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    service = units.Service((str(program),), folder / "join", folder / "state", 4100)
    unit = tmp_path / units.UNIT
    unit.write_text(units.system_unit(service), encoding="utf-8")
    checked = analyze("verify", "--man=no", unit)
    # It names the program it has read, because that is no program yet.
    assert f"Command {program} is not executable" in checked.stderr, checked.stderr
    program.chmod(0o755)
    checked = analyze("verify", "--man=no", unit)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("odd", ['a"b', "back\\slash", "it's"])
def test_a_program_that_systemd_would_not_run_is_refused_by_us(odd: str, tmp_path: Path) -> None:
    service = units.Service((f"/opt/{odd}/moongate",), tmp_path / "join", tmp_path / "state", 4100)
    with pytest.raises(ConfigurationError, match="systemd runs no program"):
        units.system_unit(service)
    unit = tmp_path / units.UNIT
    unit.write_text(f"[Service]\nExecStart={units.quoted(service.program[0])}\n", encoding="utf-8")
    assert "fatal error" in analyze("verify", "--man=no", unit).stderr
