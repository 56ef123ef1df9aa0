import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import moongate
from moongate.cli.outcome import exit_for_code
from moongate.errors import MoongateError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference/errors.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([a-z._]+)` \| .* \| (\d) \|$", re.MULTILINE)
VISITORS_ROW = re.compile(r"^\| (\d{3}) \| `([a-z._]+)` \|", re.MULTILINE)


def kinds(parent: type[MoongateError] = MoongateError) -> Iterator[type[MoongateError]]:
    yield parent
    for child in parent.__subclasses__():
        yield from kinds(child)


def all_codes() -> set[str]:
    for module in pkgutil.walk_packages(moongate.__path__, "moongate."):
        if "__main__" not in module.name and "migrations" not in module.name:
            importlib.import_module(module.name)
    return {kind.code for kind in kinds() if kind.__module__.startswith("moongate.")}


def test_the_page_lists_every_code_and_no_other() -> None:
    codes = all_codes()
    assert len(codes) > 20
    listed = {code for code, _ in ROW.findall(PAGE)} | {code for _, code in VISITORS_ROW.findall(PAGE)}
    assert codes - listed == set()
    assert {code for code, _ in ROW.findall(PAGE)} - codes == set()


def test_no_two_kinds_share_a_code() -> None:
    codes = [kind.code for kind in kinds() if "code" in vars(kind)]
    assert len(codes) == len(set(codes))


def test_the_page_tells_the_exit_codes_that_commands_end_with() -> None:
    rows = ROW.findall(PAGE)
    assert rows
    assert {code: int(digit) for code, digit in rows} == {code: exit_for_code(code).value for code, _ in rows}


def test_the_page_lists_every_answer_that_the_edge_gives_by_itself() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "src/moongate/edge/ingress").glob("*.py")]
    given = {
        pair
        for source in sources
        for pair in re.findall(r'\b([345]\d\d), "((?:agent|http|limit|tunnel|upstream)\.[a-z_]+)"', source)
    }
    # What asks visitors who they are is answered 401, whatever it asks for.
    asked = {code for source in sources for code in re.findall(r'"((?:credentials|password)\.[a-z]+)"', source)}
    given |= {("401", code) for code in asked}
    assert len(given) > 8
    assert given == set(VISITORS_ROW.findall(PAGE))
