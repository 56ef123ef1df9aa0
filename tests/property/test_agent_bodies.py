"""Whatever JSON a program sends as rules, each item is answered, and what is accepted can be kept and published."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.targets import rules
from moongate.agent.rules import FwRule, PageOptions, PortMap, PortRule, Site

TEXTS = st.sampled_from(["", "a.test", "127.0.0.1", "::1", "http://h:1/x", "/srv", "allow", "10.0.0.0/8", "udp", "***"])
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 70000), TEXTS, st.text(max_size=5), st.floats(allow_nan=False)
)


def items(model: type[Any], **more: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Objects with some members of a rule, of their types or of others."""
    names = [field.alias or name for name, field in model.model_fields.items()]
    return st.fixed_dictionaries({}, optional=dict.fromkeys([*names, "unknown"], VALUES) | more)


WALL = st.one_of(VALUES, st.lists(st.one_of(VALUES, items(FwRule)), max_size=3))
KEYS = {"port": st.sampled_from([22872, 0, "22872", 1])}
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "https": st.lists(items(Site, firewall=WALL, authPageOpts=st.one_of(VALUES, items(PageOptions))), max_size=3),
        "ports": st.lists(items(PortRule, firewall=WALL, **KEYS), max_size=3),
        "portmaps": st.lists(items(PortMap, listenPort=VALUES), max_size=3),
    },
)


@given(BODIES)
@settings(max_examples=300)
def test_every_body_is_answered_item_by_item(body: dict[str, Any]) -> None:
    rules(json.dumps(body).encode())
