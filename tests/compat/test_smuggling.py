"""The corpus of smuggled requests through a whole node and agent, to an origin that is strict and counts."""

import socket
import threading
from collections.abc import Iterator

import h11
import pytest

from cli_bed import Gateway
from compat.smuggling import CASES, HOSTILE_ANSWERS, Answer, Case, Outcome
from testbed import until
from testbed.strict_origin import StrictOrigin

WAIT_S = 10.0
NAME = b"strict.localhost"


def special(target: bytes) -> bytes | None:
    start, _, number = target.rpartition(b"/")
    return HOSTILE_ANSWERS[int(number)].raw if start == b"/hostile" else None


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("gateway"))
    yield gateway
    assert gateway.program.end() == 0


@pytest.fixture(scope="module")
def served(gateway: Gateway) -> Iterator[StrictOrigin]:
    origin = StrictOrigin(special)
    agent = gateway.run("http", str(origin.port), "--subdomain", "strict", "--json")
    agent.wait_for("tunnel_ready")
    yield origin
    assert agent.end() == 0
    origin.close()


@pytest.fixture
def origin(served: StrictOrigin) -> StrictOrigin:
    served.seen.clear()
    served.violations.clear()
    return served


class Visit:
    """One connection of a visitor who sends what it likes, and what it was answered."""

    def __init__(self, gateway: Gateway, raw: bytes, requests: int) -> None:
        self.statuses: list[int] = []
        self.ended = False
        self.received = b""
        self._reader = self._fresh_reader()
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=WAIT_S) as self._socket:
            # At once: what the node does not read must not stop it from answering.
            sender = threading.Thread(target=self._send, args=(raw,))
            sender.start()
            try:
                self._read_answers(requests)
                if not self.ended:
                    self._socket.shutdown(socket.SHUT_WR)
                    self._read_to_end()
            finally:
                sender.join(WAIT_S)

    def _send(self, raw: bytes) -> None:
        try:
            self._socket.sendall(raw)
        except OSError:  # refused before all was sent
            return

    @staticmethod
    def _fresh_reader() -> h11.Connection:
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
        reader.send(h11.EndOfMessage())
        return reader

    def _receive(self) -> bytes:
        try:
            data = self._socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self.received += data
        self.ended = not data
        return data

    def _read_answers(self, count: int) -> None:
        while len(self.statuses) < count or not count:
            event = self._reader.next_event()
            if event is h11.NEED_DATA:
                data = self._receive()
                if not data:
                    return
                self._reader.receive_data(data)
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.EndOfMessage):
                self.statuses.append(status)
                rest, _ = self._reader.trailing_data
                self._reader = self._fresh_reader()
                self._reader.receive_data(rest) if rest else None

    def _read_to_end(self) -> None:
        while self._receive():
            pass


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_smuggler_reaches_the_origin_only_with_what_it_honestly_asked(
    case: Case, gateway: Gateway, origin: StrictOrigin
) -> None:
    visit = Visit(gateway, case.for_host(NAME), {Outcome.ONE: 1, Outcome.TWO: 2}.get(case.outcome, 0))
    assert not origin.violations
    seen = [(request.target, request.body) for request in origin.seen if request.whole]
    if case.outcome in (Outcome.REFUSED, Outcome.CUT):
        assert not seen
        assert len(origin.seen) <= (case.outcome is Outcome.CUT)
        assert visit.ended
        assert all(400 <= status < 600 for status in visit.statuses)
        assert len(visit.statuses) == 1 or case.outcome is Outcome.CUT
        return
    assert seen == list(zip(case.targets, case.bodies, strict=True))
    assert visit.statuses[: len(seen)] == [200] * len(seen)
    assert all(400 <= status < 600 for status in visit.statuses[len(seen) :])


@pytest.mark.parametrize("number", range(len(HOSTILE_ANSWERS)), ids=lambda number: HOSTILE_ANSWERS[number].name)
def test_a_hostile_origins_answer_reaches_no_visitor(number: int, gateway: Gateway, origin: StrictOrigin) -> None:
    request = b"GET /hostile/%d HTTP/1.1\r\nHost: %b\r\n\r\n" % (number, NAME)
    visit = Visit(gateway, request, 1)
    answer: Answer = HOSTILE_ANSWERS[number]
    assert visit.statuses == [502], answer.raw
    assert b"smuggled" not in visit.received
    assert len(origin.seen) == 1


def test_the_node_serves_others_all_the_while(gateway: Gateway, origin: StrictOrigin) -> None:
    visit = Visit(gateway, b"GET /after HTTP/1.1\r\nHost: %b\r\n\r\n" % NAME, 1)
    assert visit.statuses == [200]
    until(lambda: [request.target for request in origin.seen] == [b"/after"], what="the request")
