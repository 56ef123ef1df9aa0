"""The rules on disk: whole at every moment, and one agent's."""

import json
import os
import stat
from pathlib import Path

import pytest

from moongate.agent.rulebook import RuleBook
from moongate.agent.store import RuleStore
from moongate.errors import RulesLocked, RulesUnsaved

SITE = {"domain": "a.test", "webRoot": "/srv"}


def some(store: RuleStore) -> RuleBook:
    return store.load().create({"https": [SITE]}).book


def test_what_was_saved_is_there_for_the_next_agent(home: Path) -> None:
    store = RuleStore(home)
    store.save(some(store))
    store.close()
    again = RuleStore(home)
    assert again.load().members()["https"] == [SITE]
    again.close()
    assert stat.S_IMODE((home / "rules.json").stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir() if path.name.startswith(".")] == []


def test_a_second_agent_is_told_who_has_the_rules(home: Path) -> None:
    store = RuleStore(home)
    with pytest.raises(RulesLocked, match=rf"another agent uses .* \(process {os.getpid()}\)"):
        RuleStore(home)
    store.close()
    RuleStore(home).close()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "\xff", '{"form": 2}', '{"https": [{"domain": "a b"}]}', '{"https": 7}', "[" * 100_000, "[1"],
)
def test_a_damaged_file_is_kept_aside_and_not_overwritten(home: Path, text: str) -> None:
    (home / "rules.json").write_bytes(text.encode("latin-1"))
    store = RuleStore(home)
    assert store.load().rules() == []
    assert store.kept_aside is not None
    assert store.kept_aside.name.startswith("rules.json.corrupt-")
    store.save(RuleBook())
    assert store.kept_aside.read_bytes() == text.encode("latin-1")
    store.close()


def test_one_wrong_rule_does_not_take_the_others_with_it(home: Path) -> None:
    kept = {"https": [{"domain": "b.test", "webRoot": str(home)}, SITE], "portmaps": 7, "note": "mine"}
    (home / "rules.json").write_text(json.dumps(kept))
    store = RuleStore(home)
    assert store.load().members()["https"] == [SITE]
    assert store.kept_aside is not None
    assert json.loads(store.kept_aside.read_text()) == kept
    now = json.loads((home / "rules.json").read_text())
    assert (now["https"], now["note"]) == ([SITE], "mine")
    store.close()


def test_two_damaged_files_of_one_second_are_both_kept(home: Path) -> None:
    store = RuleStore(home)
    for text in ("one", "two"):
        (home / "rules.json").write_text(text)
        store.load()
    assert sorted(path.read_text() for path in home.glob("rules.json.corrupt-*")) == ["one", "two"]
    store.close()


def test_a_full_disk_leaves_the_old_rules(home: Path) -> None:
    store = RuleStore(home)
    store.save(some(store))
    before = (home / "rules.json").read_bytes()
    # Where the new file would be written, nothing can be: this device is always full.
    (home / f".rules.json.{os.getpid()}").symlink_to("/dev/full")
    with pytest.raises(RulesUnsaved, match="no space left on device"):
        store.save(RuleBook())
    assert (home / "rules.json").read_bytes() == before
    assert sorted(path.name for path in home.iterdir()) == ["agent.lock", "rules.json"]
    store.close()


def test_members_of_the_file_that_are_not_known_stay(home: Path) -> None:
    (home / "rules.json").write_text(json.dumps({"https": [SITE], "note": "mine"}))
    store = RuleStore(home)
    store.save(store.load())
    kept = json.loads((home / "rules.json").read_text())
    assert kept["note"] == "mine"
    assert kept["https"] == [SITE]
    store.close()
