"""The Debian programs the benchmarks compare with, and what to say when one is missing."""

import os
import shutil
from collections.abc import Iterable

PACKAGES = {
    "nginx": "nginx",
    "haproxy": "haproxy",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "wrk": "wrk",
}
SEARCHED = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class PeersMissing(Exception):
    """Programs that a benchmark compares with are not installed."""


def program(name: str) -> str:
    """Return the full path of a peer program.

    Raises:
        PeersMissing: If it is not installed; the message names the Debian package.
    """
    found = shutil.which(name, path=SEARCHED)
    if found is None:
        raise PeersMissing(remedy([name]))
    return found


def missing(names: Iterable[str] = tuple(PACKAGES)) -> list[str]:
    """The peer programs that are not installed."""
    return [name for name in names if shutil.which(name, path=SEARCHED) is None]


def remedy(names: Iterable[str]) -> str:
    """One sentence that says what to install."""
    wanted = sorted({PACKAGES.get(name, name) for name in names})
    return f"missing {', '.join(names)}: apt-get install --no-install-recommends {' '.join(wanted)}"
