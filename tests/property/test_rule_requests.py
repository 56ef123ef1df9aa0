"""Whatever a program sends: the rule book answers each item, and does all of a request or nothing."""

import json
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from moongate.agent.publishing import routes_of
from moongate.agent.rulebook import RuleBook
from moongate.agent.rules import KINDS

SCALARS = st.none() | st.booleans() | st.integers(-1, 70_000) | st.floats(allow_nan=False) | st.text(max_size=8)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner))
DOMAINS = st.sampled_from(["a.test", "B.test", "c.test.", "-", "", "*.d"])
PORTS = st.sampled_from([0, 1, 22000, 22001, 70_000])

FIREWALLS = st.lists(
    st.fixed_dictionaries(
        {"sequence": st.integers(-1, 3), "action": st.sampled_from(["allow", "DROP", "x"])},
        optional={"network": st.sampled_from(["192.0.2.1", "2001:db8::/32", "300.1.1.1/32"])},
    ),
    max_size=2,
)
SITES = st.fixed_dictionaries(
    {"domain": DOMAINS},
    optional={
        "secure": st.booleans(),
        "destination": st.sampled_from(["", "127.0.0.1", "a b"]),
        "port": PORTS,
        "tls": PORTS,
        "upstreamURL": st.sampled_from(["", "http://127.0.0.1:9/x", "ftp://a"]),
        "webRoot": st.sampled_from(["", "/srv", "srv", "/"]),
        "redirect": st.booleans(),
        "firewall": FIREWALLS,
        "x-more": VALUES,
    },
)
PORT_RULES = st.fixed_dictionaries(
    {"port": PORTS},
    optional={
        "destination": st.sampled_from(["", "127.0.0.1"]),
        "dstPort": PORTS,
        "transport": st.sampled_from(["tcp", "udp"]),
        "firewall": FIREWALLS,
    },
)
PORT_MAPS = st.fixed_dictionaries(
    {"dstPort": PORTS}, optional={"port": PORTS, "listenPort": PORTS, "destination": st.just("db.test")}
)
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "https": st.lists(SITES, max_size=3),
        "ports": st.lists(PORT_RULES, max_size=2),
        "portmaps": st.lists(PORT_MAPS, max_size=2),
    },
)
VERBS = st.sampled_from(["create", "update", "patch", "delete"])
STEPS = st.tuples(VERBS, REQUESTS) | st.tuples(st.just("allocated"), st.sampled_from([22000, 22001]))


@given(st.lists(STEPS, max_size=8))
def test_a_request_is_done_as_a_whole_or_not_at_all(steps: list[tuple[str, Any]]) -> None:
    book = RuleBook()
    for verb, request in steps:
        edit = getattr(book, verb)(request)
        if isinstance(request, dict):
            assert len(edit.results) == sum(len(request.get(kind, [])) for kind in KINDS)
        if not edit.is_valid:
            assert edit.book is book
            assert edit.changes == ()
            assert all(result.error for result in edit.results)
        assert book.applied(edit.changes).members() == edit.book.members()
        undone = edit.book.applied(change.undone() for change in reversed(edit.changes))
        assert {rule.key for rule in undone.rules()} == {rule.key for rule in book.rules()}
        book = edit.book


@given(st.lists(STEPS, max_size=8))
def test_a_book_outlives_its_file(steps: list[tuple[str, Any]]) -> None:
    book = RuleBook()
    for verb, request in steps:
        book = getattr(book, verb)(request).book
    kept = json.loads(json.dumps(book.members()))
    assert RuleBook.read(kept).members() == book.members()


@given(st.lists(STEPS, max_size=6))
def test_every_rule_that_is_taken_can_be_published(steps: list[tuple[str, Any]]) -> None:
    book = RuleBook()
    for verb, request in steps:
        book = getattr(book, verb)(request).book
    keys = [key for rule in book.rules() for key in routes_of(rule)]
    assert len(keys) == len(set(keys))


@given(
    VERBS,
    st.dictionaries(st.sampled_from([*KINDS, "x"]), VALUES | st.lists(st.dictionaries(st.text(max_size=6), VALUES))),
)
def test_nothing_that_is_json_breaks_the_book(verb: str, request: dict[str, Any]) -> None:
    edit = getattr(RuleBook(), verb)(request)
    assert not edit.changes or edit.is_valid


@given(
    VERBS,
    st.sampled_from(["https", "ports", "portmaps"]),
    st.dictionaries(
        st.sampled_from(
            [
                "domain",
                "port",
                "listenPort",
                "dstPort",
                "firewall",
                "destination",
                "webRoot",
                "transport",
                "authPageOpts",
            ]
        ),
        VALUES,
    ),
)
def test_nothing_in_a_known_member_breaks_the_book(verb: str, kind: str, item: dict[str, Any]) -> None:
    book = RuleBook().allocated(1).book.create({"https": [{"domain": "a.test", "tls": 1}]}).book
    edit = getattr(book, verb)({kind: [item]})
    assert len(edit.results) == 1
