from pathlib import Path

import pytest

from moongate.cli.outcome import UsageError
from moongate.cli.tunnels import Wanted, load_tunnels
from moongate.cli.upstreams import Local
from moongate.errors import ConfigurationError


def written(folder: Path, text: str) -> Path:
    path = folder / "tunnels.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_each_table_is_a_tunnel(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    path = written(
        tmp_path,
        """
        server = "@join"
        token_file = "token"
        [tunnels.web]
        upstream = "3000"
        subdomain = "shop"
        rate_limit_rps = 50
        [tunnels.db]
        kind = "tcp"
        upstream = "db:5432"
        port = 20010
        proxy_protocol = "v2"
        [tunnels.mail]
        kind = "tls"
        upstream = "993"
        [tunnels.files]
        kind = "static"
        directory = "site"
        capture = false
        """,
    )
    asked = load_tunnels(path)
    assert asked.server == "@join"
    assert asked.token_file == tmp_path / "token"
    assert asked.tunnels == (
        Wanted("http", Local("http", "localhost", 3000), label="web", subdomain="shop", rate_limit_rps=50),
        Wanted("tcp", Local("tcp", "db", 5432), label="db", port=20010, proxy_protocol="v2"),
        Wanted("tls", Local("tcp", "localhost", 993), label="mail"),
        Wanted("static", tmp_path / "site", label="files", capture=False),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tunnels.web]\nupstrem = '3000'", "unknown key 'upstrem' in [tunnels.web]"),
        ("[tunnels.web]\nupstrem = '3000'", "did you mean 'upstream'?"),
        ("[tunnel.web]\nupstream = '3000'", "did you mean 'tunnels'?"),
        ("[tunnels.web]\nkind = 'htpp'\nupstream = '3000'", "did you mean 'http'?"),
        ("[tunnels.web]\nupstream = 3000", "'upstream' in [tunnels.web]"),
        ("[tunnels.web]\nkind = 'tcp'\nupstream = '1'\nport = true", "must be a whole number"),
        ("[tunnels.web]\nkind = 'tcp'\nupstream = '1'\nport = 70000", "from 1 to 65535"),
        ("[tunnels.web]\nupstream = '1'\nport = 20000", "means nothing for kind 'http'"),
        ("[tunnels.web]\nupstream = '1'\nrate_limit_rps = -1", "cannot be negative"),
        ("[tunnels.db]\nkind = 'tcp'\nupstream = '1'\nproxy_protocol = 'v3'", "must be v1 or v2"),
        ("[tunnels.web]\nkind = 'http'", "has no 'upstream'"),
        ("[tunnels.web]\nkind = 'static'\ndirectory = 'missing'", "there is no directory"),
        ("tunnels = 3", "must be a table"),
        ("[tunnels]\nweb = 3", "must be a table"),
        ("server = '@join'", "defines no tunnel"),
        ("[tunnels.web", "is not TOML"),
    ],
)
def test_a_slip_in_the_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_tunnels(written(tmp_path, text))
    assert message in str(refused.value)


def test_an_upstream_that_cannot_be_dialed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        load_tunnels(written(tmp_path, "[tunnels.web]\nupstream = 'nonsense'"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read .*missing\.toml: no such file"):
        load_tunnels(tmp_path / "missing.toml")
