"""What a request says: its body, whatever the method, and its few query parameters."""

import json
import re
from typing import Any, Final

from fastapi import Request

from moongate.api.agent.envelopes import Unusable, malformed

BODY_MAX_BYTES: Final = 1024 * 1024
WAIT_MAX_S: Final = 30.0
KINDS: Final = ("https", "ports", "portmaps")
TRANSPORTS: Final = ("tcp", "udp")
# Which query parameter names the key of which kind of rule, and the key's member.
DELETE_BY_QUERY: Final = (("domain", "https", "domain"), ("port", "ports", "port"), ("portmap", "portmaps", "port"))

_SECONDS = re.compile(r"\d{1,6}(\.\d{1,6})?")
_PORT = re.compile(r"\d{1,5}")


async def read_object(request: Request) -> dict[str, Any] | None:
    """Return the body's JSON object, None when there is no body. A GET may have one here.

    Raises:
        HTTPException: 400, when it is not an object; 413, when it is too large.
    """
    body = await request.body()
    if not body.strip():
        return None
    value = decode(body)
    if not isinstance(value, dict):
        raise malformed("request body must be a JSON object")
    return value


def decode(body: bytes) -> Any:
    """Decode JSON (RFC 8259), and nothing that is only almost JSON.

    Raises:
        HTTPException: 400, when it is not JSON.
    """
    try:
        # Programs on Windows begin a text with a byte order mark, which a parser may ignore (RFC 8259 §8.1).
        return json.loads(body.decode("utf-8-sig"), parse_constant=_not_json)
    except UnicodeDecodeError:
        raise malformed("request body is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise malformed(
            f"request body is not valid JSON: {error.msg.lower()} (line {error.lineno}, column {error.colno})"
        ) from None
    except (ValueError, RecursionError):
        # An integer of thousands of digits, NaN, or thousands of brackets.
        raise malformed("request body is not valid JSON") from None


def _not_json(name: str) -> None:
    raise ValueError(name)


async def read_traffic(request: Request) -> dict[str, Any]:
    """Return the three lists of a traffic body; one that is missing or null is empty.

    Raises:
        HTTPException: 400, when the body is not an object of lists of objects.
    """
    given = await read_object(request)
    if given is None:
        raise malformed("request body must be a JSON object")
    return traffic_of(given)


def traffic_of(given: dict[str, Any]) -> dict[str, Any]:
    """Return the three lists of a decoded traffic body; members that this API does not know are ignored.

    Raises:
        HTTPException: 400, when one of them is no list of objects.
    """
    body: dict[str, Any] = {}
    for kind in KINDS:
        items = given.get(kind)
        if items is None:
            items = []
        if not isinstance(items, list):
            raise malformed(f"{kind} must be an array of objects")
        for index, item in enumerate(items):
            if not isinstance(item, dict):
                raise malformed(f"{kind}[{index}] must be an object")
        body[kind] = items
    return body


async def read_deletion(request: Request) -> dict[str, Any]:
    """Return what is to be deleted, as the body says, else the query; nothing when neither does.

    Raises:
        HTTPException: 400, when the body cannot be read.
        Unusable: When a port of the query is none.
    """
    given = await read_object(request)
    if given is not None:
        return traffic_of(given)
    body: dict[str, Any] = {}
    for parameter, kind, key in DELETE_BY_QUERY:
        values: list[Any] = request.query_params.getlist(parameter)
        body[kind] = [{key: value if key == "domain" else port_of(value, parameter)} for value in values]
    return body


def wait_s(request: Request) -> float:
    """Return how long the caller wants to wait for a session.

    Raises:
        Unusable: If that is not from 0 to 30 seconds.
    """
    text = request.query_params.get("wait", "0")
    if not _SECONDS.fullmatch(text) or float(text) > WAIT_MAX_S:
        raise Unusable(f"wait must be a number of seconds from 0 to {WAIT_MAX_S:.0f}")
    return float(text)


def wanted_port(request: Request) -> int | None:
    """Return the port that is asked for, None when any will do.

    Raises:
        Unusable: If there is no such port.
    """
    text = request.query_params.get("port")
    return None if text is None else port_of(text, "port")


def transport_of(value: Any) -> str:
    """Return tcp or udp, in whatever case it was written.

    Raises:
        Unusable: If it is neither.
    """
    text = value.lower() if isinstance(value, str) else value
    if text not in TRANSPORTS:
        raise Unusable("transport must be tcp or udp")
    return str(text)


def port_of(value: Any, name: str) -> int:
    """Return a port number, from JSON or from a query.

    Raises:
        Unusable: If it is none.
    """
    if isinstance(value, str) and _PORT.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
        raise Unusable(f"{name} must be a number from 1 to 65535")
    return value
