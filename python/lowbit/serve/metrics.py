"""What Prometheus reads, made of the models' figures when it asks."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from .served import Models

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(models: Models) -> tuple[bytes, str]:
    """The text and its content type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(models))
    return generate_latest(registry), CONTENT_TYPE


class _Collector:
    """Figures in Prometheus' families."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "lowbit_requests", "Requests for answers.", labels=["model", "protocol", "status"]
        )
        seconds = HistogramMetricFamily(
            "lowbit_request_seconds", "Seconds of answered requests, by stage.", labels=["model", "stage"]
        )
        batches = HistogramMetricFamily("lowbit_batch_rows", "Rows that a run of a model had.", labels=["model"])
        for name, figures in self._models.figures.items():
            for (protocol, status), count in [*figures.requests.items()]:
                requests.add_metric([name, protocol, status], count)
            for stage, histogram in figures.seconds.items():
                seconds.add_metric([name, stage], histogram.buckets(), histogram.sum)
            batches.add_metric([name], figures.batches.buckets(), figures.batches.sum)
        yield from (requests, seconds, batches)
        executor = self._models.executor
        yield GaugeMetricFamily("lowbit_queue_length", "Requests that wait for a model.", executor.waiting)
        yield GaugeMetricFamily("lowbit_queue_limit", "Requests that may wait.", executor.queue)
        yield GaugeMetricFamily("lowbit_running", "Calls of models that run.", executor.running)
        yield GaugeMetricFamily("lowbit_workers", "Calls of models that may run at once.", executor.workers)
        yield GaugeMetricFamily("lowbit_ready", "Whether requests are welcome.", float(self._models.ready))
        yield GaugeMetricFamily("lowbit_models", "Models that are served.", len(self._models.served))
