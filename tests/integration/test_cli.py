"""Commands as a user types them, against a node as a user starts it."""

import json
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cli_bed import Gateway, Program, environment
from moongate.cli.sample import SampleService
from testbed import free_port, until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("gateway"))
    yield gateway
    assert gateway.program.end(signal.SIGTERM) == 0


@pytest.fixture(scope="module")
def sample() -> Iterator[SampleService]:
    service = SampleService()
    yield service
    service.close()


def visit(gateway: Gateway, name: str, path: str = "/") -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{gateway.port}{path}", headers={"Host": f"{name}.localhost"}, trust_env=False)


def new_token(gateway: Gateway, folder: Path, label: str, *more: str) -> Path:
    code, out, err = gateway.command("token", "create", label, *more)
    assert code == 0, err
    path = folder / label
    path.write_text(out, encoding="utf-8")
    return path


def test_the_first_start_makes_the_state_and_prints_the_admin_token_once(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "home")
    token = (gateway.home / "admin-token").read_text(encoding="utf-8").strip()
    assert token in gateway.program.out
    assert f"ready 127.0.0.1:{gateway.port} 127.0.0.1:{gateway.api_port}\n" in gateway.program.out
    for name in ("admin-token", "join", "ca.key", "provisioner.key"):
        assert stat.S_IMODE((gateway.home / name).stat().st_mode) == 0o600
    gateway.restart(signal.SIGTERM)
    assert token not in gateway.program.out
    assert gateway.program.end(signal.SIGINT) == 0


def test_the_public_url_is_the_first_line_and_works(gateway: Gateway, sample: SampleService) -> None:
    agent = gateway.run("http", str(sample.port), "--subdomain", "first")
    agent.wait_for("\n")
    url = f"http://first.localhost:{gateway.port}"
    assert agent.out.splitlines()[0] == f"{url}  ->  http://localhost:{sample.port}"
    assert "It works" in visit(gateway, "first").text
    agent.wait_for("GET /  200")
    assert agent.end(signal.SIGINT) == 0
    assert agent.err == ""


def test_programs_get_json_lines(gateway: Gateway, sample: SampleService) -> None:
    agent = gateway.run("http", str(sample.port), "--subdomain", "events", "--json")
    agent.wait_for_event("tunnel_ready")
    visit(gateway, "events", "/echo?a=%1b[31m")
    agent.wait_for_event("request")
    assert agent.end(signal.SIGTERM) == 0
    ready, request, *_ = agent.events
    assert ready["public_url"] == f"http://events.localhost:{gateway.port}"
    assert (ready["protocol"], ready["local_port"]) == ("http", sample.port)
    assert (request["method"], request["path"], request["status"]) == ("GET", "/echo?a=%1b[31m", 200)
    assert request["tunnel"] == ready["public_url"]


def test_verbose_logs_each_event_on_stderr_without_the_token(gateway: Gateway, sample: SampleService) -> None:
    agent = gateway.run("http", str(sample.port), "--subdomain", "verbose", "--verbose")
    agent.wait_for("TunnelReady", where="err")
    assert agent.end() == 0
    assert (gateway.home / "join").read_text(encoding="utf-8").partition("#")[2][:36] not in agent.err


def test_an_agent_whose_reader_has_left_ends_quietly(gateway: Gateway, sample: SampleService) -> None:
    agent = gateway.run("http", str(sample.port), "--subdomain", "unread", "--json")
    agent.wait_for("tunnel_ready")
    agent.stop_reading()
    visit(gateway, "unread")
    assert agent.wait() == 0
    assert agent.err == ""


def test_a_terminal_gets_the_url_and_then_a_live_panel(gateway: Gateway, sample: SampleService) -> None:
    agent = gateway.run("http", str(sample.port), "--subdomain", "panel", terminal=(100, 30))
    agent.wait_for("● link")
    before, _, _ = agent.out.partition("\x1b[?1049h")
    assert before.startswith(f"http://panel.localhost:{gateway.port}  ->  ")
    agent.wait_for("● upstream")
    visit(gateway, "panel", "/echo?seen=here")
    agent.wait_for("/echo?seen=here")
    agent.resize(60, 20)
    agent.wait_for("● agent")
    agent.type(b"\x03")
    assert agent.wait() == 0
    assert agent.out.rindex("\x1b[?1049l") > agent.out.rindex("\x1b[?1049h"), "the first screen is not back"
    assert agent.out.rindex("\x1b[?25h") > agent.out.rindex("\x1b[?25l"), "the cursor is not back"
    assert "Traceback" not in agent.text


def test_an_upstream_that_is_not_there_is_told_to_the_agent_too(gateway: Gateway) -> None:
    agent = gateway.run("http", str(free_port()), "--subdomain", "nobody")
    agent.wait_for("nobody.localhost")
    assert visit(gateway, "nobody").status_code == 502
    agent.wait_for("refused the connection", where="err")
    assert agent.end() == 0


def test_an_unknown_token_is_refused_with_exit_code_3(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("nonsense", encoding="utf-8")
    code, out, err = gateway.command("http", "3000", "--token-file", str(tmp_path / "token"))
    assert (code, out) == (3, "")
    assert err.startswith("error: invalid token\nhint: ")


def test_a_name_out_of_scope_or_held_by_another_is_refused_with_exit_code_3(
    gateway: Gateway, sample: SampleService, tmp_path: Path
) -> None:
    token = new_token(gateway, tmp_path, "narrow", "--scope", "narrow-*,mine")
    code, _, err = gateway.command("http", str(sample.port), "--subdomain", "wide", "--token-file", str(token))
    assert code == 3
    assert "'wide' is not allowed by this token" in err
    holder = gateway.run("http", str(sample.port), "--subdomain", "mine")
    holder.wait_for("mine.localhost")
    code, out, _ = gateway.command("http", "1", "--subdomain", "mine", "--token-file", str(token), "--json")
    assert code == 3
    assert json.loads(out)["code"] == "name.taken"
    assert "join" in json.loads(out)["message"], "the holder is not named"
    assert holder.end() == 0


def test_an_agent_whose_name_was_taken_over_says_so_and_exits_4(gateway: Gateway, sample: SampleService) -> None:
    older = gateway.run("http", str(sample.port), "--subdomain", "over", terminal=(100, 30))
    older.wait_for("● link")
    newer = gateway.run("http", str(sample.port), "--subdomain", "over")
    newer.wait_for("over.localhost")
    assert older.wait() == 4
    assert "error: " in older.text.partition("Ctrl-C stops")[2]
    assert visit(gateway, "over").status_code == 200
    assert newer.end() == 0


def test_an_agent_keeps_its_name_over_a_restart_of_the_node(sample: SampleService, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "home")
    agent = gateway.run("http", str(sample.port), "--subdomain", "stays", "--json")
    agent.wait_for("tunnel_ready")
    gateway.restart(signal.SIGKILL)
    agent.wait_for("reconnected")
    until(lambda: visit(gateway, "stays").status_code == 200)
    assert agent.end() == 0
    events = [event["event"] for event in agent.events]
    assert events[:2] == ["tunnel_ready", "reconnecting"]
    assert events.count("tunnel_ready") == 1, "the same URL was told twice"
    assert gateway.program.end(signal.SIGTERM) == 0


def test_with_once_a_node_that_is_not_there_or_goes_away_is_exit_code_5(sample: SampleService, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "home")
    agent = gateway.run("http", str(sample.port), "--once")
    agent.wait_for("->")
    assert gateway.program.end(signal.SIGTERM) == 0
    assert agent.wait() == 5
    assert agent.err.startswith("error: ")
    code, out, err = gateway.command("http", str(sample.port), "--once")
    assert (code, out) == (5, "")
    assert "refused the connection" in err


def test_another_node_than_the_join_string_pins_is_refused_with_exit_code_3(gateway: Gateway, tmp_path: Path) -> None:
    join = (gateway.home / "join").read_text(encoding="utf-8").strip()
    (tmp_path / "join").write_text(join.rpartition(".")[0] + "." + "ab" * 32, encoding="utf-8")
    code, _, err = gateway.command("http", "1", "--server", f"@{tmp_path / 'join'}")
    assert code == 3
    assert "certificate authority" in err


def test_a_secret_on_the_command_line_works_with_a_warning_and_is_hidden_at_once(
    gateway: Gateway, sample: SampleService
) -> None:
    join = (gateway.home / "join").read_text(encoding="utf-8").strip()
    agent = gateway.run("http", str(sample.port), "--server", join)
    agent.wait_for("warning: a secret on the command line", where="err")
    title = Path(f"/proc/{agent.process.pid}/cmdline").read_bytes()
    assert join.partition("#")[2].encode() not in title
    assert b"#***" in title
    agent.wait_for("->")
    assert agent.end() == 0


def test_several_tunnels_of_a_file_share_one_agent(gateway: Gateway, sample: SampleService, tmp_path: Path) -> None:
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "index.html").write_text("from a folder", encoding="utf-8")
    file = tmp_path / "tunnels.toml"
    file.write_text(
        f"""
        [tunnels.web]
        upstream = "{sample.port}"
        subdomain = "several-web"
        [tunnels.files]
        kind = "static"
        directory = "public"
        subdomain = "several-files"
        [tunnels.raw]
        kind = "tcp"
        upstream = "127.0.0.1:{sample.port}"
        [tunnels.names]
        kind = "udp"
        upstream = "127.0.0.1:53"
        """,
        encoding="utf-8",
    )
    agent = gateway.run("up", "-f", str(file), "--json")
    agent.wait_for('"raw"')
    until(lambda: len(agent.events) == 4)
    ready = {event["name"]: event for event in agent.events}
    assert "It works" in visit(gateway, "several-web").text
    assert visit(gateway, "several-files").text == "from a folder"
    assert "It works" in httpx.get(f"http://127.0.0.1:{ready['raw']['public_port']}/", trust_env=False).text
    code, out, _ = gateway.command("status", "--json")
    state = json.loads(out)
    assert (code, state["active_tunnels"]) == (0, 4)
    assert ready["names"]["public_url"].startswith("udp://")
    assert agent.end() == 0


def test_tokens_are_created_listed_used_and_revoked(gateway: Gateway, sample: SampleService, tmp_path: Path) -> None:
    token = new_token(gateway, tmp_path, "laptop", "--scope", "laptop-*", "--expires", "12h")
    assert "laptop-*" in gateway.command("token", "list")[1]
    code, join, _ = gateway.command("join", "--token-file", str(token))
    assert code == 0
    agent = gateway.run("http", str(sample.port), MOONGATE_SERVER=join.strip())
    agent.wait_for("http://laptop-")
    listed = [json.loads(line) for line in gateway.command("token", "list", "--json")[1].splitlines()]
    assert [one["tunnel_count"] for one in listed if one["label"] == "laptop"] == [1]
    assert gateway.command("token", "revoke", "laptop")[0] == 0
    assert agent.wait() == 3
    assert "error: " in agent.err
    assert gateway.command("token", "revoke", "laptop")[0] == 2


def test_status_shows_tunnels_with_a_token_and_counts_without(
    gateway: Gateway, sample: SampleService, tmp_path: Path
) -> None:
    agent = gateway.run("http", str(sample.port), "--subdomain", "shown")
    agent.wait_for("shown.localhost")
    code, out, _ = gateway.command("status")
    assert code == 0
    assert f"shown.localhost:{gateway.port}" in out
    stranger = environment(tmp_path)
    program = Program(["status", "--api", f"http://127.0.0.1:{gateway.api_port}"], stranger)
    assert program.wait() == 0
    assert "1 tunnel\n" in program.out
    assert "shown.localhost" not in program.out
    program = Program(["token", "list", "--api", f"http://127.0.0.1:{gateway.api_port}"], stranger)
    assert program.wait() == 3
    assert agent.end() == 0


def test_a_node_whose_terminal_is_closed_ends_and_one_without_a_terminal_reloads(tmp_path: Path) -> None:
    ports = {"MOONGATE_LISTEN": f"127.0.0.1:{free_port()}", "MOONGATE_DASHBOARD_PORT": "0", "MOONGATE_DRAIN_S": "1"}
    program = Program(["server"], environment(tmp_path, **ports), terminal=(100, 30))
    program.wait_for("ready ")
    program.close_terminal()
    assert program.wait() == 0
    program = Program(["server"], environment(tmp_path, **ports))
    program.wait_for("ready ")
    program.process.send_signal(signal.SIGHUP)
    program.wait_for("settings reloaded", where="err")
    assert program.end(signal.SIGTERM) == 0


def test_a_port_in_use_is_named_with_a_remedy(gateway: Gateway, tmp_path: Path) -> None:
    code, out, err = gateway.command("server", "--home", str(tmp_path / "other"))
    assert code == 1
    assert "ready" not in out
    assert err.startswith(f"error: 127.0.0.1:{gateway.port} ")
    assert "\nhint: " in err


def test_a_mistake_in_the_settings_is_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "moongate.toml").write_text('lissten = "127.0.0.1:0"\n', encoding="utf-8")
    program = Program(["server"], environment(tmp_path))
    assert program.wait() == 2
    assert "did you mean 'listen'" in program.err
