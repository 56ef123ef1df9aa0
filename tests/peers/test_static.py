"""`moongate static` as curl and a browser see it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peers_bed import Site, Tunnel, curl, publishing
from testbed.chromium import document_of

pytestmark = [pytest.mark.timeout(120)]

OUTSIDE = "not for the public"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("static")
    (top / "outside.txt").write_text(OUTSIDE, encoding="utf-8")
    public = top / "public"
    (public / "sub folder").mkdir(parents=True)
    (public / ".git").mkdir()
    (public / ".well-known").mkdir()
    files = {
        "index.html": "<title>front</title><script src=script.js></script>",
        "script.js": "document.title = 'scripted'",
        "sub folder/index.html": "sub",
        "sub folder/ü.txt": "umlaut",
        ".env": OUTSIDE,
        ".git/config": OUTSIDE,
        ".well-known/security.txt": "contact",
    }
    for name, text in files.items():
        (public / name).write_text(text, encoding="utf-8")
    (public / "numbers").write_bytes(bytes(range(256)) * 4096)
    (public / "way-out.txt").symlink_to(top / "outside.txt")
    (public / "way-out").symlink_to(top)
    (public / "way-in.js").symlink_to(public / "script.js")
    return public


@pytest.fixture(scope="module")
def files(site: Site, folder: Path) -> Iterator[Tunnel]:
    with publishing(site, "static", str(folder), "--subdomain", "files") as tunnel:
        yield tunnel


@pytest.fixture
def status(files: Tunnel) -> Callable[..., int]:
    def ask(path: str, *more: str) -> int:
        done = curl("--path-as-is", "-o", "/dev/stdout", "-w", "%{stderr}%{http_code}", *more, f"{files.url}{path}")
        assert OUTSIDE not in done.stdout
        return int(done.stderr)

    return ask


def headers_of(url: str, *more: str) -> dict[str, str]:
    lines = curl("-D", "-", "-o", "/dev/null", *more, url).stdout.splitlines()[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}


def test_folders_answer_with_their_index(files: Tunnel, status: Callable[..., int]) -> None:
    assert "<title>front" in curl(f"{files.url}/").stdout
    assert curl(f"{files.url}/sub%20folder/").stdout == "sub"
    assert curl("-L", f"{files.url}/sub%20folder").stdout == "sub"
    assert curl(f"{files.url}/sub%20folder/%C3%BC.txt").stdout == "umlaut"
    assert curl(f"{files.url}/.well-known/security.txt").stdout == "contact"
    assert status("/nothing-here") == 404


def test_a_part_of_a_file_can_be_asked_for_and_an_unchanged_file_is_not_sent_again(
    files: Tunnel, status: Callable[..., int], tmp_path: Path
) -> None:
    url = f"{files.url}/numbers"
    curl("-r", "250-260", "-o", str(tmp_path / "part"), url)
    assert (tmp_path / "part").read_bytes() == bytes([*range(250, 256), 0, 1, 2, 3, 4])
    assert headers_of(url, "-r", "-10")["content-range"] == f"bytes {MILLION - 10}-{MILLION - 1}/{MILLION}"
    assert status("/numbers", "-r", f"{MILLION}-") == 416
    etag = headers_of(url)["etag"]
    assert status("/numbers", "-H", f"If-None-Match: {etag}") == 304
    assert status("/numbers", "-H", 'If-None-Match: "another"') == 200
    (tmp_path / "half").write_bytes((bytes(range(256)) * 4096)[:500_000])
    curl("-C", "-", "-o", str(tmp_path / "half"), url)
    assert (tmp_path / "half").read_bytes() == bytes(range(256)) * 4096


MILLION = 256 * 4096


def test_curl_keeps_its_copy_as_long_as_the_file_is_unchanged(files: Tunnel, folder: Path, tmp_path: Path) -> None:
    (folder / "news.txt").write_text("first", encoding="utf-8")
    tag, copy = str(tmp_path / "tag"), str(tmp_path / "copy")
    told = [
        curl("--etag-save", tag, "--etag-compare", tag, "-z", copy, "-w", "%{http_code}", "-o", copy, url).stdout
        for url in [f"{files.url}/news.txt"] * 2
    ]
    assert told == ["200", "304"]
    (folder / "news.txt").write_text("second", encoding="utf-8")
    assert curl("--etag-compare", tag, f"{files.url}/news.txt").stdout == "second"
    assert headers_of(f"{files.url}/news.txt")["content-type"] == "text/plain; charset=utf-8"


def test_parts_that_are_fetched_at_once_make_the_whole(files: Tunnel, folder: Path, tmp_path: Path) -> None:
    (folder / "long").write_bytes(os.urandom(8 * MILLION))
    parts = [str(tmp_path / f"part-{number}") for number in range(8)]
    requests: list[str] = []
    for number, part in enumerate(parts):
        requests += [*(["--next"] if number else []), "-r", f"{number * MILLION}-{(number + 1) * MILLION - 1}"]
        requests += ["-o", part, f"{files.url}/long"]
    curl("-Z", *requests)
    assert b"".join(Path(part).read_bytes() for part in parts) == (folder / "long").read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "/../outside.txt",
        "/%2e%2e/outside.txt",
        "/sub%20folder/../../outside.txt",
        "/..%2foutside.txt",
        "/%2e%2e%2foutside.txt",
        "/sub%20folder/%2e%2e/%2e%2e/outside.txt",
        "/..%5coutside.txt",
        "//../outside.txt",
        "/way-out.txt",
        "/way-out/outside.txt",
        "/.env",
        "/%2eenv",
        "/.git/config",
        "/sub%20folder/../.git/config",
        "/outside.txt%00.html",
    ],
)
def test_no_path_leads_out_of_the_folder_or_to_hidden_files(status: Callable[..., int], path: str) -> None:
    assert status(path) in (400, 403, 404)


def test_a_folder_that_holds_the_state_of_this_users_commands_does_not_serve_it(site: Site) -> None:
    assert (site.home / "join").read_text(encoding="utf-8").startswith("moongate://")
    (site.home.parent / "beside.txt").write_text("beside", encoding="utf-8")
    with publishing(site, "static", str(site.home.parent)) as tunnel:
        assert curl(f"{tunnel.url}/beside.txt").stdout == "beside"
        for path in ("join", "admin-token", "%6aoin", "./join", "x/../join"):
            answer = curl("--path-as-is", "-w", "%{http_code}", f"{tunnel.url}/{site.home.name}/{path}").stdout
            assert answer.endswith("404")
            assert "moongate://" not in answer


def test_links_inside_the_folder_are_followed_and_nothing_can_be_written(
    files: Tunnel, status: Callable[..., int], folder: Path
) -> None:
    assert "scripted" in curl(f"{files.url}/way-in.js").stdout
    assert status("/new", "-X", "PUT", "-d", "x") == 405
    assert status("/index.html", "-X", "DELETE") == 405
    assert headers_of(f"{files.url}/numbers", "-I")["content-length"] == str(MILLION)
    assert not (folder / "new").exists()


def test_chromium_shows_the_page_and_runs_its_script(files: Tunnel, tmp_path: Path) -> None:
    assert "<title>scripted</title>" in document_of(files.url, tmp_path / "profile")
