import plistlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.cli import units
from moongate.errors import ConfigurationError
from testbed.service_manager import command_of, read_unit

SERVICE = units.Service(
    ("/opt/moongate/bin/moongate",), Path("/etc/moongate-agent/join"), Path("/home/me/state"), api_port=4100
)
# Whatever may stand in a path, but for the slash that parts it.
WORDS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1)


@given(WORDS)
def test_every_word_reaches_the_program_as_it_was_written(word: str) -> None:
    assert command_of(units.quoted(word), {}) == [word]


@pytest.mark.parametrize("word", ["", "two\nlines", "\0", "a\x7f"])
def test_what_no_unit_can_hold_is_refused_by_name(word: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be told of the path"):
        units.quoted(word)


def test_the_agent_of_a_machine_reads_its_join_string_from_a_copy_that_systemd_hands_it() -> None:
    unit = read_unit(units.system_unit(SERVICE))
    given = {"CREDENTIALS_DIRECTORY": "/run/credentials/x", "STATE_DIRECTORY": "/var/lib/moongate-agent"}
    (command,) = unit["ExecStart"]
    assert command_of(command, given) == [
        "/opt/moongate/bin/moongate",
        *("agent", "start", "--server", "@/run/credentials/x/join"),
        *("--home", "/var/lib/moongate-agent", "--api-port", "4100"),
    ]
    assert unit["LoadCredential"] == ["join:/etc/moongate-agent/join"]
    assert unit["WantedBy"] == ["multi-user.target"]


def test_the_agent_of_a_user_reads_its_own_files_and_needs_no_privilege() -> None:
    odd = replace(SERVICE, home=Path("/home/me/100 % of $HOME"), api_port=4101)
    unit = read_unit(units.user_unit(odd))
    (command,) = unit["ExecStart"]
    assert command_of(command, {})[-4:] == ["--home", "/home/me/100 % of $HOME", "--api-port", "4101"]
    assert unit["WantedBy"] == ["default.target"]
    # These need rights that a user's own manager seldom has: the agent would not start at all.
    assert not unit.keys() & {
        "DynamicUser",
        "LoadCredential",
        "ProtectSystem",
        "PrivateDevices",
        "CapabilityBoundingSet",
    }


@pytest.mark.parametrize("text", [units.system_unit(SERVICE), units.user_unit(SERVICE)])
def test_an_agent_is_started_again_for_ever_and_ended_when_it_hangs(text: str) -> None:
    unit = read_unit(text)
    assert unit["Type"] == ["notify"]
    assert unit["Restart"] == ["always"]
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert unit["WatchdogSec"] == [str(units.WATCHDOG_S)]
    assert unit["NoNewPrivileges"] == ["yes"]


def test_launchd_is_told_the_same_in_its_own_words() -> None:
    job = plistlib.loads(units.launchd_plist(SERVICE, Path("/home/me/state/agent.log")))
    assert job["ProgramArguments"] == SERVICE.arguments("@/etc/moongate-agent/join", "/home/me/state")
    assert (job["RunAtLoad"], job["KeepAlive"]) == (True, True)
    assert job["ThrottleInterval"] == units.RESTART_S
    assert job["StandardErrorPath"] == "/home/me/state/agent.log"
    assert "UserName" not in job


def test_a_job_of_the_machine_runs_as_the_user_that_is_named() -> None:
    odd = replace(SERVICE, home=Path('/Users/"me" & <you>'))
    job = plistlib.loads(units.launchd_plist(odd, Path("/tmp/log"), user="me"))
    assert job["UserName"] == "me"
    assert '/Users/"me" & <you>' in job["ProgramArguments"]
