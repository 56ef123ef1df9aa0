"""What the C library's allocator is told, so that many idle TLS connections stay small.

Elsewhere than on glibc nothing is done, and nothing is lost but some memory.
"""

import ctypes
import sys
from functools import cache

# <malloc.h>: the parameters of mallopt(3).
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3

TLS_BUFFER_BYTES = 256 * 1024
"""uvloop and asyncio give each TLS connection a read buffer of this size, of which an idle one touches a page."""

TRIM_BYTES = 4 * 1024 * 1024
"""How much free memory may lie at the heap's end: below that, bulk transfers would ask the kernel for every chunk."""


@cache
def tune_allocator() -> bool:
    """Let TLS buffers have pages of their own; return whether this allocator could be told so.

    After the first of them is freed, glibc would put the next ones into its heap, on pages that were used before and
    therefore count: 48 KiB instead of 27 KiB for an idle connection. Reads of plain sockets are just below that size
    (256 000 bytes) and stay in the heap, where they are fast.
    """
    glibc = _glibc()
    if glibc is None:
        return False
    return bool(glibc.mallopt(M_MMAP_THRESHOLD, TLS_BUFFER_BYTES) and glibc.mallopt(M_TRIM_THRESHOLD, TRIM_BYTES))


def return_memory() -> None:
    """Give the heap's free pages back to the kernel; takes about 3 ms, and a third of a ms for each MiB returned."""
    glibc = _glibc()
    if glibc is not None:
        glibc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
