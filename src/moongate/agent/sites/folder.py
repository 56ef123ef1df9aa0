"""The files of one folder: found, opened where no link can lead outside, and the small ones remembered.

`look` is quick and for the loop; `load` may wait for a disk and is for a thread.
"""

import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from moongate.agent.sites.answers import Decision, FileFacts, facts_of, file_head
from moongate.agent.sites.paths import INDEX, is_hidden

# A file up to this size is read whole and remembered; a larger one is read while it is sent.
SMALL_BYTES: Final = 128 * 1024
# What all remembered files of a process may take, and what remembering one costs beside its bytes.
CACHE_BYTES: Final = 16 * 1024 * 1024
_ENTRY_BYTES: Final = 2048

# Clocks of file systems tick every few milliseconds, some every two seconds: a file that was changed just now may be
# changed once more without looking any different.
TICK_NS: Final = 2_000_000_000

# NONBLOCK, for a pipe of that name would be waited for.
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY


class Identity(NamedTuple):
    """What tells a file from what it was before; times in nanoseconds since the epoch."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


class SmallFile(NamedTuple):
    """A file that is held in memory, and the head of the answer that is all of it."""

    identity: Identity
    facts: FileFacts
    head: bytes
    body: bytes


class LargeFile(NamedTuple):
    """A file that is open; whoever gets it closes it."""

    facts: FileFacts
    descriptor: int


class Moved(NamedTuple):
    """A folder that was asked for without the slash at its end."""

    path: str


class Unread(NamedTuple):
    """Something is there that has to be opened, by `load`."""

    path: str


class FileCache:
    """The small files used last, of all folders of a process, bounded by their bytes."""

    def __init__(self, limit: int = CACHE_BYTES, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._limit = limit
        self._now_ns = now_ns
        self._files: OrderedDict[str, SmallFile] = OrderedDict()
        self.size = 0

    def get(self, path: str, identity: Identity) -> SmallFile | None:
        """Return the file as it is now; a changed one is forgotten."""
        found = self._files.get(path)
        if found is None:
            return None
        if found.identity != identity:
            self._drop(path)
            return None
        self._files.move_to_end(path)
        return found

    def add(self, path: str, file: SmallFile) -> None:
        """Remember a file that has been left alone for a while, and forget those that were used longest ago."""
        self._drop(path)
        if self._now_ns() - file.identity.changed_ns < TICK_NS:
            return
        self._files[path] = file
        self.size += len(file.body) + _ENTRY_BYTES
        while self.size > self._limit and self._files:
            self._drop(next(iter(self._files)))

    def _drop(self, path: str) -> None:
        dropped = self._files.pop(path, None)
        if dropped is not None:
            self.size -= len(dropped.body) + _ENTRY_BYTES


class Folder:
    """A folder that is served, and what inside it is not: `forbidden` folders, links that lead out."""

    def __init__(self, directory: Path, cache: FileCache, forbidden: Iterable[Path] = ()) -> None:
        self._top = os.fspath(directory)
        self._cache = cache
        self._forbidden = tuple(forbidden)

    def look(self, path: str) -> SmallFile | Moved | Unread | None:
        """Find what a path from `path_of` names; None if there is nothing that can be served."""
        if not path or path.endswith("/"):
            path += INDEX
        full = f"{self._top}/{path}"
        try:
            found = os.stat(full)  # noqa: PTH116  # asked for every request, and a Path costs more than the question
            if stat.S_ISDIR(found.st_mode):
                return Moved(path) if Path(full, INDEX).is_file() and self._may_show(Path(full, INDEX)) else None
        except (OSError, ValueError):  # the second for letters that this system's names cannot hold
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        return self._cache.get(full, _identity(found)) or Unread(path)

    def load(self, path: str) -> SmallFile | LargeFile | None:
        """Open a file that `look` has found; blocks, and touches nothing of this object."""
        try:
            descriptor = self._open(path)
        except (OSError, ValueError):
            return None
        if descriptor is None:
            return None
        try:
            loaded = _read(descriptor, path)
        except OSError:
            loaded = None
        if not isinstance(loaded, LargeFile):
            os.close(descriptor)
        return loaded

    def remember(self, path: str, file: SmallFile) -> None:
        """Keep what `load` has read."""
        self._cache.add(f"{self._top}/{path}", file)

    def _open(self, path: str) -> int | None:
        """Open a file by its real path, name by name without following a link; None if that leads out.

        The real path is asked for first, because links within the folder are followed. Should somebody put a link
        in its way meanwhile, opening fails.
        """
        top = os.path.realpath(self._top)
        names = self._names_of(top, os.path.realpath(f"{top}/{path}"))
        if names is None:
            return None
        folder = os.open(top, _FOLDER_FLAGS)
        for name in names[:-1]:
            folder = _step(folder, name, _FOLDER_FLAGS)
            if self._is_forbidden(folder):
                os.close(folder)
                return None
        return _step(folder, names[-1], _OPEN_FLAGS)

    def _is_forbidden(self, folder: int) -> bool:
        """Whether an open folder is a forbidden one: by what it is, for it may be mounted under another name."""
        found = os.fstat(folder)
        for one in self._forbidden:
            with suppress(OSError):
                if os.path.samestat(found, one.stat()):
                    return True
        return False

    def _names_of(self, top: str, real: str) -> list[str] | None:
        """Return the names on the way from the folder to a real path, if that may be served."""
        if not _is_inside(real, top) or any(_is_inside(real, os.path.realpath(one)) for one in self._forbidden):
            return None
        names = real[len(top.rstrip("/")) + 1 :].split("/")
        # A link to a hidden file of this very folder would show what the folder itself does not.
        return None if any(is_hidden(name) for name in names) else names

    def _may_show(self, file: Path) -> bool:
        return self._names_of(os.path.realpath(self._top), os.path.realpath(file)) is not None


def _step(folder: int, name: str, flags: int) -> int:
    """Open a name in an open folder, and close the folder."""
    try:
        return os.open(name, flags, dir_fd=folder)
    finally:
        os.close(folder)


def _read(descriptor: int, path: str) -> SmallFile | LargeFile | None:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        return None
    if found.st_size > SMALL_BYTES:
        return LargeFile(facts_of(path, found.st_size, found.st_mtime_ns), descriptor)
    body = os.pread(descriptor, SMALL_BYTES, 0)
    facts = facts_of(path, len(body), found.st_mtime_ns)
    return SmallFile(_identity(found), facts, file_head(Decision(200, 0, len(body)), facts), body)


def _identity(found: os.stat_result) -> Identity:
    return Identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
