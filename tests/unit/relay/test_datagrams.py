import pytest

from moongate.relay import datagrams
from moongate.relay.datagrams import DatagramPort, Source


class Heard:
    """A session that remembers."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.data: list[bytes] = []
        self.reason = ""

    def received(self, data: bytes) -> None:
        self.data.append(data)

    def end(self, reason: str) -> None:
        self.reason = reason


ONE, TWO = ("192.0.2.1", 5), ("192.0.2.1", 6)


def port_with(begun: list[Heard], *, refuses: Source | None = None) -> DatagramPort:
    def begin(port: DatagramPort, source: Source) -> Heard | None:
        if source == refuses:
            return None
        begun.append(Heard(source))
        return begun[-1]

    return DatagramPort(begin)


def test_each_source_has_one_session() -> None:
    begun: list[Heard] = []
    port = port_with(begun)
    for data, source in ((b"a", ONE), (b"b", TWO), (b"c", ONE)):
        port.datagram_received(data, source)
    assert [(heard.source, heard.data) for heard in begun] == [(ONE, [b"a", b"c"]), (TWO, [b"b"])]


def test_a_source_that_nobody_wants_is_asked_about_again() -> None:
    begun: list[Heard] = []
    port = port_with(begun, refuses=ONE)
    port.datagram_received(b"a", ONE)
    assert not port.sessions
    assert not begun


def test_a_source_that_was_forgotten_begins_anew() -> None:
    begun: list[Heard] = []
    port = port_with(begun)
    port.datagram_received(b"a", ONE)
    port.forget(ONE)
    port.forget(ONE)
    port.datagram_received(b"b", ONE)
    assert [heard.data for heard in begun] == [[b"a"], [b"b"]]


def test_a_full_port_takes_no_new_source_and_serves_the_old_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "MAX_SESSIONS", 1)
    begun: list[Heard] = []
    port = port_with(begun)
    for data, source in ((b"a", ONE), (b"b", TWO), (b"c", ONE)):
        port.datagram_received(data, source)
    assert [heard.data for heard in begun] == [[b"a", b"c"]]


def test_closing_ends_every_session_with_the_reason() -> None:
    begun: list[Heard] = []
    port = port_with(begun)
    port.datagram_received(b"a", ONE)
    port.close("tunnel closed")
    port.send(b"late", ONE)
    assert begun[0].reason == "tunnel closed"
    assert not port.sessions
