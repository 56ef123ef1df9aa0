from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from moongate.edge.firewall import parse_rules, verdict

addresses = st.ip_addresses()


@st.composite
def networks(draw: st.DrawFn) -> str:
    # Few bits in use, so that rules and addresses meet.
    address = draw(st.sampled_from([ip_address("10.0.0.0"), ip_address("2001:db8::")])) + draw(st.integers(0, 255))
    return f"{address}/{draw(st.integers(0, address.max_prefixlen))}"


rules = st.lists(st.tuples(st.sampled_from(["allow", "drop"]), networks()), max_size=6)
near = st.builds(
    lambda base, more: ip_address(base) + more, st.sampled_from(["10.0.0.0", "2001:db8::"]), st.integers(0, 255)
)


@given(rules, near | addresses)
def test_a_verdict_is_what_the_written_algorithm_says(
    given_rules: list[tuple[str, str]], address: IPv4Address | IPv6Address
) -> None:
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    expected = "drop" if any(action == "allow" for action, _ in given_rules) else "allow"
    for action, network in given_rules:
        if address in ip_network(network, strict=False):
            expected = action
            break
    assert verdict(parse_rules(given_rules), str(address)) == expected


@given(st.lists(st.tuples(st.sampled_from(["allow", "drop"]), networks()), max_size=6), st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_in_either_spelling(
    given_rules: list[tuple[str, str]], address: IPv4Address
) -> None:
    parsed = parse_rules(given_rules)
    assert verdict(parsed, str(address)) == verdict(parsed, f"::ffff:{address}")
