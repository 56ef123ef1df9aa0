"""From the target of a request to a path inside a folder: what may be asked for at all, told by its letters alone.

Whether such a path then stays inside, links considered, is folder's business.
"""

import re
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote_to_bytes

# Longer than any file's path; asked for by nobody but those who try things.
TARGET_MAX: Final = 8192
# How many targets are remembered, and how long one of them may be.
_REMEMBERED: Final = 1024
_REMEMBERED_BYTES: Final = 256

INDEX: Final = "index.html"
# RFC 8615: the one name with a dot in front that is meant for the public.
_PUBLIC_DOT: Final = ".well-known"
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
# Control bytes end strings in C; a backslash separates folders on Windows.
_NEVER: Final = re.compile(rb"[\x00-\x1f\x7f\\]")
_DRIVE: Final = re.compile("[A-Za-z]:")


def path_of(target: bytes) -> str | None:
    """Return the path that a target in origin-form asks for, relative to the folder; None if nobody may have it.

    It holds neither `.` nor `..`, nor an empty or hidden name; it ends with a slash, or is empty, for a folder.
    """
    if len(target) <= _REMEMBERED_BYTES:
        return _remembered(target)
    return _path_of(target) if len(target) <= TARGET_MAX else None


def _path_of(target: bytes) -> str | None:
    escaped = target.partition(b"?")[0]
    # An escaped slash is no separator (RFC 3986 §2.2), and no name can hold one.
    if not escaped.startswith(b"/") or _BAD_ESCAPE.search(escaped) or b"%2f" in escaped.lower():
        return None
    path = unquote_to_bytes(escaped)
    if _NEVER.search(path):
        return None
    # As os.fsdecode does on Linux, whatever the locale: a name is bytes there.
    names = [name for name in path.decode("utf-8", "surrogateescape").split("/") if name]
    if any(is_hidden(name) or _DRIVE.match(name) for name in names):
        return None
    return "/".join(names) + ("/" if names and path.endswith(b"/") else "")


_remembered = lru_cache(maxsize=_REMEMBERED)(_path_of)


def is_hidden(name: str) -> bool:
    """Whether a name is one that a folder keeps to itself, or no name at all (`.` and `..`)."""
    return name.startswith(".") and name != _PUBLIC_DOT


def with_slash(path: str, target: bytes) -> bytes:
    """Return the target that asks for a folder by its proper name, with a slash at its end.

    Written anew from the path: of a target that begins with two slashes, a browser would take a host name.
    """
    query = target.partition(b"?")[1:]
    return b"/" + quote(path.encode("utf-8", "surrogateescape")).encode("ascii") + b"/" + b"".join(query)
