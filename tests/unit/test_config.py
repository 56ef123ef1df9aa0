import ipaddress
import json
from pathlib import Path

import pytest

from moongate.config import Config, PortRange, differences, load_config, split_address, without_password
from moongate.errors import ConfigurationError


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_node_needs_no_file(home: Path) -> None:
    config = load_config(env={"MOONGATE_HOME": str(home)})
    assert config.home == home
    assert config.listen_address == ("127.0.0.1", 7171)
    assert config.dashboard_port == 4041
    assert (config.tcp_ports.low, config.tcp_ports.high) == (20000, 20999)
    assert config.limits.max_connections_per_tunnel == 10000
    assert config.capture.total_bytes == 32 * 1024 * 1024
    assert config.listens_on_loopback


def test_later_sources_win(home: Path, tmp_path: Path) -> None:
    path = written(
        tmp_path / "moongate.toml",
        'domain = "file.example"\nlease_hold_s = 5\n[limits]\nrate_limit_rps = 1\nip_rate_limit_rps = 2\n',
    )
    env = {"MOONGATE_HOME": str(home), "MOONGATE_DOMAIN": "env.example", "MOONGATE_LIMITS_RATE_LIMIT_RPS": "7"}
    config = load_config(path, env, {"domain": "cli.example", "listen": None})
    assert config.domain == "cli.example"
    assert config.lease_hold_s == 5
    assert (config.limits.rate_limit_rps, config.limits.ip_rate_limit_rps) == (7, 2)
    assert config.listen == "127.0.0.1:7171"


def test_an_explanation_says_where_each_value_comes_from(home: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "moongate.toml", "lease_hold_s = 5\n")
    config = load_config(path, {"MOONGATE_HOME": str(home)}, {"limits": {"header_timeout_s": 3}})
    found = {setting.key: setting for setting in config.explain()}
    assert found["lease_hold_s"].source == str(path)
    assert found["home"].source == "MOONGATE_HOME"
    assert found["limits.header_timeout_s"].source == "command line"
    assert found["limits.header_timeout_s"].variable == "MOONGATE_LIMITS_HEADER_TIMEOUT_S"
    assert found["domain"].source == "default"
    assert all(setting.description for setting in found.values())


def test_the_file_in_the_home_directory_is_read_unasked(home: Path) -> None:
    written(home / "moongate.toml", 'domain = "at.home"\n')
    assert load_config(env={"MOONGATE_HOME": str(home)}).domain == "at.home"
    assert load_config(env={}, overrides={"home": home}).domain == "at.home"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lisen = '127.0.0.1:1'", "'lisen'.*did you mean 'listen'"),
        ("[limits]\nrate_limit = 1", "'limits.rate_limit'.*did you mean 'limits.rate_limit_rps'"),
        ("rate_limit_rps = 1", "did you mean 'limits.rate_limit_rps'"),
        ("limits = 1", "'limits' in .* is a section"),
        ("zzzz = 1", "unknown setting 'zzzz' in [^;]*$"),
        ("listen = 'nowhere'", "listen .*moongate.toml.*an address reads like"),
        ("listen = '127.0.0.1:70000'", "a port is a number from 0 to 65535"),
        ("tcp_ports = '9-1'", "tcp_ports .*the lower one first"),
        ("tcp_ports = 'many'", "a port range reads like"),
        ("domain = 'a b'", "domain .*not a host name"),
        ("dashboard_port = 7171", "dashboard_port and listen cannot both"),
        ("tls_cert = 'a.pem'", "belong together"),
        ("admin_token = ''", "admin_token .*an empty secret"),
        ("trusted_proxies = ['10.0.0.1/8']", "trusted_proxies .*network"),
        ("database_url = 'mysql://x'", "a database is"),
        ("lease_hold_s = -1", "lease_hold_s .*greater than or equal to 0"),
        ("log_level = 'loud'", "log_level"),
        ("[acme]\ndirectory = 'http://acme.example.test/dir'", "acme.directory .*reads like https://"),
        ("[acme]\ndirectory = 'acme.example.test'", "acme.directory .*reads like https://"),
        ("[acme]\nemail = 'a@b, c@d'", "acme.email .*not an e-mail address"),
        ("[acme]\nown_name = true", "acme.own_name needs .*set acme.directory"),
        ("[acme]\nchallenge = 'dns-01'", "acme.challenge .*http-01"),
        ("= 1", "is not TOML"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_with_the_reason(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path / "moongate.toml", text)
    with pytest.raises(ConfigurationError, match=said):
        load_config(path, {})


def test_a_file_that_is_not_there_is_an_error_when_it_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read .*no such file"):
        load_config(tmp_path / "absent.toml", {})


def test_unknown_overrides_are_errors() -> None:
    with pytest.raises(ConfigurationError, match="command line.*did you mean 'dashboard_port'"):
        load_config(env={}, overrides={"dashbord_port": 1})


def test_a_slip_in_a_variable_is_worth_a_warning_and_other_peoples_variables_are_not() -> None:
    config = load_config(env={"MOONGATE_LISTN": "x", "MOONGATE_SERVER": "y", "MOONGATE_OF_SOMEONE_ELSE": "z"})
    assert config.warnings == ("unknown variable MOONGATE_LISTN; did you mean MOONGATE_LISTEN?",)


def test_lists_in_variables_are_separated_by_commas() -> None:
    config = load_config(env={"MOONGATE_TRUSTED_PROXIES": "10.0.0.0/8, ::1", "MOONGATE_NODE_NAMES": "Gate.Example."})
    assert config.trusted_proxies == (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128"))
    assert config.node_names == ("gate.example",)


def test_a_relative_path_in_a_file_is_relative_to_that_file(tmp_path: Path) -> None:
    path = written(tmp_path / "moongate.toml", "home = 'state'\ntls_cert = 'c.pem'\ntls_key = '/abs/k.pem'\n")
    config = load_config(path, {})
    assert (config.home, config.tls_cert, config.tls_key) == (
        tmp_path / "state",
        tmp_path / "c.pem",
        Path("/abs/k.pem"),
    )


def test_the_file_of_an_authority_is_relative_to_the_settings_too(tmp_path: Path) -> None:
    path = written(tmp_path / "moongate.toml", "[acme]\ndirectory = 'http://localhost:14000/dir'\nca_file = 'ca.pem'\n")
    assert load_config(path, {}).acme.ca_file == tmp_path / "ca.pem"


def test_secrets_print_nowhere(tmp_path: Path) -> None:
    text = "admin_token = 'hush-1'\nmetrics_token = 'hush-2'\ndatabase_url = 'postgres://me:hush-3@db/x'\n"
    config = load_config(written(tmp_path / "moongate.toml", text), {})
    assert config.admin_token is not None
    assert config.admin_token.get_secret_value() == "hush-1"
    everything = repr(config) + str(config) + repr(config.explain())
    assert "hush" not in everything
    assert "postgresql+asyncpg://me:***@db/x" in everything


def test_a_wrong_secret_is_not_quoted_in_the_error(tmp_path: Path) -> None:
    path = written(tmp_path / "moongate.toml", "admin_token = ['hush']\ndatabase_url = 'mysql://me:hush@db'\n")
    with pytest.raises(ConfigurationError) as failure:
        load_config(path, {})
    assert "hush" not in str(failure.value)


def test_settings_do_not_change_after_they_were_read() -> None:
    config = Config()
    with pytest.raises(ValueError, match="frozen"):
        setattr(config, "domain", "other")  # noqa: B010  # mypy knows it cannot be written
    with pytest.raises(ValueError, match="frozen"):
        setattr(config.limits, "rate_limit_rps", 1)  # noqa: B010


def test_the_schema_names_every_key_and_is_json() -> None:
    schema = json.loads(json.dumps(Config.schema_document()))
    assert set(schema["properties"]) == set(Config.model_fields)
    assert schema["additionalProperties"] is False


def test_a_reload_can_ask_what_differs() -> None:
    old = load_config(env={})
    new = load_config(env={"MOONGATE_LOG_LEVEL": "debug", "MOONGATE_LIMITS_RATE_LIMIT_RPS": "3"})
    assert differences(old, new) == {"log_level", "limits.rate_limit_rps"}
    assert differences(old, load_config(env={})) == frozenset()


@pytest.mark.parametrize(
    ("text", "address"), [("127.0.0.1:1", ("127.0.0.1", 1)), ("[::1]:65535", ("::1", 65535)), ("host:0", ("host", 0))]
)
def test_addresses_are_split_into_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert split_address(text) == address


@pytest.mark.parametrize("text", ["", "7171", ":7171", "::1:7171", "host:", "host:x", "host:-1", "host:٣"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        split_address(text)


def test_a_port_range_includes_both_ends() -> None:
    ports = PortRange.parse("20000-20002")
    assert list(ports) == [20000, 20001, 20002]
    assert len(ports) == 3
    assert 20002 in ports
    assert 20003 not in ports
    assert PortRange.parse([5, 6]) == PortRange(5, 6)
    assert PortRange.parse(7) == PortRange(7, 7)


def test_only_the_password_of_a_url_is_masked() -> None:
    assert without_password("postgresql://u:p@ss@h/d") == "postgresql://u:***@h/d"
    assert without_password("sqlite:////a:b/c.db") == "sqlite:////a:b/c.db"
