"""Dependencies below these versions have holes that a gateway cannot live with."""

import tomllib
from pathlib import Path

import pytest
from packaging.version import Version

LOCK = Path(__file__).parents[2] / "uv.lock"
FLOORS = {
    "asyncssh": "2.24.0",  # attacks on the handshake and on session state (CVE-2023-46445, -46446, -48795)
    "h11": "0.16",  # lenient chunk endings: request smuggling (CVE-2025-43859)
    "h2": "4.3",  # header injection by a downgrade (CVE-2025-57804)
    "pyjwt": "2.15.1",  # claims and algorithms accepted too readily
    "urllib3": "2.8.0",  # redirects and decompression bombs
}


def locked() -> dict[str, Version]:
    packages = tomllib.loads(LOCK.read_text())["package"]
    return {entry["name"]: Version(entry["version"]) for entry in packages if "version" in entry}


def test_the_lock_lists_packages() -> None:
    assert len(locked()) > 20
    assert "h11" in locked()


@pytest.mark.parametrize("name", sorted(FLOORS))
def test_no_locked_package_is_below_its_floor(name: str) -> None:
    version = locked().get(name)
    assert version is None or version >= Version(FLOORS[name])


def test_the_lock_names_packages_by_the_public_index_only() -> None:
    lock = tomllib.loads(LOCK.read_text())
    sources = [entry["source"] for entry in lock["package"]]
    assert {key for source in sources for key in source} <= {"registry", "editable"}
    assert {source["registry"] for source in sources if "registry" in source} == {"https://pypi.org/simple"}
    files = [
        file["url"] for entry in lock["package"] for file in (*entry.get("wheels", ()), entry.get("sdist")) if file
    ]
    assert files
    assert all(url.startswith("https://files.pythonhosted.org/") for url in files)
