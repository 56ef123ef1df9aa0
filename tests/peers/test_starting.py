"""What a new user starts first: the demonstration, a node with another family's settings; and what mistakes get."""

import json
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from cli_bed import Program, environment
from moongate.net.dialing import NodeAddress, make_join
from peers_bed import Site, Tunnel, curl, publishing, running
from testbed import free_port, require_peer, until
from testbed.chromium import document_of
from testbed.origin import Origin, Request, pieces

pytestmark = [pytest.mark.timeout(120)]


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin(lambda request: request.say(b"here")) as origin:
        yield origin


# -- `moongate demo`, which is what `make run` runs


def test_the_demonstration_is_seen_by_curl_and_chromium_and_ends_without_a_trace(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    port, api_port = free_port(), free_port()
    ports = {"MOONGATE_LISTEN": f"127.0.0.1:{port}", "MOONGATE_DASHBOARD_PORT": str(api_port)}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOONGATE_")}
    with running(Program(["demo"], {**kept, **ports, "TMPDIR": str(temporary)})) as program:
        program.wait_for("->")
        _see_and_end(program, tmp_path)
    for one in (port, api_port):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", one), 5)
    assert list(temporary.iterdir()) == []


def _see_and_end(program: Program, folder: Path) -> None:
    url = next(line.split()[0] for line in program.out.splitlines() if "->" in line)
    # The same URL, typed as it was printed.
    assert "It works" in curl(url).stdout
    document = document_of(url, folder / "profile")
    assert "It works" in document
    assert "<h1" in document
    family = [psutil.Process(program.process.pid), *psutil.Process(program.process.pid).children(recursive=True)]
    assert program.end(signal.SIGINT) == 0
    assert not [process for process in family if process.is_running()]


def test_make_says_what_run_runs() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")
    assert "moongate demo" in makefile.partition("\nrun:")[2].partition("\n\n")[0]


# -- a server.toml of the other family


SERVER_TOML = """
[server]
domain = "tunnels.test"
dashboard_port = {api_port}
https_port = {port}

[auth]
admin_token = "{token}"
require_auth = true

[database]
path = "other.db"

[logging]
level = "info"
format = "json"

[limits]
max_tunnels_per_session = 2
request_body_max_bytes = 1000
tcp_port_range = [{low}, {high}]
"""


def test_a_server_toml_starts_a_node_whose_admin_token_and_limits_hold(tmp_path: Path, origin: Origin) -> None:
    home, token = tmp_path / "home", "an-administrator-of-long-standing"
    home.mkdir(mode=0o700)
    port, api_port, low = free_port(), free_port(), min(free_port(), 65000)
    file = tmp_path / "server.toml"
    values = {"port": port, "api_port": api_port, "token": token, "low": low, "high": low + 20}
    file.write_text(SERVER_TOML.format(**values), encoding="utf-8")
    env = environment(home)
    (tmp_path / "token").write_text(token, encoding="utf-8")
    with running(Program(["server", "--config", str(file)], env)) as node:
        node.wait_for("ready ")
        assert str(port) in node.out
        api = f"http://127.0.0.1:{api_port}/api/tokens"
        for bearer, status in ((token, 200), ("another", 401)):
            headers = {"Authorization": f"Bearer {bearer}"}
            assert httpx.get(api, headers=headers, trust_env=False).status_code == status
        place = Program(["join", "--host", f"127.0.0.1:{port}"], env)
        assert place.wait() == 0, place.err
        command = ["http", str(origin.port), "-d", "app", "--token-file", str(tmp_path / "token"), "--json"]
        with running(Program(command, {**env, "MOONGATE_SERVER": place.out.strip()})) as agent:
            assert agent.wait_for_event("tunnel_ready")["public_url"] == f"https://app.tunnels.test:{port}"
            there = ("--cacert", str(home / "ca.pem"), "--resolve", f"app.tunnels.test:{port}:127.0.0.1")
            url = f"https://app.tunnels.test:{port}/"
            assert curl(*there, url).stdout == "here"
            assert curl(*there, "-o", os.devnull, "-w", "%{http_code}", "-d", "x" * 2000, url).stdout == "413"
            assert agent.end() == 0
        assert node.end(signal.SIGTERM) == 0
    assert (tmp_path / "other.db").exists()
    assert token not in node.out + node.err + agent.out + agent.err


# -- mistakes


def failure(code: int, out: str, err: str) -> tuple[int, str]:
    """Return the exit code and the one line; anything more than a hint beside it is too much."""
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert out == ""
    assert 1 <= len(lines) <= 2, err
    assert lines[0].startswith("error: "), err
    assert len(lines) == 1 or lines[1].startswith("hint: "), err
    return code, lines[0]


def test_a_wrong_token_is_one_clear_line(site: Site, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("marked-wrong-token", encoding="utf-8")
    code, line = failure(*site.command("http", "3000", "--token-file", str(tmp_path / "token")))
    assert (code, line) == (3, "error: invalid token")
    code, line = failure(*site.command("token", "list", "--token-file", str(tmp_path / "token")))
    assert code == 3
    assert "marked" not in line


def test_a_wrong_fingerprint_is_one_clear_line_that_names_both(site: Site, tmp_path: Path) -> None:
    address = NodeAddress.parse((site.home / "join").read_text(encoding="utf-8").strip())
    assert address.fingerprint is not None
    wrong = make_join(address.host, address.port, address.token or "", "ab" * 32)
    (tmp_path / "join").write_text(wrong, encoding="utf-8")
    code, line = failure(*site.command("http", "3000", "--server", f"@{tmp_path / 'join'}"))
    assert code == 3
    assert "ab" * 32 in line
    assert address.fingerprint in line
    assert address.token is not None
    assert address.token not in line


def test_a_port_in_use_is_one_clear_line(site: Site, tmp_path: Path) -> None:
    code, line = failure(*site.command("server", "--home", str(tmp_path / "other")))
    assert code == 1
    assert f"127.0.0.1:{site.port}" in line


def test_a_name_out_of_scope_is_one_clear_line(site: Site, tmp_path: Path) -> None:
    token = site.token(tmp_path, "narrow", "--scope", "narrow-*")
    wide = ("http", "3000", "--subdomain", "wide", "--token-file", str(token))
    code, line = failure(*site.command(*wide))
    assert code == 3
    assert "'wide'" in line
    code, line = failure(*site.command("tcp", "3000", "--port", "1", "--token-file", str(token)))
    assert code == 3


def test_a_port_that_another_identity_holds_is_refused_and_says_whose_it_is(
    site: Site, origin: Origin, tmp_path: Path
) -> None:
    token = site.token(tmp_path, "second")
    with publishing(site, "tcp", str(origin.port)) as held:
        asked = ("tcp", "3000", "--port", str(held.port), "--token-file", str(token))
        code, line = failure(*site.command(*asked))
        assert code == 3
        assert str(held.port) in line
        assert "'join'" in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('lissten = "127.0.0.1:1"\n', "did you mean 'listen'"),
        ("[limits]\nrate_limit = 1\n", "rate_limit"),
        ("drain_s = -1\n", "drain_s"),
        ("drain_s = \n", "not TOML"),
        ('tls_cert = "absent.pem"\ntls_key = "absent.key"\n', "absent.pem"),
    ],
)
def test_a_mistake_in_moongate_toml_is_one_clear_line(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "moongate.toml").write_text(text, encoding="utf-8")
    listen = f"127.0.0.1:{free_port()}"
    program = Program(["server"], environment(tmp_path, MOONGATE_LISTEN=listen, MOONGATE_DASHBOARD_PORT="0"))
    code, line = failure(program.wait(), program.out, program.err)
    assert code == 2
    assert expected in line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("http", "99999"), "99999"),
        (("http", "ftp://localhost:21"), "ftp://localhost:21"),
        (("tcp", "localhost"), "localhost"),
        (("static", "/nowhere/at/all"), "/nowhere/at/all"),
        (("http", "3000", "--server", "nonsense"), "server"),
        (("http", "3000", "--server", "http://203.0.113.5:7171"), "203.0.113.5"),
        (("up", "-f", "/nowhere.toml"), "/nowhere.toml"),
        (("tcp", "22", "--proxy-protocol", "v3"), "v3"),
    ],
)
def test_what_cannot_be_meant_is_exit_code_2_and_one_clear_line(
    site: Site, arguments: tuple[str, ...], expected: str
) -> None:
    code, line = failure(*site.command(*arguments))
    assert code == 2
    assert expected in line


# -- secrets


class Secrets:
    """Everything that must never be written, each with a mark that can be found again."""

    admin = "marked-admin-4f6b1d"
    metrics = "marked-metrics-77ab20"
    wrong = "marked-wrong-c0ffee"
    on_the_command_line = "marked-argument-91d2e3"
    headers = {  # noqa: RUF012  # a test's constants
        "Authorization": "Bearer marked-authorization-a1",
        "Proxy-Authorization": "Basic marked-proxy-a2",
        "Cookie": "session=marked-cookie-a3",
        "X-Api-Key": "marked-key-a4",
        "X-Auth-Token": "marked-auth-a5",
    }
    answered = "session=marked-set-cookie-a6"

    @classmethod
    def marks(cls) -> list[str]:
        values = [cls.admin, cls.metrics, cls.wrong, cls.on_the_command_line, cls.answered, *cls.headers.values()]
        return [value[value.index("marked-") :] for value in values]


def test_secrets_appear_in_no_log_error_process_list_answer_or_database(tmp_path: Path) -> None:
    settings = {"MOONGATE_ADMIN_TOKEN": Secrets.admin, "MOONGATE_METRICS_TOKEN": Secrets.metrics}
    (tmp_path / "wrong").write_text(Secrets.wrong, encoding="utf-8")
    (tmp_path / "admin").write_text(Secrets.admin, encoding="utf-8")

    def answer(request: Request) -> None:
        for _ in pieces(request):
            pass
        request.say(b"fine", Set_Cookie=Secrets.answered)

    with Site(tmp_path / "home", **settings, MOONGATE_LOG_FORMAT="json") as site, Origin(answer) as origin:
        # The same node again, talking as much as it can.
        site.end()
        said = [site.program.out + site.program.err]
        site.program = Program(["server", "--log-level", "debug"], site.env)
        site.program.wait_for("ready ")
        token_file = site.token(tmp_path, "used", "--token-file", str(tmp_path / "admin"))
        raw = token_file.read_text(encoding="utf-8").strip()
        with publishing(site, "http", str(origin.port), "-d", "told", "-v", "--token-file", str(token_file)) as tunnel:
            headers = {"Host": "told.localhost", **Secrets.headers}
            url = f"http://127.0.0.1:{site.port}/"
            assert httpx.post(url, content=b"x", headers=headers, trust_env=False).text == "fine"
            said += _answers_of_the_api(site, tunnel)
            said += _errors_and_titles(site, tmp_path, raw)
        said += [tunnel.agent.out, tunnel.agent.err]
    said += [site.program.out, site.program.err]
    marks = [*Secrets.marks(), raw]
    found = [mark for mark in marks if any(mark in text for text in said)]
    assert found == [], "said aloud"
    _assert_not_kept(site.home, marks)


def _answers_of_the_api(site: Site, tunnel: Tunnel) -> list[str]:
    token = Secrets.admin
    listed = f"/api/tunnels/{tunnel.id}/requests"
    until(lambda: len(site.api(listed, token=token).json()) == 1)
    (request,) = site.api(listed, token=token).json()
    paths = [listed, f"{listed}/{request['id']}", "/api/tokens", "/api/tunnels", "/api/connections", "/api/status"]
    texts = [site.api(path, token=token).text for path in paths]
    resent = site.api(f"{listed}/{request['id']}/replay?send=true", token=token, method="POST")
    return [
        *texts,
        resent.text,
        site.api(listed, token=Secrets.wrong).text,
        site.api("/metrics", token=Secrets.metrics).text,
    ]


def _errors_and_titles(site: Site, folder: Path, raw: str) -> list[str]:
    """Return what commands say that were given secrets, right or wrong, and what `ps` shows of one that runs."""
    address = NodeAddress.parse((site.home / "join").read_text(encoding="utf-8").strip())
    with running(
        site.run("http", "3000", "--server", make_join(address.host, address.port, raw, address.fingerprint))
    ) as agent:
        agent.wait_for("->")
        processes = [require_peer("ps"), "-eww", "-o", "pid,args"]
        shown = subprocess.run(processes, capture_output=True, text=True).stdout
        assert f"{agent.process.pid} " in shown
        assert agent.end() == 0
    texts = [agent.out, agent.err, shown]
    for arguments in (
        ("http", "3000", "--token-file", str(folder / "wrong")),
        ("http", "3000", "--token-file", str(folder / "wrong"), "-v"),
        ("status", "--token-file", str(folder / "wrong")),
        ("http", "3000", "--server", f"moongate://127.0.0.1:{site.port}/#{Secrets.on_the_command_line}"),
        ("http", "3000", "--server", f"moongate://nobody@127.0.0.1:x/#{Secrets.on_the_command_line}.zz"),
        ("http", "3000", "--server", make_join(address.host, address.port, Secrets.on_the_command_line, "ab" * 32)),
        ("config", "show"),
    ):
        _, out, err = site.command(*arguments)
        texts += [out, err]
    return texts


def _assert_not_kept(home: Path, marks: list[str]) -> None:
    own = {"join", "admin-token"}
    for path in home.rglob("*"):
        if path.is_file() and path.name not in own:
            content = path.read_bytes()
            assert [mark for mark in marks if mark.encode() in content] == [], f"kept in {path.name}"


def test_the_nodes_own_certificate_convinces_a_strict_client(site: Site, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("hello", encoding="utf-8")
    context = ssl.create_default_context(cafile=str(site.home / "ca.pem"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with (
        publishing(site, "static", str(tmp_path), "-d", "strict"),
        socket.create_connection(("127.0.0.1", site.port), 10) as raw,
        context.wrap_socket(raw, server_hostname="strict.localhost") as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: strict.localhost\r\nConnection: close\r\n\r\n")
        assert connection.makefile("rb").read().endswith(b"hello")


def test_the_openapi_document_is_public_and_names_the_whole_family(site: Site) -> None:
    answer = curl(f"http://127.0.0.1:{site.api_port}/api/openapi.json").stdout
    assert "/api/tunnels" in json.loads(answer)["paths"]
