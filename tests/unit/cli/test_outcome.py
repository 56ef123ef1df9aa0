import io
import json

import pytest

from moongate import errors
from moongate.cli.outcome import HINTS, Exit, UsageError, exit_for, exit_for_code, report


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), Exit.USAGE),
        (errors.ConfigurationError("x"), Exit.USAGE),
        (errors.TokenInvalid("x"), Exit.REFUSED),
        (errors.ScopeDenied("x"), Exit.REFUSED),
        (errors.NameTaken("x"), Exit.REFUSED),
        (errors.WrongAuthority("x"), Exit.REFUSED),
        (errors.Superseded("x"), Exit.SUPERSEDED),
        (errors.UpstreamRefused("x"), Exit.UNREACHABLE),
        (errors.PortInUse("x"), Exit.FAILED),
        (errors.StorageError("x"), Exit.FAILED),
    ],
)
def test_every_family_of_failure_has_its_exit_code(error: errors.MoongateError, code: Exit) -> None:
    assert exit_for(error) == code


@pytest.mark.parametrize("kind", [errors.TokenInvalid, errors.NameTaken, errors.Superseded, errors.VersionUnsupported])
def test_a_code_from_the_wire_ends_as_its_error_would(kind: type[errors.MoongateError]) -> None:
    assert exit_for_code(kind.code) == exit_for(kind("x"))


def test_an_unknown_code_from_the_wire_is_a_plain_failure() -> None:
    assert exit_for_code("brand.new") == Exit.FAILED


def test_every_usual_hint_belongs_to_a_code_that_exists() -> None:
    def codes(kind: type[errors.MoongateError]) -> set[str]:
        return {kind.code}.union(*(codes(below) for below in kind.__subclasses__()))

    assert HINTS
    assert set(HINTS) <= codes(errors.MoongateError)


def test_an_error_is_one_line_and_a_hint_even_if_it_came_from_a_hostile_peer() -> None:
    out = io.StringIO()
    report("name.taken", "held by \x1b[31mevil\nerror: not real", "", as_json=False, stream=out)
    lines = out.getvalue().splitlines()
    assert lines[0] == "error: held by \\x1b[31mevil\\x0aerror: not real"
    assert lines[1].startswith("hint: ")
    assert len(lines) == 2


def test_an_error_for_programs_is_one_event() -> None:
    out = io.StringIO()
    report("name.taken", "held", "choose another", as_json=True, stream=out)
    assert json.loads(out.getvalue()) == {
        "event": "error",
        "code": "name.taken",
        "message": "held",
        "hint": "choose another",
    }
