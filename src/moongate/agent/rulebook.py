"""The rules of an agent as a whole, and what a request makes of them.

Pure: a RuleBook takes a request and returns what came of each item and the book as it would be then. Saving it,
listening and asking the node are left to agent.supervisor.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

from moongate.agent.rules import (
    KINDS,
    MASK,
    Kind,
    Members,
    PortMap,
    PortRule,
    Rule,
    Site,
    port_key,
    read_domain,
    read_port,
    read_portmap,
    read_site,
)
from moongate.errors import RuleInvalid

MAX_RULES: Final = 10_000
NOT_APPLIED: Final = "not applied, because another item of the request is wrong"


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one item of a request."""

    kind: Kind
    key: str
    error: str = ""

    def members(self) -> dict[str, Any]:
        """Return it as the API shows it."""
        return {"kind": self.kind, "key": self.key, "status": not self.error, "error": self.error}

    def sentence(self) -> str:
        """The error, with the item's name if it is not said in it."""
        return self.error if self.key in self.error else f"{self.kind} {self.key}: {self.error}"


@dataclass(frozen=True, slots=True)
class Change:
    """One rule before and after; None is no rule."""

    kind: Kind
    key: str
    before: Rule | None
    after: Rule | None

    def undone(self) -> "Change":
        """Return the change that takes this one back."""
        return Change(self.kind, self.key, self.after, self.before)


@dataclass(frozen=True, slots=True)
class Edit:
    """The answer to a request: what came of each item, and the book as it is to be."""

    results: tuple[Result, ...]
    changes: tuple[Change, ...]
    book: "RuleBook"

    @property
    def is_valid(self) -> bool:
        return not any(result.error for result in self.results)


@dataclass(frozen=True, slots=True)
class RuleBook:
    """Every rule of an agent, in the order of creation; never changed in place."""

    https: dict[str, Site] = field(default_factory=dict)
    ports: dict[str, PortRule] = field(default_factory=dict)
    portmaps: dict[str, PortMap] = field(default_factory=dict)
    forbidden: Path | None = None

    # -- shown and kept

    def members(self, *, secrets: bool = True) -> dict[str, list[dict[str, Any]]]:
        """Return every rule as the API and the file spell it."""
        sites = [site.members() if secrets else site.masked() for site in self.https.values()]
        ports = [port.members() for port in self.ports.values()]
        return {"https": sites, "ports": ports, "portmaps": [portmap.members() for portmap in self.portmaps.values()]}

    @classmethod
    def read(cls, members: Members, forbidden: Path | None = None) -> "RuleBook":
        """Read a book as it was kept.

        Raises:
            RuleInvalid: If a rule in it cannot be one.
        """
        book, problems = cls.salvage(members, forbidden)
        if problems:
            raise RuleInvalid(problems[0])
        return book

    @classmethod
    def salvage(cls, members: Members, forbidden: Path | None = None) -> "tuple[RuleBook, list[str]]":
        """Read what can be read of a book, and say what cannot: the other rules are not to suffer for it."""
        book, problems = cls(forbidden=forbidden), list[str]()
        for kind in KINDS:
            kept = members.get(kind) or []
            if not isinstance(kept, list):
                problems.append(f"{kind} must be an array")
                continue
            rules: dict[str, Any] = book._of(kind)
            for index, item in enumerate(kept):
                try:
                    rule = book._read(kind, _object(item, f"{kind}[{index}]"))
                    if rule.key in rules:
                        raise RuleInvalid(f"{kind} {rule.key} is there twice")
                except RuleInvalid as error:
                    problems.append(Result(kind, _key_shown(kind, item, index), error.message).sentence())
                else:
                    rules[rule.key] = rule
        return book, problems

    def rules(self) -> list[Rule]:
        """Return every rule."""
        return [*self.https.values(), *self.ports.values(), *self.portmaps.values()]

    def get(self, kind: Kind, key: str) -> Rule | None:
        """Return one rule."""
        return cast(Rule | None, self._of(kind).get(key))

    # -- requests

    def create(self, request: Members) -> Edit:
        """Add rules; a port must be allocated already, and is set as by an update."""
        return self._edit(request, self._created)

    def update(self, request: Members) -> Edit:
        """Replace rules, each whole."""
        return self._edit(request, self._updated)

    def patch(self, request: Members) -> Edit:
        """Change the given members of rules."""
        return self._edit(request, self._patched)

    def delete(self, request: Members) -> Edit:
        """Take rules away; a port is only emptied, and stays allocated."""
        return self._edit(request, self._deleted)

    def allocated(self, port: int, transport: str = "tcp") -> Edit:
        """Add a port that the node has given."""
        rule = PortRule(port=port, transport=transport)
        before = self.ports.get(rule.key)
        if before is not None:
            return Edit((Result("ports", rule.key),), (), self)
        return self._with([Result("ports", rule.key)], [Change("ports", rule.key, None, rule)])

    def released(self, port: int, transport: str | None = None) -> Edit:
        """Take a port away with its forwarding."""
        rule = self.port(port, transport)
        if rule is None:
            return Edit((Result("ports", str(port), f"port not allocated: {port}"),), (), self)
        return self._with([Result("ports", rule.key)], [Change("ports", rule.key, rule, None)])

    def port(self, port: int, transport: str | None = None) -> PortRule | None:
        """Return a port by its number; without a transport the TCP one, else the UDP one."""
        if transport is not None:
            return self.ports.get(port_key(port, transport))
        return self.ports.get(port_key(port)) or self.ports.get(port_key(port, "udp"))

    def applied(self, changes: Iterable[Change]) -> "RuleBook":
        """Return the book with these changes made; a rule that is replaced keeps its place."""
        kept: dict[Kind, dict[str, Any]] = {kind: dict(self._of(kind)) for kind in KINDS}
        for change in changes:
            if change.after is None:
                kept[change.kind].pop(change.key, None)
            else:
                kept[change.kind][change.key] = change.after
        return replace(self, https=kept["https"], ports=kept["ports"], portmaps=kept["portmaps"])

    # -- how a request becomes changes

    def _edit(self, request: Members, change: Callable[[Kind, Members], Change]) -> Edit:
        results: list[Result] = []
        changes: list[Change] = []
        seen: set[tuple[Kind, str]] = set()
        for kind in KINDS:
            for index, item in enumerate(_items(request, kind, results)):
                try:
                    made = change(kind, _object(item, f"{kind}[{index}]"))
                    if (kind, made.key) in seen:
                        raise RuleInvalid(f"{kind} {made.key} is in the request twice")
                except RuleInvalid as error:
                    results.append(Result(kind, _key_shown(kind, item, index), error.message))
                else:
                    seen.add((kind, made.key))
                    changes.append(made)
                    results.append(Result(kind, made.key))
        results += self._over(changes)
        if any(result.error for result in results):
            return Edit(
                tuple(result if result.error else replace(result, error=NOT_APPLIED) for result in results), (), self
            )
        return self._with(results, changes)

    def _with(self, results: list[Result], changes: list[Change]) -> Edit:
        return Edit(tuple(results), tuple(changes), self.applied(changes))

    def _over(self, changes: list[Change]) -> list[Result]:
        added = {kind: sum(one.kind == kind and one.before is None for one in changes) for kind in KINDS}
        return [
            Result(kind, "", f"more than {MAX_RULES} rules of one kind")
            for kind in KINDS
            if added[kind] and len(self._of(kind)) + added[kind] > MAX_RULES
        ]

    def _created(self, kind: Kind, item: Members) -> Change:
        if kind == "ports":
            return self._port_set(item, "port not allocated: {}")
        rule = self._read(kind, item)
        if self.get(kind, rule.key) is not None:
            what = "domain" if kind == "https" else "port mapping"
            raise RuleInvalid(f"{what} already exists: {rule.key}")
        if isinstance(rule, Site) and MASK in (rule.password, rule.basic_http_auth):
            raise RuleInvalid(f"password and basicHttpAuth cannot be {MASK}")
        return Change(kind, rule.key, None, rule)

    def _updated(self, kind: Kind, item: Members) -> Change:
        if kind == "ports":
            return self._port_set(item, "not found: ports {}")
        rule = self._read(kind, item)
        before = self._found(kind, rule.key)
        return Change(kind, rule.key, before, _unmasked(rule, before))

    def _patched(self, kind: Kind, item: Members) -> Change:
        before = self._found(kind, self._key(kind, item))
        rule = self._read(kind, before.members() | dict(item))
        return Change(kind, before.key, before, _unmasked(rule, before))

    def _deleted(self, kind: Kind, item: Members) -> Change:
        before = self._found(kind, self._key(kind, item))
        return Change(kind, before.key, before, before.emptied() if isinstance(before, PortRule) else None)

    def _port_set(self, item: Members, unknown: str) -> Change:
        rule = read_port(item)
        before = self.port(rule.port, rule.transport if item.get("transport") else None)
        if before is None:
            raise RuleInvalid(unknown.format(rule.port))
        return Change("ports", before.key, before, rule.model_copy(update={"transport": before.transport}))

    def _found(self, kind: Kind, key: str) -> Rule:
        rule = self.get(kind, key)
        if rule is None:
            raise RuleInvalid(f"not found: {kind} {key}")
        return rule

    def _key(self, kind: Kind, item: Members) -> str:
        """The key alone, from an item whose other members do not matter."""
        if kind == "https":
            domain = item.get("domain")
            return read_domain(domain if isinstance(domain, str) else "")
        port = item.get("port") or (item.get("listenPort") if kind == "portmaps" else None)
        if type(port) is not int:
            raise RuleInvalid("port must be a whole number" if port else "port is required")
        if kind == "portmaps":
            return str(port)
        transport = item.get("transport")
        rule = self.port(port, transport if isinstance(transport, str) and transport else None)
        return rule.key if rule is not None else str(port)

    def _read(self, kind: Kind, item: Members) -> Rule:
        if kind == "https":
            return read_site(item, self.forbidden)
        return read_port(item) if kind == "ports" else read_portmap(item)

    def _of(self, kind: Kind) -> dict[str, Any]:
        kept: dict[Kind, dict[str, Any]] = {"https": self.https, "ports": self.ports, "portmaps": self.portmaps}
        return kept[kind]


def _items(request: Members, kind: Kind, results: list[Result]) -> list[Any]:
    items = request.get(kind)
    if items is None:
        return []
    if not isinstance(items, list):
        results.append(Result(kind, "", f"{kind} must be an array"))
        return []
    return items


def _object(item: object, where: str) -> Members:
    if not isinstance(item, dict):
        raise RuleInvalid(f"{where} must be an object")
    try:
        json.dumps(item, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        # Half of a surrogate pair, for one, which JSON can say and no file can hold.
        raise RuleInvalid(f"{where} holds what cannot be written down") from None
    return item


def _key_shown(kind: Kind, item: object, index: int) -> str:
    names = ("domain",) if kind == "https" else ("port", "listenPort")
    given = next((item[name] for name in names if item.get(name)), None) if isinstance(item, dict) else None
    return str(given)[:253] if isinstance(given, str | int) else f"[{index}]"


def _unmasked(rule: Rule, before: Rule) -> Rule:
    """A program that shows the rules and sends them back has not seen the secrets: they stay as they are."""
    if not isinstance(rule, Site) or not isinstance(before, Site):
        return rule
    kept: dict[str, Any] = {}
    if rule.password == MASK:
        kept["password"] = before.password
    if rule.basic_http_auth == MASK:
        kept["basic_http_auth"] = before.basic_http_auth
    return rule.model_copy(update=kept) if kept else rule
