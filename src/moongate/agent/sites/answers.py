"""What a request for a file is answered with: all of it, a part, or that it has not changed (RFC 9110 §13 and §14)."""

import mimetypes
import re
from email.utils import formatdate, parsedate_to_datetime
from pathlib import PurePath
from typing import Final, NamedTuple

# 18 digits stay below 2**63.
_RANGE: Final = re.compile(rb"[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*")
_TAG: Final = re.compile(rb'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')

PLAIN: Final = b"text/plain; charset=utf-8"
REASONS: Final = {
    200: b"OK",
    206: b"Partial Content",
    301: b"Moved Permanently",
    304: b"Not Modified",
    404: b"Not Found",
    405: b"Method Not Allowed",
    412: b"Precondition Failed",
    416: b"Range Not Satisfiable",
}

# Not the machine's own table, which differs from one to the next; but the names that web pages need.
_TYPES: Final = mimetypes.MimeTypes()
for _suffix, _type in {
    ".avif": "image/avif",
    ".ico": "image/vnd.microsoft.icon",
    ".js": "text/javascript",
    ".map": "application/json",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".otf": "font/otf",
    ".ttf": "font/ttf",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}.items():
    _TYPES.add_type(_type, _suffix)
# What a compressed file is, since it is sent as it lies there.
_PACKED: Final = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}
_UNKNOWN: Final = "application/octet-stream"


class FileFacts(NamedTuple):
    """What an answer tells about a file."""

    size: int
    etag: bytes
    modified: int
    """Seconds since the epoch."""
    last_modified: bytes
    content_type: bytes


class Asked(NamedTuple):
    """The fields of a request for a file that change its answer, as sent."""

    range: bytes | None = None
    if_range: bytes | None = None
    if_match: bytes | None = None
    if_none_match: bytes | None = None
    if_modified_since: bytes | None = None
    if_unmodified_since: bytes | None = None


FIELDS: Final = {field.replace("_", "-").encode(): field for field in Asked._fields}
"""The names of those fields, in lower case, and where Asked keeps them."""


class Decision(NamedTuple):
    """A status, and which bytes of the file are its content."""

    status: int
    start: int
    end: int


def facts_of(name: str, size: int, modified_ns: int) -> FileFacts:
    """Return the facts of a file by its name, its size and when it was changed, in nanoseconds since the epoch."""
    modified = modified_ns // 1_000_000_000
    return FileFacts(
        size,
        b'"%x-%x"' % (modified_ns, size),
        modified,
        formatdate(modified, usegmt=True).encode("ascii"),
        content_type(name),
    )


def content_type(name: str) -> bytes:
    """Return the media type that a file's name tells; text is taken for UTF-8, which almost all of it is."""
    guessed, packed = _TYPES.guess_type(f"/{PurePath(name).name}")
    if packed is not None:
        guessed = _PACKED.get(packed, _UNKNOWN)
    guessed = guessed or _UNKNOWN
    return f"{guessed}; charset=utf-8".encode() if guessed.startswith("text/") else guessed.encode()


def decide(method: bytes, asked: Asked, facts: FileFacts) -> Decision:
    """Decide how GET or HEAD of a file is answered, in the order of RFC 9110 §13.2.2."""
    if not _precondition_holds(asked, facts):
        return Decision(412, 0, 0)
    if _is_unchanged(asked, facts):
        return Decision(304, 0, 0)
    # Only GET has ranges (RFC 9110 §14.2).
    if asked.range is not None and method == b"GET" and _range_counts(asked.if_range, facts):
        part = parse_range(asked.range, facts.size)
        if part is not None:
            return Decision(206, *part) if part[0] < part[1] else Decision(416, 0, 0)
    return Decision(200, 0, facts.size)


def parse_range(value: bytes, size: int) -> tuple[int, int] | None:
    """Return where the part that a Range field asks for begins and ends; an empty one cannot be satisfied.

    None where the field is to be ignored (RFC 9110 §14.2): it is malformed, of another unit, or asks for several parts,
    which are answered with the whole.
    """
    unit, equals, specs = value.partition(b"=")
    match = _RANGE.fullmatch(specs)
    if not equals or unit.strip(b" \t").lower() != b"bytes" or match is None:
        return None
    first, last = match.groups()
    if not first:
        if not last or (size == 0 and int(last)):
            return None  # all of nothing cannot be said as a part
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    start = int(first)
    if start >= size:
        return 0, 0
    return start, min(int(last) + 1, size) if last else size


def _precondition_holds(asked: Asked, facts: FileFacts) -> bool:
    if asked.if_match is not None:
        return asked.if_match.strip() == b"*" or facts.etag in _tags(asked.if_match, weak=False)
    if asked.if_unmodified_since is not None:
        since = _parse_date(asked.if_unmodified_since, facts)
        return since is None or facts.modified <= since
    return True


def _is_unchanged(asked: Asked, facts: FileFacts) -> bool:
    if asked.if_none_match is not None:
        return asked.if_none_match.strip() == b"*" or facts.etag in _tags(asked.if_none_match, weak=True)
    if asked.if_modified_since is not None:
        since = _parse_date(asked.if_modified_since, facts)
        return since is not None and facts.modified <= since
    return False


def _range_counts(if_range: bytes | None, facts: FileFacts) -> bool:
    """Whether the part is wanted of this very file (RFC 9110 §13.1.5): exactly its tag, or exactly its date."""
    return if_range is None or if_range.strip() in (facts.etag, facts.last_modified)


def _tags(value: bytes, *, weak: bool) -> set[bytes]:
    return {tag for prefix, tag in _TAG.findall(value) if weak or not prefix}


def _parse_date(value: bytes, facts: FileFacts) -> float | None:
    if value == facts.last_modified:
        return facts.modified
    try:
        return parsedate_to_datetime(value.decode("ascii")).timestamp()
    except (ValueError, OverflowError):  # UnicodeDecodeError is one of the first
        return None


def head(status: int, *fields: tuple[bytes, bytes]) -> bytes:
    """Write the head of an answer, up to where Date is still to be said."""
    lines = b"".join([b"%b: %b\r\n" % field for field in fields])
    return b"HTTP/1.1 %d %b\r\n%bDate: " % (status, REASONS[status], lines)


def file_head(decision: Decision, facts: FileFacts) -> bytes:
    """Write the head of an answer about a file, up to where Date is still to be said."""
    status = decision.status
    # RFC 9110 §15.4.5: what a cache needs to find the copy it may go on using.
    known = ((b"ETag", facts.etag), (b"Last-Modified", facts.last_modified))
    if status == 304:
        return head(304, *known)
    if status in (412, 416):
        unsatisfied = ((b"Content-Range", b"bytes */%d" % facts.size),) if status == 416 else ()
        return head(status, (b"Content-Length", b"0"), *unsatisfied, *known)
    part = (b"Content-Range", b"bytes %d-%d/%d" % (decision.start, decision.end - 1, facts.size))
    return head(
        status,
        (b"Content-Type", facts.content_type),
        (b"Content-Length", b"%d" % (decision.end - decision.start)),
        *((part,) if status == 206 else ()),
        *known,
        (b"Accept-Ranges", b"bytes"),
    )


def text_head(status: int, text: bytes, media_type: bytes, *fields: tuple[bytes, bytes]) -> bytes:
    """Write the head of an answer that is no file's, up to where Date is still to be said."""
    return head(status, (b"Content-Type", media_type), (b"Content-Length", b"%d" % len(text)), *fields)
