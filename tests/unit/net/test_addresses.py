from pathlib import Path

import pytest

from moongate.errors import ConfigurationError
from moongate.net.addresses import NodeAddress, Peer, host_port, is_loopback, make_join, plain

TOKEN = "0d2f9a54-7b0e-4a53-9a1c-1c6b2b3f4d5e"
FINGERPRINT = "ab" * 32


@pytest.mark.parametrize("host", ["node.example.com", "127.0.0.1", "2001:db8::7"])
@pytest.mark.parametrize("fingerprint", [FINGERPRINT, None])
def test_a_join_string_is_read_back_as_it_was_written(host: str, fingerprint: str | None) -> None:
    joined = make_join(host, 7171, TOKEN, fingerprint)
    assert NodeAddress.parse(joined) == NodeAddress(host, 7171, True, TOKEN, fingerprint)


def test_a_token_with_dots_keeps_them() -> None:
    assert NodeAddress.parse(f"moongate://h:1/#a.b.{FINGERPRINT}").token == "a.b"
    assert NodeAddress.parse("moongate://h:1/#a.b").token == "a.b"


def test_a_fingerprint_may_be_written_in_capitals() -> None:
    assert NodeAddress.parse(f"moongate://h:1/#t.{FINGERPRINT.upper()}").fingerprint == FINGERPRINT


def test_a_join_string_without_port_means_the_nodes_usual_one() -> None:
    assert NodeAddress.parse("moongate://h/#t").port == 7171


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://node.example.com", NodeAddress("node.example.com", 443)),
        ("https://node.example.com:8443/", NodeAddress("node.example.com", 8443)),
        ("http://127.0.0.1:7171", NodeAddress("127.0.0.1", 7171, tls=False)),
        ("http://localhost:7171", NodeAddress("localhost", 7171, tls=False)),
        ("http://[::1]:7171", NodeAddress("::1", 7171, tls=False)),
        ("  https://node.example.com\n", NodeAddress("node.example.com", 443)),
    ],
)
def test_urls_are_read(text: str, expected: NodeAddress) -> None:
    assert NodeAddress.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "node.example.com:7171",
        "ftp://node.example.com",
        "http://node.example.com:7171",
        "http://10.0.0.1:7171",
        "https://node.example.com/path",
        "https://node.example.com/?q=1",
        "https://user:pw@node.example.com",
        "https://node.example.com/#secret-token",
        "moongate://:7171/#secret-token",
        "moongate://h:0/#secret-token",
        "moongate://h:99999/#secret-token",
        "moongate://[::1/#secret-token",
        "moongate://h:x/#secret-token",
    ],
)
def test_anything_else_is_refused_without_repeating_the_token(text: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        NodeAddress.parse(text)
    assert "secret-token" not in f"{refused.value.message} {refused.value.hint} {refused.value.__cause__}"
    assert refused.value.hint


def test_an_address_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "join"
    path.write_text(make_join("h", 1, TOKEN, FINGERPRINT) + "\n")
    assert NodeAddress.parse(f"@{path}").token == TOKEN


@pytest.mark.parametrize("content", ["", "one two", "@/etc/passwd"])
def test_a_file_that_holds_no_single_address_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "join"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="must hold one server address"):
        NodeAddress.parse(f"@{path}")


def test_an_absent_file_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"/nonexistent/join: No such file"):
        NodeAddress.parse("@/nonexistent/join")


def test_the_token_is_not_printed_with_the_address() -> None:
    address = NodeAddress.parse(make_join("h", 1, TOKEN, FINGERPRINT))
    assert TOKEN not in f"{address} {address!r}"


def test_ipv6_is_written_with_brackets() -> None:
    assert host_port("::1", 80) == "[::1]:80"
    assert Peer("2001:db8::1", 5, "::1", 80).text == "[2001:db8::1]:5"
    assert Peer("192.0.2.1", 5, "127.0.0.1", 80).text == "192.0.2.1:5"


def test_a_peer_that_a_proxy_named_is_never_a_loopback_peer() -> None:
    assert Peer("127.0.0.1", 5, "127.0.0.1", 80).is_loopback
    assert not Peer("127.0.0.1", 5, "127.0.0.1", 80, via="127.0.0.1:9").is_loopback


def test_ipv4_inside_ipv6_is_ipv4() -> None:
    assert plain("::ffff:192.0.2.1") == "192.0.2.1"
    assert plain("2001:db8::1") == "2001:db8::1"


@pytest.mark.parametrize(
    ("host", "answer"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("a", False)],
)
def test_loopback_is_told_from_the_rest(host: str, answer: bool) -> None:
    assert is_loopback(host) is answer
