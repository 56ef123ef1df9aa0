import functools

from hypothesis import given, settings
from hypothesis import strategies as st

from moongate.errors import ProtocolError
from moongate.wire.hello import (
    MAX_HELLO_RECORDS,
    Address,
    ClientHello,
    ProxyHeader,
    parse_client_hello,
    parse_proxy,
    serialize_proxy_v1,
    serialize_proxy_v2,
)
from testbed.hellos import extension, hello_message, openssl_hello, records, server_name, vector

NAMES = st.lists(
    st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12).filter(lambda label: label.strip("-")),
    min_size=1,
    max_size=4,
).map(".".join)
PROTOCOLS = st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=4)


def hand_made(name: str, protocols: list[bytes]) -> bytes:
    alpn = extension(16, vector(2, b"".join(vector(1, protocol) for protocol in protocols)))
    return hello_message(extension(0x0A0A, b""), alpn, server_name(name.encode()))


@given(NAMES, PROTOCOLS, st.integers(10, 400))
def test_a_hello_is_read_however_records_cut_it(name: str, protocols: list[bytes], size: int) -> None:
    message = hand_made(name, protocols)
    size = max(size, len(message) // MAX_HELLO_RECORDS + 1)
    expected = ClientHello(name, tuple(protocol.decode("latin-1") for protocol in protocols))
    assert parse_client_hello(records(message, size)) == expected


@given(NAMES, st.integers(20, 300), st.data())
def test_no_part_of_a_hello_is_taken_for_the_whole(name: str, size: int, data: st.DataObject) -> None:
    hello = records(hand_made(name, [b"http/1.1"]), size)
    assert parse_client_hello(hello[: data.draw(st.integers(0, len(hello) - 1))]) is None


@settings(max_examples=300)
@given(st.data())
def test_a_wounded_hello_is_read_or_refused(data: st.DataObject) -> None:
    hello = _real_hello()
    at = data.draw(st.integers(0, len(hello) - 1))
    wounded = hello[:at] + data.draw(st.binary(max_size=3)) + hello[at + data.draw(st.integers(0, 3)) :]
    try:
        found = parse_client_hello(wounded)
    except ProtocolError:
        return
    if found is not None and found.server_name is not None:
        assert found.server_name.isascii()
        assert found.server_name.isprintable()


@functools.cache
def _real_hello() -> bytes:
    return openssl_hello("app.example", ["http/1.1", "h2"])


@settings(max_examples=200)
@given(st.binary(max_size=80).map(lambda rest: b"\x16\x03\x01" + rest) | st.binary(max_size=80))
def test_any_bytes_are_a_hello_or_the_beginning_of_one_or_refused(raw: bytes) -> None:
    try:
        found = parse_client_hello(raw)
    except ProtocolError:
        return
    assert found is None or isinstance(found, ClientHello)


PORTS = st.integers(0, 65535)
V4 = st.tuples(st.ip_addresses(v=4).map(str), PORTS)
V6 = st.tuples(st.ip_addresses(v=6).map(str), PORTS)


@given(st.one_of(st.tuples(V4, V4), st.tuples(V6, V6)), st.sampled_from([1, 2]), st.binary(max_size=8))
def test_addresses_survive_a_proxy_header(pair: tuple[Address, Address], version: int, rest: bytes) -> None:
    header = (serialize_proxy_v1 if version == 1 else serialize_proxy_v2)(*pair)
    assert parse_proxy(header + rest) == (ProxyHeader(*pair), len(header))


@given(st.one_of(st.tuples(V4, V4), st.tuples(V6, V6)), st.sampled_from([1, 2]), st.data())
def test_no_part_of_a_proxy_header_is_taken_for_the_whole(
    pair: tuple[Address, Address], version: int, data: st.DataObject
) -> None:
    header = (serialize_proxy_v1 if version == 1 else serialize_proxy_v2)(*pair)
    assert parse_proxy(header[: data.draw(st.integers(0, len(header) - 1))]) == (None, 0)


BEGINNINGS: st.SearchStrategy[bytes] = st.sampled_from(
    [b"", b"PROXY ", b"PROXY TCP4 1.1.1.1 ", b"\r\n\r\n\x00\r\nQUIT\n", b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"]
)


@settings(max_examples=200)
@given(BEGINNINGS, st.binary(max_size=60))
def test_any_bytes_are_a_proxy_header_or_the_beginning_of_one_or_refused(beginning: bytes, rest: bytes) -> None:
    raw = beginning + rest
    try:
        header, consumed = parse_proxy(raw)
    except ProtocolError:
        return
    assert 0 <= consumed <= len(raw)
    assert (header is None) == (consumed == 0)
