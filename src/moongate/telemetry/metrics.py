"""Counts of one process, in a Prometheus registry of its own.

The data path adds to plain numbers here; they become samples only when somebody asks.
Other parts hand in their own numbers with `gauge`, `counter` and `register`.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

__all__ = ["LATENCY_BOUNDS_S", "Metrics"]

LATENCY_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Collector(Protocol):
    """Whatever can say its numbers when asked."""

    def collect(self) -> Iterable[Metric]:
        """Return the samples of this moment."""


class Metrics:
    """The counts every part adds to; each is a plain number, so that adding costs nothing."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        # By the first digit of the status; 0 is an exchange that got no answer.
        self.responses = [0] * 6
        self.own_answers: dict[int, int] = {}
        self.latency = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self.latency_sum_s = 0.0
        self.bytes_in = 0
        self.bytes_out = 0
        self.connections = 0
        self.auth_failures = 0
        self.shut_out = 0
        self.datagrams_dropped = 0
        self.superseded = 0
        self.loop_stalls = 0
        self.register(self)

    def answered(self, status: int, duration_s: float) -> None:
        """Count one HTTP exchange; status 0 if it got no answer."""
        self.responses[status // 100 if status < 600 else 0] += 1
        self.latency[bisect_left(LATENCY_BOUNDS_S, duration_s)] += 1
        self.latency_sum_s += duration_s

    def answered_here(self, status: int) -> None:
        """Count one answer that the edge gave instead of an upstream."""
        self.own_answers[status] = self.own_answers.get(status, 0) + 1

    def register(self, collector: Collector) -> None:
        """Add numbers that another part keeps itself."""
        self.registry.register(collector)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add one number that goes up and down, read when somebody asks."""
        self.register(_Reader(lambda: GaugeMetricFamily(name, text, value=read())))

    def counter(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add one number that only grows; its name ends in `_total`."""
        self.register(_Reader(lambda: CounterMetricFamily(name, text, value=read())))

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Return the samples of this moment."""
        yield self._responses()
        yield self._latency()
        yield self._own_answers()
        for name, text, value in (
            ("moongate_visitor_bytes_in_total", "Bytes from visitors to upstreams.", self.bytes_in),
            ("moongate_visitor_bytes_out_total", "Bytes from upstreams to visitors.", self.bytes_out),
            ("moongate_visitor_connections_total", "Connections of visitors.", self.connections),
            ("moongate_firewall_drops_total", "Visitors that a tunnel's firewall dropped.", self.shut_out),
            ("moongate_datagrams_dropped_total", "Datagrams that there was no room for.", self.datagrams_dropped),
            ("moongate_auth_failures_total", "Credentials that were refused.", self.auth_failures),
            ("moongate_superseded_total", "Names taken over by a newer agent.", self.superseded),
            ("moongate_loop_stalls_total", "Stalls of the event loop beyond 250 ms.", self.loop_stalls),
        ):
            yield CounterMetricFamily(name, text, value=value)

    def _responses(self) -> Metric:
        family = CounterMetricFamily("moongate_http_responses_total", "Answers to visitors.", labels=["status"])
        for digit, count in enumerate(self.responses):
            family.add_metric([f"{digit}xx" if digit else "none"], count)
        return family

    def _own_answers(self) -> Metric:
        family = CounterMetricFamily("moongate_edge_answers_total", "The edge's own answers.", labels=["status"])
        for status, count in sorted(self.own_answers.items()):
            family.add_metric([str(status)], count)
        return family

    def _latency(self) -> Metric:
        family = HistogramMetricFamily("moongate_http_duration_seconds", "From request head to the answer's end.")
        buckets, total = [], 0
        for bound, count in zip((*map(str, LATENCY_BOUNDS_S), "+Inf"), self.latency, strict=True):
            total += count
            buckets.append((bound, float(total)))
        family.add_metric([], buckets, self.latency_sum_s)
        return family


class _Reader:
    """A collector that asks one function."""

    def __init__(self, read: Callable[[], Metric]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        return [self._read()]
