"""What changed between two answers to the same request, in few words and without secrets."""

from typing import Any

from moongate.audit.exchanges import MASK, Capture, Headers, is_secret


def compare(recorded: Capture, new: Capture) -> dict[str, Any]:
    """Compare the recorded answer with the new one."""
    return {
        "status": {"recorded": recorded.status, "new": new.status, "equal": recorded.status == new.status},
        "headers": compare_headers(recorded.response_headers, new.response_headers),
        "body": {
            "recorded_bytes": recorded.response_bytes,
            "new_bytes": new.response_bytes,
            "equal": _equal_bodies(recorded, new),
        },
    }


def compare_headers(recorded: Headers, new: Headers) -> dict[str, Any]:
    """Tell which headers came, went or differ; of a secret one, only that it did."""
    before, after = _grouped(recorded), _grouped(new)
    return {
        "added": {name: _shown(name, after[name]) for name in sorted(after.keys() - before.keys())},
        "removed": {name: _shown(name, before[name]) for name in sorted(before.keys() - after.keys())},
        "changed": {
            name: {"recorded": _shown(name, before[name]), "new": _shown(name, after[name])}
            for name in sorted(before.keys() & after.keys())
            if before[name] != after[name]
        },
    }


def _grouped(headers: Headers) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name, value in headers:
        grouped.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return grouped


def _shown(name: str, values: list[str]) -> list[str]:
    return [MASK] * len(values) if is_secret(name.encode("latin-1")) else values


def _equal_bodies(recorded: Capture, new: Capture) -> bool | None:
    """Tell whether the bodies are equal, or None when a cut one leaves that open."""
    if recorded.response_bytes != new.response_bytes:
        return False
    before, after = recorded.response_body or b"", new.response_body or b""
    if recorded.response_truncated or new.response_truncated or len(before) != len(after):
        common = min(len(before), len(after))
        return None if before[:common] == after[:common] else False
    if len(before) != recorded.response_bytes:
        return None  # no copy was taken
    return before == after
