"""Small wounds for well-formed bytes."""

import random

# What parsers trip over: line ends, separators, edges of integers, words of the protocols.
_WORDS = (
    b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b",", b";", b"\x0b", b"\x7f", b"\xff", b"\xfe", b"\r\n\r\n",
    b"0", b"-1", b"\x00\x00", b"\xff\xff", b"\xff\xff\xff\xff", b"\x7f\xff", b"Host: a\r\n", b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Connection: Upgrade\r\nUpgrade: x\r\n", b"Connection: close\r\n",
    b"HTTP/1.0", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"0\r\n\r\n", b"%", b"[", b'"', b"_", b"\xc4\xb1",
)  # fmt: skip


def mutate(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """Return `data` with one to four changes, at times with a part of `other`."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(changed))
        match chance.randrange(6):
            case 0:
                changed[at:at] = chance.choice(_WORDS)
            case 1:
                del changed[at : at + chance.randint(1, 8)]
            case 2 if at < len(changed):
                changed[at] = chance.randrange(256)
            case 3 if at < len(changed):
                changed[at] ^= 1 << chance.randrange(8)
            case 4:
                changed[at : at + chance.randint(0, 4)] = chance.choice(_WORDS)
            case _:
                start = chance.randint(0, len(other))
                changed[at:at] = other[start : start + chance.randint(1, 40)]
    return bytes(changed)
