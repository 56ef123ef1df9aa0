import pytest

from moongate.errors import ProtocolError
from moongate.wire.hello import (
    MAX_CLIENT_HELLO,
    MAX_HELLO_RECORDS,
    PROXY_V1_MAX,
    PROXY_V2_MAX,
    Address,
    ClientHello,
    ProxyHeader,
    may_be_proxy,
    parse_client_hello,
    parse_proxy,
    serialize_proxy_v1,
    serialize_proxy_v2,
)
from testbed.hellos import extension, hello_message, openssl_hello, records, server_name, vector


def test_openssls_hello_is_understood() -> None:
    hello = openssl_hello("App.Example.ORG", ["http/1.1", "moongate"])
    assert parse_client_hello(hello) == ClientHello("app.example.org", ("http/1.1", "moongate"))


def test_a_hello_may_name_no_server_and_no_protocol() -> None:
    assert parse_client_hello(openssl_hello(None, [])) == ClientHello(None, ())
    bare = b"\x01" + vector(3, b"\x03\x03" + bytes(32) + b"\x00" + vector(2, b"\x13\x01") + vector(1, b"\x00"))
    assert parse_client_hello(records(bare)) == ClientHello(None, ())


def test_every_beginning_of_a_hello_waits_for_the_rest() -> None:
    hello = openssl_hello("app.example", ["http/1.1"])
    assert [parse_client_hello(hello[:end]) for end in range(len(hello))] == [None] * len(hello)


def test_what_follows_a_hello_is_not_judged() -> None:
    hello = openssl_hello("app.example", [])
    assert parse_client_hello(hello + b"\xff" * 100) == parse_client_hello(hello)


@pytest.mark.parametrize("size", [20, 100, 511])
def test_a_hello_may_be_spread_over_records(size: int) -> None:
    message = openssl_hello("app.example", ["http/1.1"])[5:]
    assert parse_client_hello(records(message, size)) == ClientHello("app.example", ("http/1.1",))


@pytest.mark.parametrize("name", [b"app.example.", b"APP.example"])
def test_a_server_name_is_read_without_case_and_last_dot(name: bytes) -> None:
    assert parse_client_hello(records(hello_message(server_name(name)))) == ClientHello("app.example", ())


@pytest.mark.parametrize(
    "names",
    [
        [b""],
        [b"."],
        [b".a"],
        [b"a b"],
        [b"a\x00.example"],
        [b"\xc3\xa9.example"],
        [b"a/b"],
        [b"::1"],
        [b"a" * 255],
        [b"a.example", b"b.example"],
        [],
    ],
)
def test_a_server_name_that_is_not_one_host_name_is_refused(names: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        parse_client_hello(records(hello_message(server_name(*names))))


def test_a_name_of_another_kind_alone_is_no_host_name() -> None:
    with pytest.raises(ProtocolError):
        parse_client_hello(records(hello_message(server_name(b"a.example", kind=1))))


def test_the_same_extension_twice_is_refused() -> None:
    with pytest.raises(ProtocolError):
        parse_client_hello(records(hello_message(server_name(b"a.example"), server_name(b"b.example"))))


@pytest.mark.parametrize(
    "message",
    [
        hello_message(extension(0, b"")),
        hello_message(extension(0, b"\x00\x09\x00\x00\x06a.exam" + b"x")),
        hello_message(extension(0, vector(2, b"\x00\x00\x20a"))),
        hello_message(extension(16, b"")),
        hello_message(extension(16, vector(2, b""))),
        hello_message(extension(16, vector(2, b"\x00"))),
        hello_message(extension(16, vector(2, b"\x05a"))),
        hello_message(extension(16, vector(2, b"\x01a") + b"x")),
        hello_message(b"\x00\x00\xff\xff"),
        hello_message(b"\x00"),
        hello_message(body_end=b"x"),
        b"\x01" + vector(3, b"\x03\x03" + bytes(10)),
        b"\x01" + vector(3, b"\x03\x03" + bytes(32) + b"\xff"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(message: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_client_hello(records(message))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x80\x2e\x01\x03\x01",  # SSLv2
        b"\x15\x03\x01\x00\x02\x01\x00",  # an alert
        b"\x17\x03\x03\x00\x02ab",  # application data
        b"\x16\x02",
        b"\x16\x03\x01\x00\x00",  # an empty record
        b"\x16\x03\x01\x40\x01",  # a record over 2**14
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",  # a server hello
        b"\x16\x03\x01\x00\x04\x01\x00\x40\x01",  # a hello over the limit
        b"\x16\x03\x01\x00\x01\x01\x17\x03\x03\x00\x01a",  # other data between its pieces
    ],
)
def test_what_cannot_become_a_hello_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_client_hello(data)


def test_a_hello_is_bounded_in_bytes_and_in_records() -> None:
    padding = extension(21, bytes(MAX_CLIENT_HELLO - 60))
    assert parse_client_hello(records(hello_message(padding))) == ClientHello(None, ())
    with pytest.raises(ProtocolError):
        parse_client_hello(records(hello_message(extension(21, bytes(MAX_CLIENT_HELLO)))))
    with pytest.raises(ProtocolError):
        parse_client_hello(records(hello_message(extension(21, bytes(MAX_HELLO_RECORDS))), 1))


V4: tuple[Address, Address] = (("192.0.2.7", 50123), ("198.51.100.1", 443))
V6: tuple[Address, Address] = (("2001:db8::7", 50123), ("2001:db8::1", 443))


def test_version_1_is_written_as_its_document_says() -> None:
    assert serialize_proxy_v1(*V4) == b"PROXY TCP4 192.0.2.7 198.51.100.1 50123 443\r\n"
    assert serialize_proxy_v1(*V6) == b"PROXY TCP6 2001:db8::7 2001:db8::1 50123 443\r\n"
    assert serialize_proxy_v1(None, V4[1]) == b"PROXY UNKNOWN\r\n"


def test_version_2_is_written_as_its_document_says() -> None:
    signature = bytes.fromhex("0d0a0d0a000d0a515549540a")
    assert serialize_proxy_v2(*V4) == signature + bytes.fromhex("21 11 000c c0000207 c6336401 c3cb 01bb")
    assert serialize_proxy_v2(*V6)[12:16] == bytes.fromhex("21 21 0024")
    assert serialize_proxy_v2(V4[0], None) == signature + bytes.fromhex("20 00 0000")


def test_addresses_of_two_families_are_written_as_ipv6() -> None:
    header = serialize_proxy_v1(("192.0.2.7", 1), ("2001:db8::1%eth0", 2))
    assert header == b"PROXY TCP6 ::ffff:c000:207 2001:db8::1 1 2\r\n"
    assert (
        parse_proxy(serialize_proxy_v2(("192.0.2.7", 1), ("::1", 2)))[0]
        == parse_proxy(serialize_proxy_v1(("192.0.2.7", 1), ("::1", 2)))[0]
    )


def test_a_header_is_read_and_its_size_told() -> None:
    for header in (serialize_proxy_v1(*V4), serialize_proxy_v2(*V4)):
        assert parse_proxy(header + b"\x16\x03") == (ProxyHeader(*V4), len(header))


def test_a_proxy_that_speaks_for_itself_names_nobody() -> None:
    nobody = ProxyHeader(None, None)
    for header in (
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff:f...f ffff:f...f 65535 65535\r\n",
        serialize_proxy_v2(None, None),
        _v2(0x20, 0x11, bytes(12)),  # LOCAL with addresses, to be ignored
        _v2(0x21, 0x00, b"abc"),  # UNSPEC
        _v2(0x21, 0x31, bytes(216)),  # UNIX
    ):
        assert parse_proxy(header) == (nobody, len(header))


def _v2(command: int, family: int, rest: bytes) -> bytes:
    return bytes.fromhex("0d0a0d0a000d0a515549540a") + bytes([command, family]) + vector(2, rest)


def test_further_information_of_version_2_is_skipped() -> None:
    plain = serialize_proxy_v2(*V4)
    header = _v2(0x21, 0x11, plain[16:] + b"\x04\x00\x02ab")
    assert parse_proxy(header + b"rest") == (ProxyHeader(*V4), len(header))


@pytest.mark.parametrize("header", [serialize_proxy_v1(*V6), serialize_proxy_v2(*V6)])
def test_every_beginning_of_a_header_waits_for_the_rest(header: bytes) -> None:
    for end in range(len(header)):
        assert may_be_proxy(header[:end])
        assert parse_proxy(header[:end]) == (None, 0)


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4\r\n",
        b"PROXY TCP5 192.0.2.7 192.0.2.8 1 2\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n",
        b"PROXY TCP6 192.0.2.7 192.0.2.8 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.8 1\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2 3\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.8 01 2\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.8 +1 2\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.8 65536 2\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.8 \xd9\xa5 2\r\n",
        b"PROXY TCP4 192.0.2.07 192.0.2.8 1 2\r\n",
        b"PROXY TCP4 192.0.2.256 192.0.2.8 1 2\r\n",
        b"PROXY TCP4  192.0.2.7 192.0.2.8 1 2\r\n",
        b"PROXY TCP4 192.0.2.7\n192.0.2.8 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        b"proxy TCP4 192.0.2.7 192.0.2.8 1 2\r\n",
        b"PROXY UNKNOWN" + b"x" * PROXY_V1_MAX + b"\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\n" + b"x" * PROXY_V1_MAX,
    ],
)
def test_a_malformed_line_of_version_1_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_proxy(line)


@pytest.mark.parametrize(
    "header",
    [
        _v2(0x11, 0x11, bytes(12)),  # version 1
        _v2(0x22, 0x11, bytes(12)),  # an unknown command
        _v2(0x21, 0x12, bytes(12)),  # UDP
        _v2(0x21, 0x41, bytes(12)),  # an unknown family
        _v2(0x21, 0x11, bytes(11)),
        _v2(0x21, 0x21, bytes(35)),
        _v2(0x21, 0x11, bytes(PROXY_V2_MAX - 15)),
        _v2(0x21, 0x11, bytes(PROXY_V2_MAX - 15))[:16],  # judged by its length alone
    ],
)
def test_a_malformed_header_of_version_2_is_refused(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_proxy(header)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1", b"\x16\x03\x01", b"PROPFIND", b"\r\n\r\nGET"])
def test_what_is_no_proxy_header_is_known_early(data: bytes) -> None:
    assert not may_be_proxy(data)
    with pytest.raises(ProtocolError):
        parse_proxy(data)
