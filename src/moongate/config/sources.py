"""One place that settings were read from, as flat keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Source:
    """Flat keys of one place, and what there was besides."""

    name: str
    values: Mapping[str, Any]
    foreign: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


def flat(tree: Mapping[str, Any], sections: frozenset[str] | None = None) -> dict[str, Any]:
    """Spread tables into dotted keys; only the named sections, or every table."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and (sections is None or key in sections):
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    return flat
