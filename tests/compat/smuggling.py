"""Messages made so that two readers may disagree where one ends (class: request smuggling).

Data for tests at every height: the pure rules, and a running node in front of a strict back
end that counts what reaches it. HOST stands for the public name, which the user of the
corpus puts in. Every request beyond the honest one asks for /smuggled.
"""

from enum import Enum
from typing import Final, NamedTuple

HOST: Final = b"public.example"


class Outcome(Enum):
    REFUSED = "the visitor gets an error and the end of the connection; the back end gets no request"
    CUT = "the back end may get the beginning of one request, never the end of it, and no second one"
    ONE = "the back end gets exactly one request, whole"
    TWO = "the back end gets exactly two requests, whole, in order"
    ONE_THEN_REFUSED = "the back end gets exactly one request, whole; then the connection ends"


class Case(NamedTuple):
    name: str
    raw: bytes
    outcome: Outcome
    targets: tuple[bytes, ...] = ()
    """What the back end is asked for, in order."""
    bodies: tuple[bytes, ...] = ()

    def for_host(self, host: bytes) -> bytes:
        """Return the bytes to send when the public name is this one."""
        return self.raw.replace(HOST, host)


SMUGGLED: Final = b"GET /smuggled HTTP/1.1\r\nHost: " + HOST + b"\r\n\r\n"
# As a body it must keep its length, whatever HOST becomes.
SMUGGLED_BODY: Final = SMUGGLED.replace(HOST, b"other.name")
_SIZE: Final = len(SMUGGLED_BODY)


def _post(*lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([b"POST /one HTTP/1.1", b"Host: " + HOST, *lines, b"", body])


def _get(*lines: bytes, target: bytes = b"/one", version: bytes = b"HTTP/1.1", after: bytes = b"") -> bytes:
    return b"\r\n".join([b"GET " + target + b" " + version, b"Host: " + HOST, *lines, b"", after])


_CHUNKED: Final = b"Transfer-Encoding: chunked"


def _refused(name: str, raw: bytes) -> Case:
    return Case(name, raw, Outcome.REFUSED)


def _cut(name: str, body: bytes) -> Case:
    return Case(name, _post(_CHUNKED, body=body), Outcome.CUT)


def _one(name: str, raw: bytes, body: bytes = b"", target: bytes = b"/one") -> Case:
    return Case(name, raw, Outcome.ONE, (target,), (body,))


_BOTH_FRAMINGS: Final = [
    _refused("CL.TE", _post(b"Content-Length: 6", _CHUNKED, body=b"0\r\n\r\nG")),
    _refused("TE.CL", _post(_CHUNKED, b"Content-Length: 4", body=b"5c\r\n" + SMUGGLED + b"\r\n0\r\n\r\n")),
    _refused("TE and CL that agree", _post(_CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\n")),
    _refused("TE and CL of zero", _post(_CHUNKED, b"Content-Length: 0", body=b"0\r\n\r\n" + SMUGGLED)),
]

_LENGTHS: Final = [
    _refused(f"content-length {name}", _post(b"Content-Length: " + value, body=b"hello" + SMUGGLED))
    for name, value in [
        ("joined, equal", b"5, 5"),
        ("joined, different", b"5, 0"),
        ("signed plus", b"+5"),
        ("signed minus", b"-5"),
        ("hexadecimal", b"0x5"),
        ("with a fraction", b"5.0"),
        ("with an exponent", b"5e0"),
        ("with an underscore", b"0_5"),
        ("with a space inside", b"5 5"),
        ("empty", b""),
        ("with letters", b"5a"),
        ("beyond 64 bits", b"18446744073709551621"),
        ("in other digits", b"\xd9\xa5"),
        ("with a NUL", b"5\x00"),
        ("with a vertical tab", b"\x0b5"),
        ("quoted", b'"5"'),
    ]
] + [
    _refused(
        "content-length twice, different",
        _post(b"Content-Length: 5", b"Content-Length: 0", body=b"hello" + SMUGGLED),
    ),
    _refused("content-length twice, equal", _post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello")),
    _refused("content-length twice, other case", _post(b"Content-Length: 5", b"content-length: 0", body=b"hello")),
    _one("content-length with leading zeros", _post(b"Content-Length: 0005", body=b"hello"), b"hello"),
    _one("content-length with spaces around", _post(b"Content-Length: \t 5 \t", body=b"hello"), b"hello"),
    # The look-alike must not reach an upstream that cannot tell it apart.
    _one(
        "content_length with an underscore", _post(b"Content_Length: 40", b"Content-Length: 5", body=b"hello"), b"hello"
    ),
]

_CODINGS: Final = [
    _refused(f"transfer-encoding {name}", _post(b"Transfer-Encoding:" + value, body=b"0\r\n\r\n" + SMUGGLED))
    for name, value in [
        ("xchunked", b" xchunked"),
        ("chunkedx", b" chunkedx"),
        ("quoted", b' "chunked"'),
        ("identity", b" identity"),
        ("gzip", b" gzip"),
        ("gzip, chunked", b" gzip, chunked"),
        ("chunked, gzip", b" chunked, gzip"),
        ("chunked, chunked", b" chunked, chunked"),
        ("chunked, identity", b" chunked, identity"),
        ("comma before", b" ,chunked"),
        ("comma after", b" chunked,"),
        ("with a parameter", b" chunked;q=1"),
        ("empty", b""),
        ("vertical tab before", b" \x0bchunked"),
        ("form feed before", b" \x0cchunked"),
        ("NUL after", b" chunked\x00"),
        ("non-breaking space after", b" chunked\xa0"),
        ("folded", b"\r\n chunked"),
        ("folded with a tab", b"\r\n\tchunked"),
        ("after a bare line feed", b"\nchunked"),
        ("after a bare carriage return", b"\rchunked"),
        ("with a dotless i", b" chunk\xc4\xb1ed"),
    ]
] + [
    _refused("transfer-encoding twice", _post(_CHUNKED, _CHUNKED, body=b"0\r\n\r\n" + SMUGGLED)),
    _refused("transfer-encoding twice, one hidden", _post(_CHUNKED, b"Transfer-encoding: cow", body=b"0\r\n\r\n")),
    _refused("transfer-encoding before a space", _post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n" + SMUGGLED)),
    _refused("transfer-encoding before a tab", _post(b"Transfer-Encoding\t: chunked", body=b"0\r\n\r\n" + SMUGGLED)),
    _refused("transfer-encoding after a space", _post(b" Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED)),
    _refused(
        "transfer-encoding behind a bare line feed", _post(b"X: y\nTransfer-Encoding: chunked", body=b"0\r\n\r\n")
    ),
    _refused("transfer-encoding behind a bare return", _post(b"X: y\rTransfer-Encoding: chunked", body=b"0\r\n\r\n")),
    _refused(
        "transfer-encoding in http/1.0",
        _post(_CHUNKED, body=b"0\r\n\r\n" + SMUGGLED).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    ),
    _one(
        "transfer-encoding in capitals", _post(b"TRANSFER-ENCODING: CHUNKED", body=b"5\r\nhello\r\n0\r\n\r\n"), b"hello"
    ),
    _one(
        "transfer_encoding with an underscore",
        _post(b"Transfer_Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"),
        b"0\r\n\r\n",
    ),
]

_CHUNKS: Final = [
    _cut("chunk size with a sign", b"+5\r\nhello\r\n0\r\n\r\n"),
    _cut("chunk size negative", b"-5\r\nhello\r\n0\r\n\r\n"),
    _cut("chunk size with 0x", b"0x5\r\nhello\r\n0\r\n\r\n"),
    _cut("chunk size with a space before", b" 5\r\nhello\r\n0\r\n\r\n"),
    _cut("chunk size with a space after", b"5 \r\nhello\r\n0\r\n\r\n"),
    _cut("chunk size with an underscore", b"0_5\r\nhello\r\n0\r\n\r\n"),
    _cut("chunk size empty", b"\r\nhello\r\n0\r\n\r\n"),
    _cut("chunk size beyond 64 bits", b"10000000000000005\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
    _cut("chunk size ended by a bare line feed", b"5\nhello\r\n0\r\n\r\n" + SMUGGLED),
    _cut("chunk size ended by a bare return", b"5\rhello\r\n0\r\n\r\n" + SMUGGLED),
    _cut("chunk extension with a bare line feed", b"5;a\nhello\r\n0\r\n\r\n" + SMUGGLED),
    _cut("chunk extension with a line feed in quotes", b'5;a="\n"\r\nhello\r\n0\r\n\r\n' + SMUGGLED),
    _cut("chunk longer than its size", b"5\r\nhelloXX\r\n0\r\n\r\n" + SMUGGLED),
    _cut("chunk data ended by a bare line feed", b"5\r\nhello\n0\r\n\r\n" + SMUGGLED),
    _cut("chunk data not ended", b"5\r\nhello0\r\n\r\n" + SMUGGLED),
    _cut("trailer section with a bare line feed", b"0\r\nX: y\n\r\n" + SMUGGLED),
    _cut("trailer with a space before the colon", b"0\r\nX : y\r\n\r\n" + SMUGGLED),
    _cut("trailer folded", b"0\r\nX: y\r\n z\r\n\r\n" + SMUGGLED),
    _cut("trailer with a NUL", b"0\r\nX: \x00\r\n\r\n" + SMUGGLED),
    _cut("content-length in the trailers", b"0\r\nContent-Length: 5\r\n\r\n" + SMUGGLED),
    Case("chunk extension", _post(_CHUNKED, body=b"5;a=b\r\nhello\r\n0\r\n\r\n"), Outcome.ONE, (b"/one",), (b"hello",)),
    Case(
        "trailer that names a host",
        _post(_CHUNKED, body=b"5\r\nhello\r\n0\r\nHost: other.example\r\n\r\n"),
        Outcome.ONE,
        (b"/one",),
        (b"hello",),
    ),
    Case(
        "request after the last chunk",
        _post(_CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
        Outcome.TWO,
        (b"/one", b"/smuggled"),
        (b"hello", b""),
    ),
]

_LINES: Final = [
    _refused("bare line feeds only", SMUGGLED.replace(b"\r\n", b"\n")),
    _refused("bare line feed after the request line", _get().replace(b"HTTP/1.1\r\n", b"HTTP/1.1\n")),
    _refused("bare line feed ends the head", _get()[:-2] + b"\n" + SMUGGLED),
    _refused("bare return ends the head", _get()[:-2] + b"\r" + SMUGGLED),
    _refused("bare line feed in a value", _get(b"X: a\nY: b")),
    _refused("bare return in a value", _get(b"X: a\rY: b")),
    _refused("folded line", _get(b"X: a", b" b")),
    _refused("folded line with a tab", _get(b"X: a", b"\tb")),
    _refused("folded first line", _get().replace(b"Host", b" Host")),
    _refused("NUL in a value", _get(b"X: a\x00b")),
    _refused("escape in a value", _get(b"X: a\x1bb")),
    _refused("delete in a value", _get(b"X: a\x7fb")),
    _refused("NUL in a name", _get(b"X\x00Y: a")),
    _refused("space in a name", _get(b"X Y: a")),
    _refused("brackets in a name", _get(b"X(Y): a")),
    _refused("letters beyond ascii in a name", _get(b"X\xc3\xa9: a")),
    _refused("empty name", _get(b": a")),
    _refused("no colon", _get(b"X")),
    _refused("space before the colon", _get(b"X : a")),
    _refused("two returns", _get(b"X: a\r")),
]

_REQUEST_LINES: Final = [
    _refused("version 2.0", _get(version=b"HTTP/2.0")),
    _refused("version 1.2", _get(version=b"HTTP/1.2")),
    _refused("version 0.9", _get(version=b"HTTP/0.9")),
    _refused("version 01.1", _get(version=b"HTTP/01.1")),
    _refused("version in small letters", _get(version=b"http/1.1")),
    _refused("no version", b"GET /one\r\nHost: " + HOST + b"\r\n\r\n"),
    _refused("http/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    _refused("tab after the method", b"GET\t/one HTTP/1.1\r\nHost: " + HOST + b"\r\n\r\n"),
    _refused("space in the target", _get(target=b"/one HTTP/1.1 /smuggled")),
    _refused("tab in the target", _get(target=b"/one\t/smuggled")),
    _refused("NUL in the target", _get(target=b"/one\x00")),
    _refused("bytes beyond ascii in the target", _get(target=b"/\xc3\xa9")),
    _refused("space after the version", _get(version=b"HTTP/1.1 ")),
    _refused("unknown method", _get().replace(b"GET", b"GETT", 1)),
    _refused("method in small letters", _get().replace(b"GET", b"get", 1)),
    _refused("CONNECT", b"CONNECT " + HOST + b":443 HTTP/1.1\r\nHost: " + HOST + b":443\r\n\r\n"),
    _refused("authority as target", _get(target=HOST)),
    _refused("asterisk for GET", _get(target=b"*")),
    _refused("relative target", _get(target=b"one")),
    _refused("other scheme", _get(target=b"ftp://" + HOST + b"/one")),
    _refused("absolute target names another host", _get(target=b"http://other.example/one")),
    _refused("absolute target with another port", _get(target=b"http://" + HOST + b":81/one")),
    _refused("absolute target with a user", _get(target=b"http://" + HOST + b"@other.example/one")),
    _refused("absolute target with a user before", _get(target=b"http://other.example@" + HOST + b"/one")),
    _refused("absolute target with nothing", _get(target=b"http:///one")),
    _one("absolute target", _get(target=b"http://" + HOST + b"/one")),
    _one("absolute target without a path", _get(target=b"http://" + HOST), target=b"/"),
    _one("empty lines before", b"\r\n\r\n" + _get()),
]

_HOSTS: Final = [
    _refused("no host", b"GET /one HTTP/1.1\r\n\r\n"),
    _refused("host twice, different", _get(b"Host: other.example")),
    _refused("host twice, equal", _get(b"Host: " + HOST)),
    _refused("host twice, other case", _get(b"hOST: other.example")),
    _refused("host empty", b"GET /one HTTP/1.1\r\nHost:\r\n\r\n"),
    _refused("host joined", b"GET /one HTTP/1.1\r\nHost: " + HOST + b", other.example\r\n\r\n"),
    _refused("host with a path", b"GET /one HTTP/1.1\r\nHost: " + HOST + b"/other\r\n\r\n"),
    _refused("host with a user", b"GET /one HTTP/1.1\r\nHost: other@" + HOST + b"\r\n\r\n"),
    _refused("host with a space", b"GET /one HTTP/1.1\r\nHost: " + HOST + b" other\r\n\r\n"),
    _refused("host with a bad port", b"GET /one HTTP/1.1\r\nHost: " + HOST + b":99999\r\n\r\n"),
    _refused("host with a port of letters", b"GET /one HTTP/1.1\r\nHost: " + HOST + b":http\r\n\r\n"),
    _refused("host with a space before the colon", b"GET /one HTTP/1.1\r\nHost : " + HOST + b"\r\n\r\n"),
]

_CONNECTIONS: Final = [
    _one("connection takes host away", _get(b"Connection: close, Host")),
    _one("connection takes content-length away", _post(b"Connection: Content-Length", b"Content-Length: 5", body=b"hello"), b"hello"),
    _one("connection takes transfer-encoding away", _post(b"Connection: transfer-encoding", _CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\n"), b"hello"),
    Case(
        "connection: close with more behind",
        _get(b"Connection: close", after=SMUGGLED),
        Outcome.ONE_THEN_REFUSED,
        (b"/one",),
        (b"",),
    ),
    Case(
        "http/1.0 with more behind",
        _get(version=b"HTTP/1.0", after=SMUGGLED),
        Outcome.ONE_THEN_REFUSED,
        (b"/one",),
        (b"",),
    ),
    _one("GET with a body", _get(b"Content-Length: %d" % _SIZE, after=SMUGGLED_BODY), SMUGGLED_BODY),
    # Read as llhttp reads them, these bodies would be requests.
    _one(
        "upgrade to h2c with a body",
        _post(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk", b"Content-Length: %d" % _SIZE, body=SMUGGLED_BODY),
        SMUGGLED_BODY,
    ),
    _one(
        "upgrade to websocket with a body",
        _post(b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: %d" % _SIZE, body=SMUGGLED_BODY),
        SMUGGLED_BODY,
    ),
    _one(
        "upgrade with a chunked body",
        _post(b"Connection: Upgrade", b"Upgrade: h2c", _CHUNKED, body=b"%x\r\n%b\r\n0\r\n\r\n" % (_SIZE, SMUGGLED_BODY)),
        SMUGGLED_BODY,
    ),
    _one(
        "upgrade with a body in http/1.0",
        _post(b"Connection: Upgrade, keep-alive", b"Upgrade: websocket", b"Content-Length: %d" % _SIZE, body=SMUGGLED_BODY).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
        SMUGGLED_BODY,
    ),
    Case("pipelined", _get(after=SMUGGLED), Outcome.TWO, (b"/one", b"/smuggled"), (b"", b"")),
    Case(
        "content-length of zero",
        _post(b"Content-Length: 0", body=SMUGGLED),
        Outcome.TWO,
        (b"/one", b"/smuggled"),
        (b"", b""),
    ),
    _one("expect 100-continue with the body at once", _post(b"Expect: 100-continue", b"Content-Length: 5", body=b"hello"), b"hello"),
    _refused("another expectation", _post(b"Expect: 200-ok", b"Content-Length: 5", body=b"hello")),
]  # fmt: skip

CASES: Final[list[Case]] = [
    *_BOTH_FRAMINGS,
    *_LENGTHS,
    *_CODINGS,
    *_CHUNKS,
    *_LINES,
    *_REQUEST_LINES,
    *_HOSTS,
    *_CONNECTIONS,
]


class Answer(NamedTuple):
    """What a hostile upstream answers to `GET`; none of it may reach a visitor as it is."""

    name: str
    raw: bytes


def _answer(*lines: bytes, body: bytes = b"", status: bytes = b"200 OK") -> bytes:
    return b"\r\n".join([b"HTTP/1.1 " + status, *lines, b"", body])


_SPLIT: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled"

HOSTILE_ANSWERS: Final[list[Answer]] = [
    Answer("TE and CL", _answer(_CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\n" + _SPLIT)),
    Answer("CL and TE", _answer(b"Content-Length: 5", _CHUNKED, body=b"0\r\n\r\n" + _SPLIT)),
    Answer("content-length twice", _answer(b"Content-Length: 0", b"Content-Length: 5", body=b"hello" + _SPLIT)),
    Answer("content-length joined", _answer(b"Content-Length: 0, 5", body=b"hello" + _SPLIT)),
    Answer("content-length signed", _answer(b"Content-Length: +5", body=b"hello")),
    Answer("content-length huge", _answer(b"Content-Length: 99999999999999999999", body=b"hello")),
    Answer("transfer-encoding unknown", _answer(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n")),
    Answer("transfer-encoding gzip", _answer(b"Transfer-Encoding: gzip", body=b"hello")),
    Answer("transfer-encoding gzip, chunked", _answer(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n")),
    Answer("transfer-encoding twice", _answer(_CHUNKED, _CHUNKED, body=b"0\r\n\r\n")),
    Answer("transfer-encoding in http/1.0", _answer(_CHUNKED, body=b"0\r\n\r\n").replace(b"1.1", b"1.0", 1)),
    Answer("control bytes in the reason", _answer(b"Content-Length: 0", status=b"200 O\x1b]0;x\x07K")),
    Answer("bare return in the reason", _answer(b"Content-Length: 0", status=b"200 OK\rX: y")),
    Answer("NUL in a value", _answer(b"X: \x00", b"Content-Length: 0")),
    Answer("escape in a value", _answer(b"X: \x1b[2J", b"Content-Length: 0")),
    Answer("bare line feed in a value", _answer(b"X: a\nSet-Cookie: b", b"Content-Length: 0")),
    Answer("bare return in a value", _answer(b"X: a\rSet-Cookie: b", b"Content-Length: 0")),
    Answer("folded line", _answer(b"X: a", b" b", b"Content-Length: 0")),
    Answer("space before the colon", _answer(b"Content-Length : 0")),
    Answer("name that is no token", _answer(b"X\x80: a", b"Content-Length: 0")),
    Answer("switch that nobody asked for", _answer(b"Connection: upgrade", b"Upgrade: x", status=b"101 Switching")),
    Answer("status below 100", _answer(b"Content-Length: 0", status=b"099 No")),
    Answer("status of two digits", _answer(b"Content-Length: 0", status=b"20 OK")),
    Answer("version 2.0", _answer(b"Content-Length: 0").replace(b"1.1", b"2.0", 1)),
    Answer("version 0.9", b"hello"),
]  # fmt: skip
