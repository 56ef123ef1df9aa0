"""The sessions that people and CI share; `make` makes the environment they run in."""

import sys
from pathlib import Path

import nox

# The locked environment that runs this file is the one that is tested: no second one is made.
nox.options.default_venv_backend = "none"
nox.options.sessions = ["format", "lint", "types", "layers", "unit", "integration", "peers", "docs"]
BIN = Path(sys.executable).parent
PYTHON = str(BIN / "python")


def pytest(session: nox.Session, *paths: str) -> None:
    """Run the tests of folders, of which not every checkout has all."""
    here = [path for path in paths if Path(path).exists()]
    if not here:
        session.skip(f"there is no {' or '.join(paths)}")
    session.run(PYTHON, "-m", "pytest", *here, *session.posargs, external=True)


@nox.session
def format(session: nox.Session) -> None:  # noqa: A001
    session.run(str(BIN / "ruff"), "format", *(session.posargs or ["--check"]), ".", external=True)


@nox.session
def lint(session: nox.Session) -> None:
    session.run(str(BIN / "ruff"), "check", ".", *session.posargs, external=True)


@nox.session
def types(session: nox.Session) -> None:
    session.run(PYTHON, "-m", "mypy", *session.posargs, external=True)


@nox.session
def layers(session: nox.Session) -> None:
    session.run(str(BIN / "lint-imports"), external=True)


@nox.session
def audit(session: nox.Session) -> None:
    pytest(session, "tests/unit/test_floors.py", "-q")
    session.run(PYTHON, "scripts/audit", external=True)


@nox.session
def unit(session: nox.Session) -> None:
    pytest(session, "tests/unit", "tests/property", "tests/contract")


@nox.session
def integration(session: nox.Session) -> None:
    pytest(session, "tests/integration", "tests/compat")


@nox.session
def peers(session: nox.Session) -> None:
    pytest(session, "tests/peers")


@nox.session
def fuzz(session: nox.Session) -> None:
    pytest(session, "tests/fuzz")


@nox.session
def docs(session: nox.Session) -> None:
    pytest(session, "tests/docs")


@nox.session
def bench(session: nox.Session) -> None:
    with session.chdir("tests"):
        session.run(PYTHON, "-m", "bench", *session.posargs, external=True)
