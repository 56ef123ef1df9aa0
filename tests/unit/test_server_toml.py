"""A `server.toml` as the documents of that API family print it starts a node too."""

from pathlib import Path

import pytest

from moongate.config import Config, load_config
from moongate.errors import ConfigurationError

SAMPLE = """
[server]
domain = "edge.example.com"
http_port = 8080
https_port = 8443
control_port = 4040
dashboard_port = 4141

[tls]
cert_path = "cert.pem"
key_path = "key.pem"
acme_enabled = false

[auth]
admin_token = "change-me"
require_auth = true

[database]
path = "./rustunnel.db"

[logging]
level = "trace"
format = "pretty"

[limits]
max_tunnels_per_session = 10
max_connections_per_tunnel = 100
rate_limit_rps = 100
ip_rate_limit_rps = 50
request_body_max_bytes = 10485760
tcp_port_range = [20000, 20099]
"""


def read(tmp_path: Path, text: str, name: str = "server.toml") -> Config:
    path = tmp_path / name
    path.write_text(text)
    return load_config(path, {})


def test_every_key_with_a_counterpart_is_taken_over(tmp_path: Path) -> None:
    config = read(tmp_path, SAMPLE)
    assert config.admin_token is not None
    assert config.admin_token.get_secret_value() == "change-me"
    assert (config.domain, config.dashboard_port, config.listen) == ("edge.example.com", 4141, "0.0.0.0:8443")
    assert (config.tls_cert, config.tls_key) == (tmp_path / "cert.pem", tmp_path / "key.pem")
    assert config.database_url == f"sqlite+aiosqlite:///{tmp_path}/rustunnel.db"
    assert (config.log_level, config.log_format) == ("debug", "console")
    assert (config.tcp_ports.low, config.tcp_ports.high) == (20000, 20099)
    limits = config.limits
    assert (limits.max_tunnels_per_session, limits.max_connections_per_tunnel) == (10, 100)
    assert (limits.rate_limit_rps, limits.ip_rate_limit_rps, limits.request_body_max_bytes) == (100, 50, 10485760)


def test_what_has_no_counterpart_is_kept_with_one_warning_each(tmp_path: Path) -> None:
    config = read(tmp_path, '[server]\ndomain = "a.b"\nfancy = 1\n[region]\nid = "eu"\n')
    assert config.foreign == {"server.fancy": 1, "region.id": "eu"}
    assert [warning.partition(": ")[2].split()[0] for warning in config.warnings] == ["server.fancy", "region.id"]


def test_ports_that_are_not_opened_are_said(tmp_path: Path) -> None:
    said = " ".join(read(tmp_path, SAMPLE).warnings)
    assert "server.http_port is not opened" in said
    assert "server.control_port is not opened" in said


def test_it_is_recognised_by_its_tables_under_any_name(tmp_path: Path) -> None:
    config = read(tmp_path, '[server]\ndomain = "a.b"\ndashboard_port = 5\n', "edge.toml")
    assert (config.domain, config.dashboard_port, config.listen) == ("a.b", 5, "127.0.0.1:7171")


def test_an_empty_admin_token_is_refused_while_authentication_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="admin_token.*empty secret"):
        read(tmp_path, '[auth]\nadmin_token = ""\nrequire_auth = true\n')


def test_switching_authentication_off_is_not_followed(tmp_path: Path) -> None:
    config = read(tmp_path, '[auth]\nadmin_token = ""\nrequire_auth = false\n')
    assert config.admin_token is None
    assert "require_auth" in " ".join(config.warnings)


@pytest.mark.parametrize(
    ("line", "url"),
    [
        ('path = ":memory:"', "sqlite+aiosqlite:///:memory:"),
        ('path = "/var/x.db"', "sqlite+aiosqlite:////var/x.db"),
        ('url = "postgres://u@h/d"\npath = "/var/x.db"', "postgresql+asyncpg://u@h/d"),
    ],
)
def test_a_database_is_a_path_or_a_url_and_the_url_wins(tmp_path: Path, line: str, url: str) -> None:
    assert read(tmp_path, f"[database]\n{line}\n").database_url == url


def test_plain_http_is_proxied_only_when_the_file_says_so(tmp_path: Path) -> None:
    assert read(tmp_path, '[server]\nplain_http_mode = "proxy"\n').plain_http
    assert not read(tmp_path, '[server]\nplain_http_mode = "redirect"\n').plain_http
