"""Whom a tunnel lets in by address: an ordered list of allow and drop rules, judged before anything reaches the agent.

Whoever reads the rules has put them in order already; who is judged, and what being dropped looks like, is the
business of each kind of visitor.
"""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final, Literal, NamedTuple

from moongate.net.addresses import parse_ip

RULES_MAX: Final = 1024
_SHOWN: Final = 80  # characters of a wrong network that are repeated to whoever gave it
_MAPPED: Final = 0xFFFF << 32  # ::ffff:0:0/96, IPv4 inside IPv6 (RFC 4291 §2.5.5.2)
_MAPPED_BITS: Final = 96

Verdict = Literal["allow", "drop"]


class Rule(NamedTuple):
    """One rule; an address is in its network when the first bits of both are the same."""

    action: Verdict
    version: int
    shift: int  # how many of an address's last bits do not matter
    prefix: int


def parse_rules(value: object) -> tuple[Rule, ...]:
    """Read a list of `[action, network]`, first rule first.

    Raises:
        ValueError: If it is none; the message names what is wrong.
    """
    if not isinstance(value, list | tuple):
        raise ValueError("a firewall is a list of rules")
    if len(value) > RULES_MAX:
        raise ValueError(f"a firewall has at most {RULES_MAX} rules")
    return tuple(_rule(entry) for entry in value)


def verdict(rules: Sequence[Rule], address: str) -> Verdict:
    """Judge an address: the first rule that fits decides; if none does, one that allows anybody shuts out the rest."""
    if not rules:
        return "allow"
    parsed = parse_ip(address)
    if parsed is None:
        return "drop"  # nobody can tell which rule is meant for it
    version, number = parsed.version, int(parsed)
    if version == 6 and number >> 32 == _MAPPED >> 32:
        version, number = 4, number & 0xFFFF_FFFF
    for rule in rules:
        if rule.version == version and number >> rule.shift == rule.prefix:
            return rule.action
    return "drop" if any(rule.action == "allow" for rule in rules) else "allow"


def _rule(entry: object) -> Rule:
    if not isinstance(entry, list | tuple) or len(entry) != 2 or not all(isinstance(part, str) for part in entry):
        raise ValueError("a firewall rule is an action and a network")
    action, text = entry[0].lower(), entry[1].strip()
    if action not in ("allow", "drop"):
        raise ValueError(f"invalid action: {action[:_SHOWN]}")
    network = _network(text)
    shift = network.max_prefixlen - network.prefixlen
    return Rule(action, network.version, shift, int(network.network_address) >> shift)


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"invalid network: {text[:_SHOWN]}") from None
    if (
        network.version == 6
        and network.prefixlen >= _MAPPED_BITS
        and int(network.network_address) >> 32 == _MAPPED >> 32
    ):
        return IPv4Network((int(network.network_address) & 0xFFFF_FFFF, network.prefixlen - _MAPPED_BITS))
    return network
