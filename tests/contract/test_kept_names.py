"""Names that are kept, on each kind of database."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from auditing import Clock
from moongate.edge.kept import KeptName, KeptNames
from moongate.edge.routes import Tunnel, TunnelOptions
from moongate.errors import StorageError
from moongate.identity.tokens import Tokens
from moongate.storage.database import Database

KEEP = TunnelOptions(keep=True)


@pytest.fixture
async def kept(db: Database) -> AsyncIterator[KeptNames]:
    made = KeptNames(db, "node", Clock())
    await made.start()
    yield made
    await made.aclose()


def tunnel(name: str, kind: str = "http", options: TunnelOptions = KEEP) -> Tunnel:
    return Tunnel(str(uuid4()), 1, kind, name, None, None, "", 0.0, 1, None, options)


async def after_a_restart(db: Database, node_id: str = "node") -> list[KeptName]:
    again = KeptNames(db, node_id)
    await again.start()
    await again.aclose()
    return again.list()


async def token_id(db: Database) -> str:
    row, _ = await Tokens(db, "admin", "tunnel.test").create("ci")
    return row.id


async def test_what_is_kept_is_there_after_a_restart_for_whom_it_was(db: Database, kept: KeptNames) -> None:
    token = await token_id(db)
    shop, port = tunnel("shop.example.test"), tunnel("20001", "tcp")
    assert kept.note(shop, token)
    assert kept.note(port, None)
    await kept.write()
    found = await after_a_restart(db)
    assert sorted(found, key=lambda name: name.label) == [
        KeptName(port.id, "tcp", "20001", None),
        KeptName(shop.id, "http", "shop.example.test", token),
    ]
    assert await after_a_restart(db, "another node") == []


async def test_http_and_tls_of_one_name_are_kept_each_by_itself(db: Database, kept: KeptNames) -> None:
    both = [tunnel("shop.example.test", kind) for kind in ("http", "tls")]
    assert all(kept.note(one, None) for one in both)
    await kept.write()
    assert kept.forget(both[0])
    await kept.write()
    assert [name.protocol for name in await after_a_restart(db)] == ["tls"]


async def test_the_same_again_is_not_written_again(kept: KeptNames) -> None:
    shop = tunnel("shop.example.test")
    assert kept.note(shop, None)
    assert not kept.note(shop, None)
    assert not kept.forget(tunnel("unknown.example.test"))


async def test_another_owner_and_tunnel_take_the_row_over(db: Database, kept: KeptNames) -> None:
    token = await token_id(db)
    kept.note(tunnel("shop.example.test"), None)
    await kept.write()
    new = tunnel("shop.example.test")
    assert kept.note(new, token)
    await kept.write()
    assert await after_a_restart(db) == [KeptName(new.id, "http", "shop.example.test", token)]


async def test_kept_and_given_back_before_it_was_written_leaves_nothing(db: Database, kept: KeptNames) -> None:
    shop = tunnel("shop.example.test")
    kept.note(shop, None)
    assert kept.note(tunnel("shop.example.test", options=TunnelOptions()), None)
    await kept.write()
    assert await after_a_restart(db) == []


async def test_with_its_token_everything_it_keeps_goes(db: Database, kept: KeptNames) -> None:
    token = await token_id(db)
    kept.note(tunnel("shop.example.test"), token)
    await kept.write()
    assert await Tokens(db, "admin", "tunnel.test").delete(token)
    assert await after_a_restart(db) == []


async def test_a_token_that_was_deleted_meanwhile_keeps_its_neighbours_out_of_nothing(
    db: Database, kept: KeptNames
) -> None:
    kept.note(tunnel("gone.example.test"), str(uuid4()))
    kept.note(tunnel("stays.example.test"), None)
    await kept.write()
    assert [name.label for name in await after_a_restart(db)] == ["stays.example.test"]


async def test_what_a_failing_database_did_not_take_is_written_later(
    db: Database, kept: KeptNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> int:
        raise StorageError("the disk is full")

    shop, older = tunnel("shop.example.test"), tunnel("older.example.test")
    kept.note(older, None)
    with monkeypatch.context() as patch:
        patch.setattr(db, "write_rows", fail)
        kept.note(shop, None)
        await kept.write()
        kept.forget(older)
    await kept.aclose()
    assert [name.label for name in await after_a_restart(db)] == ["shop.example.test"]
