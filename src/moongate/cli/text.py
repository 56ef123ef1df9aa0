"""Text on its way to a terminal: hostile bytes made visible, quantities made short."""

import json
import sys
import unicodedata
from collections.abc import Mapping
from typing import Any, TextIO

# Cc: control bytes, which move cursors and set titles. Cf: invisible formatting, among it the
# bidirectional overrides that make text read as something else. Zl, Zp: line ends in disguise.
# Cs: lone surrogates, which no terminal can encode.
_HOSTILE_CATEGORIES = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs"})


def neutralise(text: str) -> str:
    """Return the text on one line, with every character that a terminal would act on written as an escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible(char) if unicodedata.category(char) in _HOSTILE_CATEGORIES else char for char in text)


def _visible(char: str) -> str:
    number = ord(char)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def json_line(members: Mapping[str, Any]) -> str:
    """Return one line of JSON, its end included, in plain ASCII, so that it is safe on a terminal too."""
    # json escapes everything below 0x20 and, asked for ASCII, above 0x7e; DEL is all that is left.
    return json.dumps(members, ensure_ascii=True, separators=(",", ":")).replace("\x7f", "\\u007f") + "\n"


def print_json(members: Mapping[str, Any], stream: TextIO | None = None) -> None:
    """Write one line of JSON now, to standard output unless told otherwise.

    It is one write, so that a reader never finds half a line and programs that share a pipe do not mix theirs;
    `print` makes two of it when Python is told not to buffer.
    """
    out = stream or sys.stdout
    out.write(json_line(members))
    out.flush()


def shortened(text: str, width: int) -> str:
    """Return the text cut to `width` characters, its loss shown by an ellipsis."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def human_bytes(count: int) -> str:
    """Return a count of bytes in binary units, three digits at most before the unit."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1000:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def human_duration(seconds: float) -> str:
    """Return a duration as one would say it: 40 µs, 0.8 ms, 12 ms, 1.25 s, 3 min, 2 h."""
    if seconds < 0.0005:
        return f"{seconds * 1_000_000:.0f} µs"
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 86400:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} d"


def human_age(seconds: float) -> str:
    """Return how long ago something was, to the second at best."""
    return "now" if seconds < 1 else f"{seconds:.0f} s ago" if seconds < 60 else f"{human_duration(seconds)} ago"
