import pytest

from moongate.api.hosts import ApplicationHosts

HOSTS = ApplicationHosts(["gate.example", "Tunnel.Test."])


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:1",
        "localhost.",
        "gate.example:443",
        "tunnel.test",
        "127.0.0.1",
        "[::1]",
        "[::1]:7171",
        "10.0.0.1:80",
    ],
)
def test_addresses_and_own_names_are_the_application(host: str) -> None:
    assert host in HOSTS


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":80",
        ".",
        "a.localhost",
        "app.tunnel.test",
        "gate.example.evil",
        "1.2.3",
        "[::1",
        "[gate",
        "127.0.0.1.evil",
        None,
        5,
    ],
)
def test_everything_else_is_not(host: object) -> None:
    assert host not in HOSTS
