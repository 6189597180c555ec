"""Metrics for Prometheus. With several worker processes, the numbers are sums over all of them."""

import os
from pathlib import Path

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
    """The metrics of one app.

    The label `door` is the endpoint that took the audio: predict, timeline, voices, audio, jobs or stream.
    """

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.requests = Counter(
            "emodistill_requests", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self.latency_s = Histogram(
            "emodistill_request_seconds",
            "Seconds from the first byte of a request to the last byte of its response.",
            ["route"], buckets=_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.in_flight = Gauge(
            "emodistill_requests_in_flight", "Requests that the server is receiving or answering.",
            registry=registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self.streams = Gauge(
            "emodistill_streams_open", "WebSocket streams that are open.",
            registry=registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self.closed_streams = Counter(
            "emodistill_streams", "Streams that have ended, by close code.", ["code"], registry=registry
        )
        self.audio_s = Counter(
            "emodistill_audio_seconds", "Seconds of audio processed.", ["door"], registry=registry
        )
        self.files = Counter(
            "emodistill_files", "Files processed, by outcome.", ["door", "outcome"], registry=registry
        )
        self.jobs = Counter(
            "emodistill_jobs", "Jobs that have ended, by outcome.", ["outcome"], registry=registry
        )
        self.waiting_s = Histogram(
            "emodistill_wait_seconds", "Seconds of waiting for a free thread.",
            buckets=_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self._registry = registry
        self._multiprocess = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        if self._multiprocess:
            self.closed_streams.labels("1000")  # so that the file of each kind of metric is there
            _reserve_files(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
        else:
            ProcessCollector(registry=registry)

    def text(self) -> bytes:
        """The present values in Prometheus' text format."""
        if not self._multiprocess:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        return generate_latest(registry)


def _reserve_files(folder: Path) -> None:
    """Reserve the space of this process's files in a folder. Raises `OSError` if there is none.

    prometheus-client writes to them as memory. The system would kill the process where the disk is full.
    """
    for path in folder.glob(f"*_{os.getpid()}.db") if hasattr(os, "posix_fallocate") else ():
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
