from pathlib import Path

import pytest

from moongate.cli import places
from moongate.cli.outcome import UsageError
from moongate.errors import ConfigurationError

FINGERPRINT = "ab" * 32
JOIN = f"moongate://127.0.0.1:7171/#admin-secret.{FINGERPRINT}"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOONGATE_HOME", str(tmp_path))
    monkeypatch.delenv("MOONGATE_SERVER", raising=False)
    monkeypatch.delenv("MOONGATE_TOKEN", raising=False)
    return tmp_path


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_an_agent_finds_the_node_of_this_machine_by_itself(home: Path) -> None:
    written(home / "join", JOIN + "\n")
    address = places.node_address(None, None)
    assert (address.host, address.port, address.token, address.fingerprint) == (
        "127.0.0.1",
        7171,
        "admin-secret",
        FINGERPRINT,
    )


def test_the_flag_wins_over_the_environment_and_that_over_the_local_node(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(home / "join", JOIN)
    monkeypatch.setenv("MOONGATE_SERVER", JOIN.replace("127.0.0.1", "env.example.org"))
    assert places.node_address(None, None).host == "env.example.org"
    flag = JOIN.replace("127.0.0.1", "flag.example.org")
    assert places.node_address(flag, None).host == "flag.example.org"
    assert places.node_address(f"@{written(home / 'other', flag)}", None).host == "flag.example.org"


def test_without_any_node_the_error_says_how_to_name_one() -> None:
    with pytest.raises(UsageError) as refused:
        places.node_address(None, None)
    assert "moongate join" in refused.value.hint


def test_a_token_file_wins_over_the_environment_and_that_over_the_join_string(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert places.node_address(JOIN, None).token == "admin-secret"
    monkeypatch.setenv("MOONGATE_TOKEN", "from-env")
    assert places.node_address(JOIN, None).token == "from-env"
    assert places.node_address(JOIN, written(home / "t", " from-file\n")).token == "from-file"


def test_a_url_without_a_token_is_refused_before_anything_is_dialed() -> None:
    with pytest.raises(UsageError, match=r"there is no token for gate\.example\.org:443"):
        places.node_address("https://gate.example.org", None)


@pytest.mark.parametrize("text", ["", "  \n", "two\nlines"])
def test_a_secret_file_holds_exactly_one_line(home: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match="must hold exactly one line"):
        places.read_secret(written(home / "t", text))


def test_a_secret_file_that_cannot_be_read_is_named(home: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        places.read_secret(home / "missing")
    (home / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="not text"):
        places.read_secret(home / "binary")


def test_the_join_string_can_carry_another_address_and_token(home: Path) -> None:
    written(home / "join", JOIN)
    assert places.join_string(None, None) == JOIN
    assert (
        places.join_string("gate.example.org", None) == f"moongate://gate.example.org:7171/#admin-secret.{FINGERPRINT}"
    )
    token = written(home / "t", "guest")
    assert places.join_string("[2001:db8::1]:443", token) == f"moongate://[2001:db8::1]:443/#guest.{FINGERPRINT}"


@pytest.mark.parametrize("host", ["a b", "https://gate", "gate:0", "gate:70000", "2001:db8::1", "gate/x", "me@gate"])
def test_a_public_address_that_cannot_be_read_is_refused(home: Path, host: str) -> None:
    written(home / "join", JOIN)
    with pytest.raises(UsageError):
        places.join_string(host, None)


def test_before_the_first_start_there_is_no_join_string() -> None:
    with pytest.raises(ConfigurationError) as refused:
        places.join_string(None, None)
    assert "moongate server" in refused.value.hint


def test_the_api_takes_the_admin_token_of_this_machine_when_no_other_is_given(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert places.api_token(None) is None
    written(home / "admin-token", "root")
    assert places.api_token(None) == "root"
    monkeypatch.setenv("MOONGATE_TOKEN", "mine")
    assert places.api_token(None) == "mine"
