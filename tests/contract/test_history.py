"""The history of tunnels on each kind of database."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from auditing import Clock
from moongate.audit.history import History
from moongate.identity.tokens import Tokens
from moongate.storage.database import Database


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def history(db: Database, clock: Clock) -> AsyncIterator[History]:
    made = History(db, "node", clock)
    yield made
    await made.aclose()


async def token_id(db: Database, label: str = "ci") -> str:
    row, _ = await Tokens(db, "admin", "tunnel.test").create(label)
    return row.id


async def test_an_entry_has_the_members_of_the_api(history: History, db: Database) -> None:
    token = await token_id(db)
    tunnel, session = str(uuid4()), str(uuid4())
    await history.opened(tunnel, "http", "abc123.tunnel.test", session, token)
    total, [entry] = await history.list()
    assert total == 1
    assert entry == {
        "id": entry["id"],
        "tunnel_id": tunnel,
        "protocol": "http",
        "label": "abc123.tunnel.test",
        "session_id": session,
        "token_id": token,
        "token_label": "ci",
        "registered_at": "2026-02-03T04:06:00Z",
        "unregistered_at": None,
    }


async def test_closing_completes_the_entry(history: History, clock: Clock) -> None:
    await history.opened("t", "tcp", "20001", "s", None)
    clock.now += 90
    await history.closed("t")
    _, [entry] = await history.list()
    assert entry["unregistered_at"] == "2026-02-03T04:07:30Z"
    assert (entry["token_id"], entry["token_label"]) == (None, None)


async def test_opening_a_tunnel_again_ends_its_earlier_entry(history: History, clock: Clock) -> None:
    for _ in range(3):
        await history.opened("t", "http", "a.tunnel.test", "s", None)
        clock.now += 1
    _, entries = await history.list()
    assert [entry["unregistered_at"] for entry in entries] == [None, "2026-02-03T04:06:02Z", "2026-02-03T04:06:01Z"]


async def test_a_tunnel_registered_as_https_is_logged_as_http(history: History) -> None:
    await history.opened("t", "https", "a.tunnel.test", "s", None)
    assert (await history.list(protocol="http"))[0] == 1


async def test_the_newest_come_first_in_pages(history: History, clock: Clock) -> None:
    for number in range(5):
        await history.opened(f"t{number}", "http" if number % 2 else "tcp", str(number), "s", None)
        clock.now += 1
    total, page = await history.list(limit=2, offset=1)
    assert (total, [entry["label"] for entry in page]) == (5, ["3", "2"])
    total, page = await history.list(protocol="tcp")
    assert (total, [entry["label"] for entry in page]) == (3, ["4", "2", "0"])
    assert await history.list(offset=10) == (5, [])


async def test_entries_are_filtered_and_sorted(history: History, db: Database, clock: Clock) -> None:
    token = await token_id(db)
    await history.opened("long", "tcp", "1", "s", token)
    clock.now += 10
    await history.opened("short", "http", "2", "s", None)
    clock.now += 1
    await history.closed("short")

    async def labels(**how: object) -> list[str]:
        return [entry["label"] for entry in (await history.list(**how))[1]]  # type: ignore[arg-type]

    assert await labels(active=True) == ["1"]
    assert await labels(active=False) == ["2"]
    assert await labels(token_id=token) == ["1"]
    assert await labels(sort_by="duration", sort_dir="asc") == ["2", "1"]
    assert await labels(sort_by="duration") == ["1", "2"]
    assert await labels(sort_by="protocol", sort_dir="asc") == ["2", "1"]
    assert await labels(sort_by="started", sort_dir="asc") == ["1", "2"]


async def test_a_deleted_token_leaves_its_entries_without_it(history: History, db: Database) -> None:
    token = await token_id(db)
    await history.opened("t", "http", "a.tunnel.test", "s", token)
    assert await history.tunnel_counts() == {token: 1}
    await Tokens(db, "admin", "tunnel.test").delete(token)
    _, [entry] = await history.list()
    assert (entry["token_id"], entry["token_label"]) == (None, None)
    assert await history.tunnel_counts() == {}


async def test_a_token_deleted_while_its_tunnel_opens_leaves_the_entry_without_it(history: History) -> None:
    await history.opened("t", "http", "a.tunnel.test", "s", str(uuid4()))
    _, [entry] = await history.list()
    assert entry["token_id"] is None


async def test_leftovers_are_closed_and_may_be_claimed_by_their_owners(
    history: History, db: Database, clock: Clock
) -> None:
    token, deleted = await token_id(db), await token_id(db, "deleted")
    await history.opened("old", "http", "old.tunnel.test", "s", None)
    await history.closed("old")
    clock.now += 61
    await history.opened("open", "tcp", "20001", "s", token)
    await history.opened("nobody's", "tcp", "20002", "s", deleted)
    await history.opened("closed", "tls", "b.tunnel.test", "s", None)
    await history.closed("closed")
    await History(db, "another node", clock).opened("theirs", "tcp", "20003", "s", None)
    await Tokens(db, "admin", "tunnel.test").delete(deleted)
    clock.now += 5
    left = {leftover.tunnel_id: leftover for leftover in await History(db, "node", clock).close_leftovers()}
    assert left.keys() == {"open", "closed"}
    assert (left["open"].label, left["open"].token_id, left["open"].unregistered_at) == ("20001", token, None)
    assert (left["closed"].identity, left["closed"].token_id) == ("admin", None)
    assert left["closed"].unregistered_at is not None
    assert (await history.list(active=True))[0] == 1, "that of the other node"


async def test_many_tunnels_that_open_together_share_their_transactions(history: History) -> None:
    await asyncio.gather(*(history.opened(f"t{number}", "tcp", str(number), "s", None) for number in range(300)))
    await history.closed(*(f"t{number}" for number in range(0, 300, 2)))
    assert (await history.list(active=True))[0] == 150
    assert history.pending == 0


async def test_an_entry_the_database_will_never_take_does_not_keep_others_out(history: History) -> None:
    await asyncio.gather(
        history.opened("a", "http", "a.tunnel.test", "s", None),
        history.opened("b", "http", None, "s", None),  # type: ignore[arg-type]
        history.opened("c", "http", "c.tunnel.test", "s", None),
    )
    assert sorted(entry["label"] for entry in (await history.list())[1]) == ["a.tunnel.test", "c.tunnel.test"]
    assert history.dropped_entries == 1
