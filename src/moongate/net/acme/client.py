"""The conversation with one ACME directory (RFC 8555), one request at a time.

Everything here blocks and belongs into one thread; waiting between two polls is the caller's.
"""

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

import josepy
import requests
from acme import challenges, errors, messages
from acme.client import ClientNetwork, ClientV2
from acme.crypto_util import make_csr
from cryptography.hazmat.primitives.asymmetric import ec
from josepy.b64 import b64encode
from josepy.jwa import ES256
from josepy.jwk import JWKEC

from moongate.errors import MoongateError
from moongate.net.acme.proofs import Kind, Proof
from moongate.net.acme.store import Account, AcmeStore, key_pem

T = TypeVar("T")

REQUEST_TIMEOUT_S: Final = 10
NONCE_TRIES: Final = 5
"""How often a request is sent whose nonce is refused; the library sends each twice by itself (RFC 8555 §6.5)."""

TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,512}")
DETAIL_MAX: Final = 500

_NEEDS: Final[dict[Kind, str]] = {
    "http-01": "the name must lead to this node, on port 80",
    "tls-alpn-01": "the name must lead to this node, on port 443",
}


class OrderFailed(MoongateError):
    """An authority gave no certificate."""

    code = "acme.failed"

    def __init__(self, message: str, *, hint: str = "", limited: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.limited = limited
        """Whether the authority was asked too often."""


class ProofFailed(OrderFailed):
    """The authority did not find the proof that the name is ours, or wants another kind of it."""


class _TlsAlpn01Response(challenges.KeyAuthorizationChallengeResponse):
    """The library knows this challenge no more; what is posted is `{}` for all of them (RFC 8555 §7.5.1)."""

    typ = "tls-alpn-01"


_RESPONSES: Final[dict[Kind, type[challenges.KeyAuthorizationChallengeResponse]]] = {
    "http-01": challenges.HTTP01Response,
    "tls-alpn-01": _TlsAlpn01Response,
}


@dataclass(slots=True)
class Order:
    """A certificate that was ordered; without `proof` the authority still believes an earlier one."""

    name: str
    key: bytes
    proof: Proof | None
    resource: messages.OrderResource
    challenge: messages.ChallengeBody | None


class AcmeClient:
    """One account at one directory; the account is registered when it is first needed."""

    def __init__(
        self, directory: str, store: AcmeStore, *, email: str | None, ca_file: Path | None, user_agent: str
    ) -> None:
        self._directory = directory
        self._store = store
        self._email = email
        self._verify = str(ca_file) if ca_file is not None else ssl.get_default_verify_paths().cafile
        self._user_agent = user_agent
        self._account: Account | None = None
        self._client: ClientV2 | None = None

    def begin(self, name: str, kind: Kind) -> Order:
        """Order a certificate for a name, with a new key.

        Raises:
            OrderFailed: If the authority refuses or cannot be reached.
            ConfigurationError: If the account's file cannot be used.
        """
        key = key_pem(ec.generate_private_key(ec.SECP256R1()))
        csr = make_csr(key, [name])
        resource = self._ask(lambda client: client.new_order(csr))
        if len(resource.authorizations) != 1:
            raise OrderFailed(f"{self._directory} wants {len(resource.authorizations)} proofs for the one name {name}")
        authorization = resource.authorizations[0].body
        if authorization.status == messages.STATUS_VALID:
            return Order(name, key, None, resource, None)
        for challenge in authorization.challenges or ():
            told = challenge.chall.to_json()
            if told.get("type") == kind:
                return Order(name, key, self._proof(name, kind, told.get("token")), resource, challenge)
        raise ProofFailed(f"{self._directory} takes no {kind} for {name}")

    def answer(self, order: Order) -> None:
        """Say that the proof is there to be looked at.

        Raises:
            OrderFailed: If the authority refuses or cannot be reached.
        """
        challenge, proof = order.challenge, order.proof
        if challenge is None or proof is None:
            return
        response = _RESPONSES[proof.kind](key_authorization=proof.key_authorization)
        self._ask(lambda client: client.answer_challenge(challenge, response))

    def is_proven(self, order: Order) -> bool:
        """Whether the authority has found the proof.

        Raises:
            ProofFailed: If it has looked and not found it.
            OrderFailed: If it cannot be reached.
        """
        found, _ = self._ask(lambda client: client.poll(order.resource.authorizations[0]))
        status = found.body.status
        if status == messages.STATUS_VALID:
            return True
        if status in (messages.STATUS_PENDING, messages.STATUS_PROCESSING):
            return False
        failure = next(
            (challenge.error for challenge in found.body.challenges or () if challenge.error is not None), None
        )
        reason = _said(failure) if failure is not None else f"its authorization is {status.name}"
        needed = _NEEDS[order.proof.kind] if order.proof is not None else ""
        raise ProofFailed(f"the authority could not see that {order.name} is here: {reason}", hint=needed)

    def finalize(self, order: Order) -> None:
        """Hand in the request for the certificate.

        Raises:
            OrderFailed: If the authority refuses or cannot be reached.
        """
        order.resource = self._ask(lambda client: client.begin_finalization(order.resource))

    def fetch(self, order: Order) -> bytes | None:
        """Return the chain in PEM, or None while the authority is still making it.

        Raises:
            OrderFailed: If it will not be made, or the authority cannot be reached.
        """
        body = self._ask(lambda client: messages.Order.from_json(_post_as_get(client, order.resource.uri).json()))
        if body.status == messages.STATUS_INVALID:
            reason = _said(body.error) if body.error is not None else "it did not say why"
            raise OrderFailed(f"the authority made no certificate for {order.name}: {reason}")
        if body.status != messages.STATUS_VALID or body.certificate is None:
            return None
        return self._ask(lambda client: _post_as_get(client, body.certificate).content)

    def close(self) -> None:
        """Close the connections to the directory."""
        if self._client is not None:
            self._client.net.session.close()
            self._client = None

    # -- inside

    def _proof(self, name: str, kind: Kind, token: object) -> Proof:
        if not isinstance(token, str) or not TOKEN.fullmatch(token):
            raise OrderFailed(f"{self._directory} gave no usable token for {name}")
        thumbprint = b64encode(_jwk(self._known_account()).thumbprint()).decode()
        return Proof(kind, name, token, f"{token}.{thumbprint}")

    def _known_account(self) -> Account:
        if self._account is None:
            self._account = self._store.load_account()
        return self._account

    def _ask(self, question: Callable[[ClientV2], T]) -> T:
        """Ask the directory, and say in our words what went wrong."""
        try:
            return self._ask_patiently(question)
        except messages.Error as error:
            raise OrderFailed(
                f"{self._directory} refused: {_said(error)}", limited=error.code == "rateLimited"
            ) from None
        except requests.RequestException as error:
            self.close()
            raise OrderFailed(f"{self._directory} cannot be reached: {_reason(error)}") from None
        except (errors.Error, josepy.errors.Error, ValueError, LookupError, AttributeError, TypeError) as error:
            # The last three: the library takes what it is sent for what it should be.
            self.close()
            raise OrderFailed(
                f"{self._directory} did not answer as RFC 8555 says: {_reason(error)}",
                hint="acme.directory must be the URL of the directory itself",
            ) from None

    def _ask_patiently(self, question: Callable[[ClientV2], T]) -> T:
        for last in (*[False] * (NONCE_TRIES - 1), True):
            try:
                return question(self._connected())
            except messages.Error as error:
                if last or error.code not in ("badNonce", "accountDoesNotExist"):
                    raise
                if error.code == "accountDoesNotExist":
                    # The directory has forgotten us; it may know the key again.
                    self.close()
                    self._account = replace(self._known_account(), uri=None)
        raise AssertionError("the last try returns or raises")

    def _connected(self) -> ClientV2:
        if self._client is None:
            account = self._known_account()
            net = ClientNetwork(key=_jwk(account), alg=ES256, user_agent=self._user_agent, timeout=REQUEST_TIMEOUT_S)
            if self._verify is not None:
                net.verify_ssl = self._verify  # type: ignore[assignment]  # requests takes a file, too
            client = ClientV2(ClientV2.get_directory(self._directory, net), net)
            if client.external_account_required():
                raise OrderFailed(
                    f"{self._directory} serves only accounts that it knows from elsewhere (external account binding)",
                    hint="choose a directory that does not",
                )
            self._account = self._registered(client, account)
            self._client = client
        return self._client

    def _registered(self, client: ClientV2, account: Account) -> Account:
        """Take up our account, or register it; tell the authority a new e-mail address."""
        if account.uri is None:
            account = replace(account, uri=self._register(client), email=self._email)
            self._store.save_account(account)
        resource = messages.RegistrationResource(uri=account.uri, body=messages.Registration())
        client.net.account = resource
        if account.email != self._email:
            contact = (messages.Registration.email_prefix + self._email,) if self._email is not None else ()
            client.update_registration(resource, messages.Registration.from_data(contact=contact))
            account = replace(account, email=self._email)
            self._store.save_account(account)
        return account

    def _register(self, client: ClientV2) -> str:
        wanted = messages.NewRegistration.from_data(email=self._email, terms_of_service_agreed=True)
        try:
            return str(client.new_account(wanted).uri)
        except errors.ConflictError as known:
            return known.location


def _post_as_get(client: ClientV2, url: str) -> requests.Response:
    return client.net.post(url, None, new_nonce_url=client.directory["newNonce"])


def _jwk(account: Account) -> JWKEC:
    return JWKEC(key=account.key)


def _said(error: messages.Error) -> str:
    """What the authority itself said, in one line."""
    text = " ".join(str(error.detail or error.title or error.typ).split())
    details = [str(part.detail) for part in error.subproblems or () if part.detail]
    return "; ".join([text, *details])[:DETAIL_MAX]


def _reason(error: Exception) -> str:
    cause: BaseException = error
    while isinstance(cause, requests.RequestException) and cause.args and isinstance(cause.args[0], BaseException):
        cause = cause.args[0]
    reason = getattr(cause, "reason", None)
    return " ".join(str(reason or cause or type(error).__name__).split())[:DETAIL_MAX]
