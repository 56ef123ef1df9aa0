"""The rules on disk: one file that is whole at every moment, and one agent that may write it."""

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any, Final

import structlog

from moongate.agent.rulebook import RuleBook
from moongate.errors import RulesLocked, RulesUnsaved

log = structlog.get_logger(__name__)

FILE_NAME: Final = "rules.json"
LOCK_NAME: Final = "agent.lock"
FORM: Final = 1
OWED: Final = "givenUp"
PRIVATE: Final = 0o600
# So many wrong rules are named in the log.
TOLD: Final = 10
MAX_BYTES: Final = 256 * 1024 * 1024


class RuleStore:
    """One agent's rules in its state directory, locked until closed."""

    def __init__(self, home: Path) -> None:
        """Take the directory for this agent.

        Raises:
            RulesLocked: If another agent has it.
            RulesUnsaved: If it cannot be used.
        """
        self.home = home
        self.path = home / FILE_NAME
        self.kept_aside: Path | None = None  # a file that could not be read, and was not overwritten
        # Kinds and kept names of rules that are gone, of which the node may not have heard.
        self.owed: set[tuple[str, str]] = set()
        # Members of the file that this release does not know; they stay.
        self._foreign: dict[str, Any] = {}
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(home / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        except OSError as error:
            raise RulesUnsaved(
                f"the state directory {home} cannot be used: {_reason(error)}",
                hint="set MOONGATE_HOME or --home to a directory that this user may write",
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip()
            os.close(self._lock)
            raise RulesLocked(
                f"another agent uses {home}" + (f" (process {holder})" if holder.isdecimal() else ""),
                hint="stop it, or give this one its own --home",
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def load(self) -> RuleBook:
        """Return the rules; what cannot be understood is left out, and the file kept aside then.

        Raises:
            RulesUnsaved: If the file cannot be read, or not be put aside: nothing is overwritten.
        """
        try:
            with self.path.open("rb") as file:
                text = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return RuleBook(forbidden=self.home)
        except OSError as error:
            raise RulesUnsaved(f"cannot read {self.path}: {_reason(error)}") from None
        try:
            members = _parse(text)
        except (ValueError, RecursionError) as error:
            self._put_aside(str(error))
            return RuleBook(forbidden=self.home)
        book, problems = RuleBook.salvage(members, self.home)
        self.owed = _owed(members.get(OWED))
        self._foreign = {name: value for name, value in members.items() if name not in book.members()}
        if problems:
            self._put_aside("; ".join(problems[:TOLD]))
            self.save(book)
        return book

    def save(self, book: RuleBook) -> None:
        """Write the rules: when this returns they outlast a power cut, and when it raises the old ones are there.

        Raises:
            RulesUnsaved: If they could not be written.
        """
        members = {**self._foreign, "form": FORM, OWED: sorted(self.owed), **book.members()}
        text = json.dumps(members, indent=1, ensure_ascii=False)
        aside = self.home / f".{FILE_NAME}.{os.getpid()}"
        try:
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE)
            with os.fdopen(descriptor, "wb") as file:
                file.write(text.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self.path)
            self._sync_directory()
        except (OSError, UnicodeEncodeError) as error:
            aside.unlink(missing_ok=True)
            reason = _reason(error) if isinstance(error, OSError) else str(error)
            raise RulesUnsaved(
                f"the rules could not be saved to {self.path}: {reason}",
                hint="nothing was changed; make room and repeat",
            ) from None

    def close(self) -> None:
        """Let another agent have the directory."""
        os.close(self._lock)

    def _put_aside(self, reason: str) -> None:
        aside = self.path.with_name(f"{FILE_NAME}.corrupt-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
        number = 1
        while aside.exists():
            number += 1
            aside = aside.with_name(f"{aside.name.partition('~')[0]}~{number}")
        try:
            self.path.rename(aside)
        except OSError as error:
            raise RulesUnsaved(f"{self.path} is damaged and cannot be put aside: {_reason(error)}") from None
        self.kept_aside = aside
        log.error("the rules could not be read, and are kept aside", file=str(aside), reason=reason)

    def _sync_directory(self) -> None:
        """A new name in a directory is safe once the directory itself is (fsync(2))."""
        descriptor = os.open(self.home, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _parse(text: bytes) -> dict[str, Any]:
    """Raises ValueError if it is not an object of a form that this release reads."""
    if len(text) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    members = json.loads(text)
    if not isinstance(members, dict):
        raise ValueError("not an object")
    if members.get("form", FORM) != FORM:
        raise ValueError(f"form {members['form']!r} is not known")
    return members


def _owed(pairs: object) -> set[tuple[str, str]]:
    # What is no pair of a kind and a name is forgotten: the node's administrator can still give the name back.
    return {
        (pair[0], pair[1])
        for pair in (pairs if isinstance(pairs, list) else ())
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
    }


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
