"""The rule book: requests as a whole, each item's result, and what is as it was after a refusal."""

from typing import Any

import pytest

from moongate.agent.rulebook import MAX_RULES, NOT_APPLIED, RuleBook
from moongate.errors import RuleInvalid

SHOP = {"domain": "shop.example.test", "secure": True, "upstreamURL": "http://127.0.0.1:9001", "redirect": True}
MAP = {"port": 15432, "dstPort": 5432, "destination": "db.example.net", "transport": "tcp", "label": "db"}


def book_of(**request: Any) -> RuleBook:
    edit = RuleBook().create(request)
    assert edit.is_valid, edit.results
    return edit.book


def errors(edit: Any) -> list[str]:
    return [result.error for result in edit.results]


def test_a_site_is_created_once() -> None:
    book = book_of(https=[SHOP])
    assert book.members()["https"] == [SHOP]
    again = book.create({"https": [SHOP]})
    assert errors(again) == ["domain already exists: shop.example.test"]
    assert again.book is book


def test_update_replaces_all_of_a_rule() -> None:
    old = {"domain": "a.test", "destination": "127.0.0.1", "port": 80, "redirect": True, "secure": True}
    edit = book_of(https=[old]).update({"https": [{"domain": "a.test", "upstreamURL": "http://127.0.0.1:81"}]})
    assert edit.book.members()["https"] == [{"domain": "a.test", "upstreamURL": "http://127.0.0.1:81"}]


def test_a_patch_changes_what_it_names_and_null_takes_away() -> None:
    edit = book_of(https=[SHOP]).patch(
        {"https": [{"domain": "SHOP.example.test", "redirect": None, "rewriteHost": "x"}]}
    )
    assert edit.book.members()["https"] == [
        {"domain": SHOP["domain"], "secure": True, "upstreamURL": SHOP["upstreamURL"], "rewriteHost": "x"}
    ]


def test_a_rule_keeps_its_place_when_it_changes_and_new_ones_come_last() -> None:
    sites = [{"domain": f"{name}.test", "webRoot": "/srv"} for name in "cab"]
    book = book_of(https=sites).update({"https": [sites[0] | {"webRoot": "/srv/2"}]}).book
    book = book.create({"https": [{"domain": "0.test", "webRoot": "/srv"}]}).book
    assert list(book.https) == ["c.test", "a.test", "b.test", "0.test"]


def test_one_wrong_item_and_nothing_is_applied() -> None:
    edit = RuleBook().create({"https": [SHOP, {"domain": "b.test", "destination": "a"}], "portmaps": [MAP]})
    assert errors(edit) == [NOT_APPLIED, "port is required with destination", NOT_APPLIED]
    assert not edit.changes
    assert edit.book.members() == RuleBook().members()


def test_the_life_of_a_port() -> None:
    assert errors(RuleBook().create({"ports": [{"port": 22431}]})) == ["port not allocated: 22431"]
    assert errors(RuleBook().update({"ports": [{"port": 22431}]})) == ["not found: ports 22431"]
    book = RuleBook().allocated(22431).book
    set_up = {"port": 22431, "destination": "127.0.0.1", "dstPort": 2222}
    book = book.create({"ports": [set_up]}).book
    assert book.members()["ports"] == [set_up]
    cleared = book.create({"ports": [{"port": 22431}]}).book
    assert cleared.members()["ports"] == [{"port": 22431, "destination": "", "dstPort": 0}]
    book = book.delete({"ports": [{"port": 22431}]}).book
    assert book.members()["ports"] == [{"port": 22431, "destination": "", "dstPort": 0}]
    book = book.released(22431).book
    assert not book.ports
    assert errors(book.released(22431)) == ["port not allocated: 22431"]


def test_one_number_may_be_allocated_for_tcp_and_for_udp() -> None:
    book = RuleBook().allocated(22431, "udp").book
    assert errors(book.create({"ports": [{"port": 22431, "destination": "a", "dstPort": 53}]})) == [""]
    book = book.allocated(22431).book
    book = book.create({"ports": [{"port": 22431, "destination": "a", "dstPort": 53, "transport": "udp"}]}).book
    assert [rule.dst_port for rule in book.ports.values()] == [53, 0]
    assert list(book.released(22431, "udp").book.ports) == ["22431"]


@pytest.mark.parametrize(
    ("kind", "item", "key"),
    [("https", {"domain": "no.test"}, "no.test"), ("ports", {"port": 9}, "9"), ("portmaps", {"listenPort": 9}, "9")],
)
def test_what_is_not_there_cannot_be_deleted(kind: str, item: dict[str, Any], key: str) -> None:
    assert errors(RuleBook().delete({kind: [item]})) == [f"not found: {kind} {key}"]


def test_deletion_looks_at_keys_only() -> None:
    book = book_of(https=[SHOP], portmaps=[MAP])
    edit = book.delete(
        {"https": [{"domain": SHOP["domain"], "port": "x"}], "portmaps": [{"port": 15432, "dstPort": -1}]}
    )
    assert edit.is_valid
    assert not edit.book.rules()
    assert book.delete({}).is_valid


def test_an_item_twice_in_a_request_is_refused() -> None:
    assert errors(RuleBook().create({"https": [SHOP, SHOP]}))[1] == "https shop.example.test is in the request twice"


def test_a_port_map_exists_once() -> None:
    assert errors(book_of(portmaps=[MAP]).create({"portmaps": [MAP]})) == ["port mapping already exists: 15432"]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"https": {}}, "https must be an array"),
        ({"ports": ["x"]}, "ports[0] must be an object"),
        ({"portmaps": [None]}, "portmaps[0] must be an object"),
        ({"https": [{"domain": "a.test", "tls": 1, "note": "\ud800"}]}, "https[0] holds what cannot be written down"),
        ({"https": [{"domain": "a.test", "tls": 1, "note": 10**5000}]}, "https[0] holds what cannot be written down"),
    ],
)
def test_what_is_no_list_of_objects_is_refused(request_: dict[str, Any], reason: str) -> None:
    assert errors(RuleBook().create(request_)) == [reason]


def test_a_book_is_read_as_it_was_written() -> None:
    book = book_of(https=[SHOP], portmaps=[MAP]).allocated(22431).book
    assert RuleBook.read(book.members()) == book
    with pytest.raises(RuleInvalid, match=r"https shop\.example\.test is there twice"):
        RuleBook.read({"https": [SHOP, SHOP]})


def test_a_mask_that_comes_back_leaves_the_secret() -> None:
    secret = "scrypt$16384$8$5$AAAAAAAAAAAAAAAAAAAAAA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
    book = book_of(https=[SHOP | {"password": secret}])
    masked = book.members(secrets=False)["https"]
    assert masked[0]["password"] == "***"
    assert book.update({"https": masked}).book.members() == book.members()
    assert errors(RuleBook().create({"https": masked})) == ["password and basicHttpAuth cannot be ***"]


def test_there_are_only_so_many_rules() -> None:
    sites = [{"domain": f"s{number}.test", "tls": 443} for number in range(MAX_RULES)]
    book = book_of(https=sites)
    assert errors(book.create({"https": [SHOP]}))[-1] == "more than 10000 rules of one kind"
