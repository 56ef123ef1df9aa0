"""The firewall's verdicts: the compatibility document's table, and the corners around it."""

import pytest

from moongate.edge.firewall import RULES_MAX, parse_rules, verdict


@pytest.mark.parametrize(
    ("rules", "address", "expected"),
    [
        ([], "192.0.2.1", "allow"),
        ([("allow", "203.0.113.0/24")], "203.0.113.9", "allow"),
        ([("allow", "203.0.113.0/24")], "192.0.2.1", "drop"),
        ([("drop", "203.0.113.0/24")], "203.0.113.9", "drop"),
        ([("drop", "203.0.113.0/24")], "192.0.2.1", "allow"),
        ([("drop", "203.0.113.9"), ("allow", "203.0.113.0/24")], "203.0.113.9", "drop"),
        ([("drop", "203.0.113.9"), ("allow", "203.0.113.0/24")], "203.0.113.10", "allow"),
        ([("drop", "203.0.113.9"), ("allow", "203.0.113.0/24")], "192.0.2.1", "drop"),
        ([("allow", "10.0.0.0/8"), ("drop", "10.1.0.0/16")], "10.1.2.3", "allow"),
        ([("allow", "2001:db8::/32")], "2001:db8::5", "allow"),
        ([("allow", "2001:db8::/32")], "192.0.2.1", "drop"),
        ([("allow", "192.0.2.1")], "::ffff:192.0.2.1", "allow"),
        ([("allow", "::ffff:192.0.2.0/120")], "192.0.2.1", "allow"),
        ([("drop", "::/0")], "192.0.2.1", "allow"),
        ([("drop", "::ffff:0:0/96")], "192.0.2.1", "drop"),
        ([("drop", "0.0.0.0/0")], "::ffff:192.0.2.1", "drop"),
        ([("ALLOW", " 10.1.2.3/8 ")], "10.200.0.1", "allow"),
        ([("drop", "fe80::/10")], "fe80::1%eth0", "drop"),
        ([("drop", "203.0.113.0/24")], "not an address", "drop"),
        ([], "not an address", "allow"),
    ],
)
def test_the_first_rule_that_fits_decides(rules: list[tuple[str, str]], address: str, expected: str) -> None:
    assert verdict(parse_rules(rules), address) == expected


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("allow", "is a list of rules"),
        ([["allow"]], "is an action and a network"),
        ([["allow", 7]], "is an action and a network"),
        ([["reject", "::/0"]], "invalid action: reject"),
        ([["allow", "300.1.1.1/32"]], "invalid network: 300.1.1.1/32"),
        ([["allow", "10.0.0.0/33"]], "invalid network: 10.0.0.0/33"),
        ([["allow", ""]], "invalid network: "),
        ([["allow", "::/0"]] * (RULES_MAX + 1), f"at most {RULES_MAX} rules"),
    ],
)
def test_what_is_wrong_with_a_rule_is_said(value: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_rules(value)
