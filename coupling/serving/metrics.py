"""Metrics for Prometheus, computed when they are asked for: nothing is added to the path of a request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from coupling.serving.report import Reported, report

_COUNTERS = ("requests", "points", "batches", "failed", "expired", "compute_seconds")


class Collector:
    """The numbers of :func:`coupling.serving.report.report` as metric families."""

    def __init__(self, server: Reported) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        """All families."""
        state = report(self._server)
        waiting = ("queue_points", state["queue"]["points"])
        for name, value in (waiting, ("clients", state["clients"]), ("memory_bytes", state["memory_bytes"])):
            yield GaugeMetricFamily(f"twoscale_{name}", f"{name} of the model server", value)
        for name in _COUNTERS:
            yield _family(CounterMetricFamily, name, state["models"], lambda model, name=name: model[name])
        yield _family(GaugeMetricFamily, "version", state["models"], lambda model: model["current"])
        latency = GaugeMetricFamily("twoscale_latency_seconds", "arrival to reply", labels=("model", "quantile"))
        for model in state["models"]:
            for quantile, value in model["latency_seconds"].items():
                latency.add_metric((model["name"], quantile), value)
        yield latency


def export(server: Reported, port: int) -> None:
    """Answer Prometheus at that port of this machine's loopback, from a thread."""
    registry = CollectorRegistry()
    registry.register(Collector(server))
    start_http_server(port, addr="127.0.0.1", registry=registry)


def _family(kind: type[Any], name: str, models: list[dict[str, Any]], value: Any) -> Metric:
    family = kind(f"twoscale_{name}", f"{name} of a model", labels=("model",))
    for model in models:
        family.add_metric((model["name"],), value(model))
    assert isinstance(family, Metric)
    return family
