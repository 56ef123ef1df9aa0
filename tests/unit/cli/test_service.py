"""Services as commands make them, as far as no service manager is asked."""

import os
import plistlib
import sys
from pathlib import Path

import pytest

from moongate.cli import launchd_service, main, service, systemd_service
from moongate.cli.outcome import UsageError
from moongate.cli.service_steps import PRIVATE, ServiceFailed, ServiceState, ask, write
from moongate.errors import ConfigurationError
from testbed.service_manager import read_unit

SECRET = "hush-hush-token"
JOIN = f"moongate://gate.example.org:443/#{SECRET}"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MOONGATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("SUDO_USER", raising=False)
    return tmp_path


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("scope", [[], ["--user"]])
def test_a_dry_run_prints_the_unit_alone_and_changes_nothing(
    scope: list[str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["agent", "install", "--dry-run", "--api-port", "4177", *scope]) == 0
    captured = capsys.readouterr()
    unit = read_unit(captured.out)
    assert unit["ExecStart"][0].endswith("--api-port 4177")
    assert "moongate-agent.service" in captured.err
    assert files(home) == []


def test_on_macos_a_dry_run_prints_the_property_list(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert service.dry_run(service.manager_for(user=True, platform="darwin"), 4100) == 0
    job = plistlib.loads(capsys.readouterr().out.encode())
    assert job["Label"] == "moongate.agent"
    assert f"@{home}/state/agent-join" in job["ProgramArguments"]


def test_a_job_of_the_machine_is_its_installers_and_never_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = service.manager_for(user=False, platform="darwin")
    for name in ("", "root"):
        monkeypatch.setenv("SUDO_USER", name)
        with pytest.raises(UsageError, match="does not run as root"):
            manager.text(4100)
    monkeypatch.setenv("SUDO_USER", "me")
    assert plistlib.loads(manager.text(4100).encode())["UserName"] == "me"


@pytest.mark.parametrize("platform", ["win32", "freebsd14"])
def test_a_system_without_a_known_service_manager_is_told_what_to_run(platform: str) -> None:
    with pytest.raises(UsageError) as refused:
        service.manager_for(user=False, platform=platform)
    assert "moongate agent start" in refused.value.hint


def test_another_systems_folder_and_a_user_contradict_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agent", "install", "--user", "--root", "/mnt"]) == 2
    assert "--root" in capsys.readouterr().err


def test_only_root_installs_a_service_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["agent", "install", "--server", JOIN]) == 2
    captured = capsys.readouterr()
    assert "--user" in captured.err
    assert SECRET not in captured.out + captured.err.replace(JOIN, "")


@pytest.mark.parametrize("server", ["http://127.0.0.1:7171", "https://gate.example.org"])
def test_a_node_that_a_service_could_not_reach_by_itself_is_refused(
    server: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["agent", "install", "--root", str(home), "--server", server]) == 2
    assert "join string" in capsys.readouterr().err
    assert files(home) == []


def test_a_program_that_the_services_user_cannot_reach_is_named_before_anything_is_written(home: Path) -> None:
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    program = closed / "moongate"
    program.touch(mode=0o755)
    with pytest.raises(ConfigurationError, match=str(closed)):
        systemd_service.need_reach((str(program),))


def test_a_secret_is_never_readable_by_others_even_where_the_file_was(home: Path) -> None:
    path = home / "made" / "join"
    write(path, "one", 0o644)
    write(path, "two", PRIVATE)
    assert path.read_text(encoding="utf-8") == "two"
    assert path.stat().st_mode & 0o777 == PRIVATE
    assert [one.name for one in path.parent.iterdir()] == ["join"]


def test_a_program_that_is_not_there_and_one_that_fails_are_said() -> None:
    with pytest.raises(ServiceFailed, match="there is no moongate-no-such-program"):
        ask(["moongate-no-such-program"])
    with pytest.raises(ServiceFailed, match="failed: no such job"):
        ask([sys.executable, "-c", "import sys; sys.exit('no such job')"])
    assert ask([sys.executable, "-c", "raise SystemExit(3)"], check=False).returncode == 3


def test_without_a_service_status_says_so_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agent", "status", "--user"]) == 1
    assert capsys.readouterr().out.startswith("not installed")
    assert main(["agent", "status", "--user", "--json"]) == 1
    assert '"installed":false' in capsys.readouterr().out
    assert main(["agent", "uninstall", "--user"]) == 0
    assert capsys.readouterr().out.startswith("there is no service")


def test_what_systemd_shows_is_understood(tmp_path: Path) -> None:
    told = {
        "ActiveState": "active",
        "SubState": "running",
        "UnitFileState": "enabled",
        "StatusText": "online",
        "MainPID": "77",
        "NRestarts": "2",
    }
    state = systemd_service.state_from(tmp_path, told)
    assert state == ServiceState(tmp_path, True, True, "active (running)", True, "online", 77, 2)
    assert systemd_service.state_from(tmp_path, {"ActiveState": "failed", "MainPID": "0"}).pid is None


LAUNCHCTL = "gui/501/moongate.agent = {\n\tactive count = 1\n\tstate = running\n\n\tprogram = /x\n\tpid = 4242\n}\n"


def test_what_launchctl_prints_is_understood(tmp_path: Path) -> None:
    state = launchd_service.state_from(tmp_path, LAUNCHCTL)
    assert (state.running, state.enabled, state.pid) == (True, True, 4242)
    gone = launchd_service.state_from(tmp_path, "")
    assert (gone.running, gone.enabled, gone.state) == (False, False, "not loaded")
