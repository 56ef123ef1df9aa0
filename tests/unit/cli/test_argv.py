import pytest
import setproctitle

from moongate.cli import argv

JOIN = "moongate://127.0.0.1:7171/#5f3c.abcd"


def test_the_secret_of_a_join_string_is_hidden_and_its_address_is_not() -> None:
    assert argv.masked(JOIN) == "moongate://127.0.0.1:7171/#***"
    assert argv.masked(f"--server={JOIN}") == "--server=moongate://127.0.0.1:7171/#***"


def test_the_password_of_a_url_is_hidden() -> None:
    assert argv.masked("postgresql://me:secret@db/moongate") == "postgresql://me:***@db/moongate"


@pytest.mark.parametrize(
    "harmless", ["3000", "http://localhost:3000", "@/run/join", "https://gate.example.org", "--json"]
)
def test_what_holds_no_secret_is_left_as_it_is(harmless: str) -> None:
    assert argv.masked(harmless) == harmless


def test_the_process_title_is_overwritten_when_an_argument_holds_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    monkeypatch.setattr(setproctitle, "setproctitle", titles.append)
    assert argv.hide_secrets(["http", "3000", "--server", JOIN])
    assert titles == ["moongate http 3000 --server moongate://127.0.0.1:7171/#***"]


def test_the_process_title_is_left_alone_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    monkeypatch.setattr(setproctitle, "setproctitle", titles.append)
    assert not argv.hide_secrets(["http", "3000", "--server", "@join"])
    assert titles == []
