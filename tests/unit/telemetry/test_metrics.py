from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from moongate.telemetry import Metrics


def samples(metrics: Metrics) -> dict[str, float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        sample.name + "".join(f"[{value}]" for value in sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_answers_are_counted_by_class_and_duration() -> None:
    metrics = Metrics()
    metrics.answered(204, 0.0005)
    metrics.answered(302, 0.03)
    metrics.answered(599, 100.0)
    metrics.answered(0, 1.0)
    found = samples(metrics)
    assert [found[f"moongate_http_responses_total[{name}]"] for name in ("2xx", "3xx", "4xx", "5xx", "none")] == [
        1,
        1,
        0,
        1,
        1,
    ]
    assert found["moongate_http_duration_seconds_bucket[0.001]"] == 1
    assert found["moongate_http_duration_seconds_bucket[1.0]"] == 3
    assert found["moongate_http_duration_seconds_bucket[+Inf]"] == 4
    assert found["moongate_http_duration_seconds_count"] == 4


def test_a_status_beyond_http_does_not_break_counting() -> None:
    metrics = Metrics()
    metrics.answered(999, 0.1)
    assert samples(metrics)["moongate_http_responses_total[none]"] == 1


def test_numbers_of_other_parts_are_read_when_somebody_asks() -> None:
    metrics = Metrics()
    tunnels: list[str] = []
    metrics.gauge("moongate_tunnels", "Open tunnels.", lambda: len(tunnels))
    metrics.counter("moongate_dropped_total", "Dropped records.", lambda: 7)
    tunnels.append("a")
    found = samples(metrics)
    assert (found["moongate_tunnels"], found["moongate_dropped_total"]) == (1, 7)


def test_a_collector_of_several_samples_can_be_registered() -> None:
    class Links:
        def collect(self) -> Iterable[Metric]:
            family = GaugeMetricFamily("moongate_links", "Live links.", labels=["kind"])
            family.add_metric(["shared"], 2)
            family.add_metric(["lane"], 1)
            yield family

    metrics = Metrics()
    metrics.register(Links())
    found = samples(metrics)
    assert (found["moongate_links[shared]"], found["moongate_links[lane]"]) == (2, 1)


def test_two_nodes_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.auth_failures += 1
    assert samples(one)["moongate_auth_failures_total"] == 1
    assert samples(other)["moongate_auth_failures_total"] == 0
