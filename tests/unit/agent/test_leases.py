"""Leases of an agent, word by word: what is said to the node, and what each of its answers makes of a route."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from moongate.agent.leases import CERTIFICATE_MAX_BYTES, RECLAIM_MOST_S, RECLAIM_S, Leases
from moongate.agent.reports import AgentEvent, CertificateTold, Refused, SupersededBy, TunnelReady
from moongate.agent.routes import OwnCertificate, Route, Upstream
from moongate.errors import NoPortFree, ProtocolError, ReachError
from moongate.relay.channels import Mux

WEB = Route("http", Upstream("http", "127.0.0.1", 80), subdomain="web")
PORT = Route("tcp", Upstream("none"), port=20001, options={"keep": True})


class Link:
    """Takes what is said on a link, instead of sending it."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def send_control(self, message: dict[str, Any]) -> None:
        self.said.append(message)

    def take(self) -> list[dict[str, Any]]:
        said, self.said = self.said, []
        return said


class Desk:
    """The leases of one agent and the link that they speak on."""

    def __init__(self, *routes: Route, standing: bool = True) -> None:
        self.events: list[AgentEvent] = []
        self.left: list[set[str]] = []
        self.leases = Leases(routes, None, standing=standing, say=self.events.append, on_nothing_left=self.left.append)
        self.link = Link()
        self.connect()

    def connect(self) -> None:
        self.link = Link()
        self.leases.linked(cast(Mux, self.link))

    def claimed(self, request: int, tunnel: int = 7, **more: Any) -> None:
        given = {
            "generation": 100,
            "id": "x",
            "name": "web.localhost",
            "port": None,
            "public_url": "http://web",
            **more,
        }
        self.leases.hear({"type": "claimed", "request": request, "tunnel": tunnel, **given})

    def refused(self, request: int, code: str = "name.taken", message: str = "not yours") -> bool:
        return self.leases.hear({"type": "refused", "request": request, "code": code, "message": message, "hint": ""})


def only(said: list[dict[str, Any]]) -> dict[str, Any]:
    (message,) = said
    return message


async def test_a_new_route_is_claimed_and_whoever_waits_gets_the_lease() -> None:
    desk = Desk()
    answer = desk.leases.set_route("w", WEB)
    claim = only(desk.link.take())
    assert (claim["type"], claim["kind"], claim["wanted"], claim["generation"]) == ("claim", "http", "web", None)
    desk.claimed(claim["request"])
    ready = await answer
    assert isinstance(ready, TunnelReady)
    assert ready.name == "web.localhost"
    shown = desk.leases.state_of("w")
    assert shown is not None
    assert (shown.state, shown.public_url) == ("ready", "http://web")


async def test_a_lease_that_nobody_asked_for_is_a_fault_of_the_node() -> None:
    with pytest.raises(ProtocolError):
        Desk().claimed(1)


async def test_a_route_that_changes_is_updated_in_place() -> None:
    desk = Desk()
    desk.leases.set_route("w", WEB)
    desk.claimed(only(desk.link.take())["request"])
    answer = desk.leases.set_route("w", replace(WEB, options={"redirect": True}))
    update = only(desk.link.take())
    assert (update["type"], update["tunnel"], update["generation"]) == ("update", 7, 100)
    assert update["options"] == {"proxy_protocol": "", "redirect": True}
    desk.leases.hear({"type": "updated", "request": update["request"], "tunnel": 7})
    assert await answer is None


async def test_an_update_that_is_refused_leaves_the_old_route() -> None:
    desk = Desk()
    desk.leases.set_route("w", WEB)
    desk.claimed(only(desk.link.take())["request"])
    answer = desk.leases.set_route("w", replace(WEB, upstream=Upstream("http", "127.0.0.1", 81)))
    desk.refused(only(desk.link.take())["request"])
    with pytest.raises(ReachError, match="not yours"):
        await answer
    assert desk.leases.published["w"].route == WEB


async def test_a_route_that_is_changed_while_it_is_claimed_is_updated_when_it_is_ours() -> None:
    desk = Desk()
    desk.leases.set_route("w", WEB)
    claim = only(desk.link.take())
    answer = desk.leases.set_route("w", replace(WEB, options={"redirect": True}))
    assert desk.link.take() == []
    desk.claimed(claim["request"])
    assert only(desk.link.take())["type"] == "update"
    assert await answer is not None


async def test_a_route_that_is_dropped_while_it_is_claimed_is_given_back_when_it_comes() -> None:
    desk = Desk()
    desk.leases.set_route("w", WEB)
    claim = only(desk.link.take())
    await desk.leases.drop_route("w")
    assert desk.link.take() == []
    desk.claimed(claim["request"])
    assert [message["type"] for message in desk.link.take()] == ["release", "update"]
    assert desk.leases.by_number(7) is None


async def test_a_route_is_gone_when_the_node_has_answered_what_was_said_after_it() -> None:
    desk = Desk()
    desk.leases.set_route("p", PORT)
    desk.claimed(only(desk.link.take())["request"], name="20001", port=20001)
    answer = desk.leases.drop_route("p")
    release, after = desk.link.take()
    assert (release["type"], release["tunnel"], release["generation"]) == ("release", 7, 100)
    assert not answer.done()
    desk.refused(after["request"], "lease.unknown")
    assert await answer is None


async def test_what_was_asked_when_the_link_was_lost_is_asked_again_as_it_is_then() -> None:
    desk = Desk()
    desk.leases.set_route("w", WEB)
    desk.claimed(only(desk.link.take())["request"])
    changed = replace(WEB, options={"redirect": True})
    answer = desk.leases.set_route("w", changed)
    desk.leases.unlinked()
    assert await answer is None
    shown = desk.leases.state_of("w")
    assert shown is not None
    assert shown.state == "waiting"
    desk.connect()
    claim = only(desk.link.take())
    assert (claim["type"], claim["wanted"], claim["generation"]) == ("claim", "web.localhost", 100)
    assert claim["options"]["redirect"] is True


async def test_a_kept_port_that_is_dropped_without_a_link_is_given_back_with_the_next() -> None:
    desk = Desk()
    desk.leases.set_route("p", PORT)
    desk.claimed(only(desk.link.take())["request"], name="20001", port=20001)
    desk.leases.unlinked()
    await desk.leases.drop_route("p")
    desk.connect()
    assert only(desk.link.take()) == {"type": "release", "kind": "tcp", "wanted": "20001"}


async def test_a_port_that_was_asked_for_without_a_number_becomes_a_route_with_one() -> None:
    desk = Desk()
    answer = desk.leases.set_route("asked", Route("tcp", Upstream("none")))
    claim = only(desk.link.take())
    assert claim["wanted"] is None
    desk.claimed(claim["request"], name="20001", port=20001)
    assert (await answer) is not None
    desk.leases.rename_route("asked", "p")
    desk.leases.set_route("p", PORT)
    update = only(desk.link.take())
    assert (update["type"], update["options"]["keep"]) == ("update", True)


async def test_a_refusal_is_told_and_asked_again_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []
    desk = Desk()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_later", lambda delay, *_: delays.append(delay))
    answer = desk.leases.set_route("p", PORT)
    desk.refused(only(desk.link.take())["request"], "port.none_free", "none")
    with pytest.raises(NoPortFree):
        await answer
    for _ in range(5):
        desk.leases._claim(desk.leases.published["p"])
        desk.refused(only(desk.link.take())["request"], "port.none_free", "none")
    assert delays == [RECLAIM_S, 2 * RECLAIM_S, 4 * RECLAIM_S, 8 * RECLAIM_S, RECLAIM_MOST_S, RECLAIM_MOST_S]
    assert len([event for event in desk.events if isinstance(event, Refused)]) == 6
    assert desk.left == []


async def test_a_foreground_agent_ends_when_nothing_is_left() -> None:
    desk = Desk(WEB, standing=False)
    desk.refused(only(desk.link.take())["request"], "name.invalid")
    assert desk.left == [{"refused"}]


async def test_a_route_that_was_taken_over_is_not_asked_for_again_unless_it_is_forgiven() -> None:
    desk = Desk()
    desk.leases.set_route("w", WEB)
    desk.claimed(only(desk.link.take())["request"])
    desk.leases.hear({"type": "superseded", "tunnel": 7, "generation": 99, "message": "late word"})
    assert not [event for event in desk.events if isinstance(event, SupersededBy)]
    desk.leases.hear({"type": "superseded", "tunnel": 7, "generation": 100, "message": "newer"})
    desk.connect()
    assert desk.link.take() == []
    desk.leases.forgive()
    desk.connect()
    assert only(desk.link.take())["generation"] is None


async def test_files_of_a_certificate_that_cannot_be_sent_are_told(tmp_path: Path) -> None:
    own = OwnCertificate(tmp_path / "chain", tmp_path / "key")
    desk = Desk()
    desk.leases.set_route("w", replace(WEB, certificate=own))
    claim = only(desk.link.take())
    desk.claimed(claim["request"])
    own.chain.write_text("x" * (CERTIFICATE_MAX_BYTES - 1))
    own.key.write_text("xx")
    desk.leases.send_changed_certificates()
    own.key.write_text("\xff")
    own.chain.write_bytes(b"\xff")
    desk.leases.send_changed_certificates()
    told = [event.status.message for event in desk.events if isinstance(event, CertificateTold)]
    assert told[0] == "certificate not read: no such file or directory"
    assert f"have more than {CERTIFICATE_MAX_BYTES} bytes" in told[1]
    assert "'ascii' codec" in told[2]
    assert desk.link.take() == []
    own.chain.write_text("chain")
    own.key.write_text("key")
    desk.leases.send_changed_certificates()
    sent = only(desk.link.take())
    assert (sent["type"], sent["chain"], sent["key"]) == ("certificate", "chain", "key")
    desk.leases.send_changed_certificates()
    assert desk.link.take() == []


async def test_a_refusal_that_answers_nothing_is_about_the_link() -> None:
    assert not Desk().refused(5)
