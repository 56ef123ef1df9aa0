"""Whatever is asked of a folder, what comes back lies inside it; and a part is exactly that part."""

import os
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from moongate.agent.sites import FileCache, Folder
from moongate.agent.sites.answers import Asked, decide, facts_of, parse_range
from moongate.agent.sites.folder import LargeFile, Moved, SmallFile, Unread
from moongate.agent.sites.paths import path_of, with_slash

OUTSIDE = b"not for the public"
INSIDE = b"for everybody"

# What people try, beside letters: each spelled plainly, escaped once and twice, and as other systems would.
TRIED = ". .. ... a sub up out file state secret outside .env .git C: c: .well-known ..; loop ~ COM1 \\ ..\\ index.html"
NAMES = st.sampled_from([*TRIED.split(), "", "\x00", "\xc0\xae\xc0\xae"])
SEPARATORS = st.sampled_from(["/", "//", "\\", "%2f", "%2F", "%5c", "/./", "/../", "%252f", "/%2e%2e/", "/..%2f"])
SPELLINGS: st.SearchStrategy[Callable[[str], str]] = st.sampled_from([str, quote, lambda name: quote(quote(name))])


@st.composite
def _targets(draw: st.DrawFn) -> bytes:
    parts = [""]
    for name in draw(st.lists(NAMES, min_size=1, max_size=7)):
        parts += [draw(SEPARATORS), draw(SPELLINGS)(name)]
    return (draw(st.sampled_from(["", "/"])) + "".join(parts) + draw(st.sampled_from(["", "/", "?x=/../"]))).encode(
        "utf-8", "surrogateescape"
    )


TARGETS = st.one_of(_targets(), st.binary(max_size=40).map(lambda tail: b"/" + tail), st.binary(max_size=40))


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder beside a secret, with every way out that a link can be."""
    top = tmp_path_factory.mktemp("paths")
    public = top / "public"
    for folder in ("sub/a", ".git", "state", ".well-known", "C:", "..."):
        (public / folder).mkdir(parents=True)
        (public / folder / "file").write_bytes(OUTSIDE if folder in (".git", "state", "C:", "...") else INSIDE)
    for secret in (top / "outside", top / "secret", public / ".env", public / "state" / "secret"):
        secret.write_bytes(OUTSIDE)
    (public / "file").write_bytes(INSIDE)
    (public / "index.html").write_bytes(INSIDE)
    (public / "a").symlink_to("sub")
    (public / "out").symlink_to(top)
    (public / "up").symlink_to("..")
    (public / "secret").symlink_to(top / "secret")
    (public / "sub" / "secret").symlink_to("../.env")
    (public / "sub" / "state").symlink_to("../state")
    (public / "loop").symlink_to("loop")
    return public


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=600)
@given(target=TARGETS)
@example(target=b"/../outside")
@example(target=b"/%2e%2e/outside")
@example(target=b"/up/outside")
@example(target=b"/sub/secret")
@example(target=b"/sub/state/secret")
@example(target=b"//outside")
@example(target=b"/..%5coutside")
@example(target=b"/C:/file")
def test_nothing_outside_a_folder_and_nothing_hidden_is_ever_read(top: Path, target: bytes) -> None:
    folder = Folder(top, FileCache(), [top / "state"])
    path = path_of(target)
    if path is None:
        return
    # Whatever `look` says, `load` must hold by itself: a link may come between the two.
    for asked in (path, f"{path}/index.html" if path else "index.html"):
        loaded = folder.load(asked)
        if isinstance(loaded, LargeFile):
            os.close(loaded.descriptor)
        assert loaded is None or (isinstance(loaded, SmallFile) and loaded.body == INSIDE)
    found = folder.look(path)
    assert found is None or isinstance(found, (Moved, Unread))


@given(target=TARGETS)
def test_a_path_has_neither_steps_up_nor_hidden_empty_or_foreign_names(target: bytes) -> None:
    path = path_of(target)
    if path is None:
        return
    assert not path.startswith("/")
    assert "\\" not in path
    assert "\x00" not in path
    for name in path.removesuffix("/").split("/") if path else []:
        assert name
        assert not name.startswith(".") or name == ".well-known"


@given(
    names=st.lists(st.text("abcÄ ü%+&=#?.-_~", min_size=1, max_size=8), max_size=5), query=st.text("ab=&/%", max_size=5)
)
def test_a_name_that_is_escaped_is_found_again(names: list[str], query: str) -> None:
    named = "/".join(names)
    target = f"/{quote(named)}?{query}".encode()
    path = path_of(target)
    if any(name.startswith(".") for name in names):
        assert path is None
    else:
        assert path == named
        moved = with_slash(named, target)
        assert moved.startswith(b"/")
        assert not moved.startswith(b"//") or not names
        assert path_of(moved) == (f"{named}/" if names else "")


@given(
    size=st.integers(0, 50),
    first=st.one_of(st.none(), st.integers(0, 60)),
    last=st.one_of(st.none(), st.integers(0, 60)),
)
def test_a_range_is_the_bytes_that_it_names(size: int, first: int | None, last: int | None) -> None:
    content = bytes(range(size))
    part = parse_range(f"bytes={'' if first is None else first}-{'' if last is None else last}".encode(), size)
    if first is None:
        expected = None if last is None or (size == 0 and last) else content[max(0, size - last) :]
    elif last is not None and last < first:
        expected = None
    else:
        expected = content[first : None if last is None else last + 1]
    assert (None if part is None else content[part[0] : part[1]]) == expected
    assert part is None or 0 <= part[0] <= part[1] <= size


@given(value=st.one_of(st.binary(max_size=30), st.text("bytes=0123456789-, \t", max_size=20).map(str.encode)))
def test_any_range_is_a_part_or_ignored(value: bytes) -> None:
    part = parse_range(value, 100)
    assert part is None or 0 <= part[0] <= part[1] <= 100


DATES = st.one_of(
    st.integers(-(2**33), 2**36).map(lambda at: formatdate(at, usegmt=True).encode()),
    st.binary(max_size=40),
    st.text("SunMonJan 0123456789:GMT,+-", max_size=40).map(str.encode),
)
TAGS = st.one_of(st.binary(max_size=30), st.sampled_from([b"*", b'"a"', b'W/"a"', b'"a", "b"', b""]))


@given(
    asked=st.builds(Asked, st.none() | st.binary(max_size=9), *([st.none() | TAGS | DATES] * 5)),
    method=st.sampled_from([b"GET", b"HEAD"]),
    size=st.integers(0, 9),
)
def test_every_request_for_a_file_has_an_answer(asked: Asked, method: bytes, size: int) -> None:
    decision = decide(method, asked, facts_of("x.txt", size, 1_700_000_000_000_000_000))
    assert decision.status in (200, 206, 304, 412, 416)
    assert 0 <= decision.start <= decision.end <= size
    assert decision.status != 206 or method == b"GET"
