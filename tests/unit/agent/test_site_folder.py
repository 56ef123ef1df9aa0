"""The files of a folder: found, refused, remembered."""

import os
import time
from pathlib import Path

import pytest

from moongate.agent.sites import FileCache, Folder
from moongate.agent.sites.folder import SMALL_BYTES, LargeFile, Moved, SmallFile, Unread


def later() -> int:
    """A clock that is ahead, by which every file has been left alone for long."""
    return time.time_ns() + 60 * 10**9


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "public"
    (top / "sub").mkdir(parents=True)
    (top / "bare").mkdir()
    (top / "sub" / "index.html").write_bytes(b"sub")
    (top / "file.txt").write_bytes(b"one")
    return top


@pytest.fixture
def folder(top: Path) -> Folder:
    return Folder(top, FileCache(now_ns=later))


def read(folder: Folder, path: str) -> bytes | None:
    """What would be answered, small files only."""
    found = folder.look(path)
    if isinstance(found, Unread):
        loaded = folder.load(found.path)
        if isinstance(loaded, SmallFile):
            folder.remember(found.path, loaded)
            return loaded.body
        assert loaded is None
        return None
    return found.body if isinstance(found, SmallFile) else None


def test_a_folder_is_its_index(folder: Folder) -> None:
    assert read(folder, "sub/") == b"sub"
    assert folder.look("sub") == Moved("sub")
    assert folder.look("bare") is None
    assert folder.look("bare/") is None
    assert folder.look("") is None
    assert folder.look("file.txt/") is None


def test_a_file_is_read_once_until_it_changes(folder: Folder, top: Path) -> None:
    assert read(folder, "file.txt") == b"one"
    assert isinstance(folder.look("file.txt"), SmallFile)
    (top / "file.txt").write_bytes(b"two")
    assert isinstance(folder.look("file.txt"), Unread)
    assert read(folder, "file.txt") == b"two"
    (top / "file.txt").unlink()
    assert folder.look("file.txt") is None


def test_a_file_that_takes_the_place_of_another_is_another(folder: Folder, top: Path) -> None:
    assert read(folder, "file.txt") == b"one"
    before = (top / "file.txt").stat()
    (top / "new").write_bytes(b"two")
    os.utime(top / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
    (top / "new").rename(top / "file.txt")
    assert read(folder, "file.txt") == b"two"


def test_a_file_that_was_changed_just_now_is_read_again(top: Path) -> None:
    folder = Folder(top, FileCache())
    assert read(folder, "file.txt") == b"one"
    assert isinstance(folder.look("file.txt"), Unread)


def test_a_large_file_is_opened_for_each_visitor(folder: Folder, top: Path) -> None:
    (top / "large").write_bytes(bytes(SMALL_BYTES + 1))
    loaded = folder.load("large")
    assert isinstance(loaded, LargeFile)
    assert loaded.facts.size == SMALL_BYTES + 1
    os.close(loaded.descriptor)


def test_remembered_files_are_bounded_and_the_oldest_goes_first(top: Path) -> None:
    cache = FileCache(20_000, later)
    folder = Folder(top, cache)
    for name in "abc":
        (top / name).write_bytes(bytes(6_000))
    for name in "aba":
        read(folder, name)
    assert cache.size == 2 * 8_048
    read(folder, "c")
    assert isinstance(folder.look("a"), SmallFile)
    assert isinstance(folder.look("b"), Unread)
    assert cache.size == 2 * 8_048


def test_neither_pipes_nor_devices_are_files(folder: Folder, top: Path) -> None:
    os.mkfifo(top / "pipe")
    (top / "null").symlink_to("/dev/null")
    assert folder.look("pipe") is None
    assert folder.load("pipe") is None
    assert folder.look("null") is None
    assert folder.load("null") is None


def test_links_inside_are_followed_and_links_outside_are_not(folder: Folder, top: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "public-too").mkdir()
    (tmp_path / "public-too" / "index.html").write_bytes(b"secret")
    (top / "inside").symlink_to("sub/index.html")
    (top / "folder").symlink_to("sub")
    (top / "outside").symlink_to(tmp_path / "secret")
    (top / "neighbour").symlink_to(tmp_path / "public-too")
    assert read(folder, "inside") == b"sub"
    assert read(folder, "folder/") == b"sub"
    assert folder.load("outside") is None
    assert folder.load("neighbour/index.html") is None
    assert folder.look("neighbour") is None


def test_a_link_that_is_put_in_the_way_is_not_followed(
    folder: Folder, top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index.html").write_bytes(b"secret")
    judged = os.path.realpath

    def judge_then_swap(path: str) -> str:
        real = judged(path)
        if path.endswith("sub/index.html"):
            (top / "sub").rename(top / "sub-before")
            (top / "sub").symlink_to(tmp_path)
        return real

    monkeypatch.setattr(os.path, "realpath", judge_then_swap)
    assert folder.load("sub/index.html") is None


def test_what_is_forbidden_is_so_under_every_name(top: Path) -> None:
    (top / "link").symlink_to("sub")
    folder = Folder(top, FileCache(), [top / "link"])
    for path in ("sub/index.html", "link/index.html"):
        assert folder.load(path) is None
    assert read(folder, "file.txt") == b"one"
    assert Folder(top, FileCache(), [top.parent]).load("file.txt") is None


def test_a_forbidden_folder_is_known_under_another_name(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (top / "mounted").mkdir()
    (top / "mounted" / "join").write_bytes(b"secret")
    folder = Folder(top, FileCache(), [tmp_path / "state"])
    assert read(folder, "mounted/join") == b"secret"
    # As where `mounted` is the same folder, by a mount: its path tells nothing.
    found = (top / "mounted").stat()
    stat_of = Path.stat
    monkeypatch.setattr(
        Path, "stat", lambda path, **more: found if path == tmp_path / "state" else stat_of(path, **more)
    )
    assert folder.load("mounted/join") is None
    assert read(folder, "file.txt") == b"one"


def test_the_folder_itself_may_be_a_link_that_turns(top: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(top)
    folder = Folder(tmp_path / "current", FileCache())
    assert read(folder, "file.txt") == b"one"
    (tmp_path / "next").mkdir()
    (tmp_path / "next" / "file.txt").write_bytes(b"next")
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to(tmp_path / "next")
    assert read(folder, "file.txt") == b"next"


def test_names_that_no_file_can_have_are_not_found(folder: Folder) -> None:
    for path in ("x" * 5000, "\udcff", "a/" * 3000 + "b"):
        assert folder.look(path) is None
        assert folder.load(path) is None
    assert folder.load("file\x00.txt") is None
