"""The families of failure, each with a stable code.

Two kinds meet at every border: they broke the rules, or we did. A message is one
lowercase sentence with the values in it; secrets never appear in one.
"""

from typing import ClassVar


class MoongateError(Exception):
    """The root of every failure that Moongate itself raises."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ProtocolError(MoongateError):
    """A peer sent bytes that the protocol does not allow."""

    code = "protocol.invalid"


class VersionUnsupported(ProtocolError):
    """The peer speaks a version of the tunnel protocol that this side does not."""

    code = "protocol.version"


class BadRequest(ProtocolError):
    """An HTTP message that must not be forwarded; `status` is what its sender is told."""

    code = "http.bad_request"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ConfigurationError(MoongateError):
    """A setting is unknown, malformed or contradicts another."""

    code = "configuration.invalid"


class IdentityError(MoongateError):
    """Who is asking could not be proven, or may not do this."""

    code = "identity.refused"


class TokenInvalid(IdentityError):
    """The token is unknown, expired or revoked."""

    code = "token.invalid"


class ScopeInvalid(IdentityError):
    """A token's scope cannot be read."""

    code = "scope.invalid"


class ScopeDenied(IdentityError):
    """The token's scope does not cover this name or port."""

    code = "scope.denied"


class LabelInvalid(IdentityError):
    """A token's label is empty or too long."""

    code = "token.label_invalid"


class RoutingError(MoongateError):
    """A name or port could not be given."""

    code = "routing.refused"


class NameInvalid(RoutingError):
    """The wanted name is not one that a tunnel can have."""

    code = "name.invalid"


class NameTaken(RoutingError):
    """Another identity holds the name."""

    code = "name.taken"


class PortUnavailable(RoutingError):
    """The wanted port is outside the range, or held by another."""

    code = "port.unavailable"


class NoPortFree(RoutingError):
    """Every port of the range is held."""

    code = "port.none_free"


class Superseded(RoutingError):
    """A newer instance of the same identity holds the name now."""

    code = "lease.superseded"


class TunnelUnknown(RoutingError):
    """There is no such tunnel, or it is another agent's."""

    code = "tunnel.unknown"


class LimitExceeded(RoutingError):
    """A limit of this node would be passed."""

    code = "limit.exceeded"


class ReachError(MoongateError):
    """An address could not be reached."""

    code = "reach.failed"


class UpstreamUnresolved(ReachError):
    """The host name has no address."""

    code = "reach.unresolved"


class UpstreamRefused(ReachError):
    """Nothing listens there, or the way there is closed."""

    code = "reach.refused"


class UpstreamTimeout(ReachError):
    """No answer came in time."""

    code = "reach.timeout"


class WrongAuthority(ReachError):
    """The node shows another certificate authority than the join string pins."""

    code = "reach.wrong_authority"


class PortInUse(MoongateError):
    """Another program listens on the address that was asked for."""

    code = "listen.in_use"


class StorageError(MoongateError):
    """The database could not be read or written; what was to be written is kept."""

    code = "storage.failed"


class RuleError(MoongateError):
    """A rule of an agent could not be made, changed or kept."""

    code = "rule.refused"


class RuleInvalid(RuleError):
    """A rule says what cannot be done."""

    code = "rule.invalid"


class RulesLocked(RuleError):
    """Another agent uses the same rules."""

    code = "rules.locked"


class RulesUnsaved(RuleError):
    """The rules could not be written; the old ones are still there."""

    code = "rules.unsaved"


class NotConnected(RuleError):
    """What was asked for needs the node, and there is no link to it."""

    code = "tunnel.not_connected"
