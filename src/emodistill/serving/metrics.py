"""What Prometheus is told. With several workers the numbers are those of all of them."""

import os

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)
from prometheus_client.process_collector import ProcessCollector

CONTENT_TYPE = CONTENT_TYPE_LATEST
_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one app."""

    def __init__(self) -> None:
        own = CollectorRegistry()
        self.requests = Counter(
            "emodistill_requests", "Requests answered.", ["method", "route", "status"], registry=own
        )
        self.latency_s = Histogram(
            "emodistill_request_seconds", "From the first byte of a request to the last of its response.",
            ["route"], buckets=_BUCKETS_S, registry=own,
        )  # fmt: skip
        self.in_flight = Gauge(
            "emodistill_requests_in_flight", "Requests being received or answered.",
            registry=own, multiprocess_mode="livesum",
        )  # fmt: skip
        self.streams = Gauge(
            "emodistill_streams_open", "WebSocket streams.", registry=own, multiprocess_mode="livesum"
        )
        self.closed = Counter(
            "emodistill_streams", "Streams that have ended, by close code.", ["code"], registry=own
        )
        self.audio_s = Counter(
            "emodistill_audio_seconds", "Audio judged.", ["door"], registry=own
        )  # predict, timeline, stream
        self.files = Counter(
            "emodistill_files", "Files judged, by what became of them.", ["door", "outcome"], registry=own
        )
        self.waiting_s = Histogram(
            "emodistill_wait_seconds", "Waiting for a free thread.", buckets=_BUCKETS_S, registry=own
        )
        self._registry = own
        self._several = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        if not self._several:
            ProcessCollector(registry=own)

    def text(self) -> bytes:
        """The exposition format, as of now."""
        if not self._several:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        return generate_latest(registry)
