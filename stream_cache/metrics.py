"""Every metric: its name, type and unit. `GET /metrics` prints them in Prometheus text.

A registry of its own: nothing of Faust's or of the process gets in, so every name begins with ``stream_cache_``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_cache.pipeline.sink import PutResult
    from stream_cache.readings.decode import DecodedChunk


class Metrics:
    """The metrics of one worker."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series; a switch of the process
        self.registry = CollectorRegistry()
        registry = self.registry
        #: reading: takes part in the order; no_metadata: changes nothing; tombstone; bad: published to iot_errors.
        self._records = Counter(
            "stream_cache_records", "Records taken from Kafka, by result", ["result"], registry=registry
        )
        #: written; stale: Redis had something newer; expired: older than the TTL; refused: the key is not ours.
        self._devices = Counter(
            "stream_cache_devices", "Devices flushed to Redis, by result", ["result"], registry=registry
        )
        #: ok, or failed: tried again.
        self._flushes = Counter("stream_cache_flushes", "Flushes tried, by result", ["result"], registry=registry)
        self._flush_seconds = Histogram(
            "stream_cache_flush_seconds",
            "Seconds that a flush took that succeeded",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
            registry=registry,
        )
        #: bad_record: found one; error_topic: it refused one, tried again; redis: a flush or lookup failed.
        self._errors = Counter("stream_cache_errors", "Errors, by kind", ["kind"], registry=registry)
        self._pruned = Counter("stream_cache_pruned_devices", "Ids taken out of the index", registry=registry)
        for counter, labels in (
            (self._records, ("reading", "no_metadata", "tombstone", "bad")),
            (self._devices, ("written", "stale", "expired", "refused")),
            (self._flushes, ("ok", "failed")),
            (self._errors, ("bad_record", "error_topic", "redis")),
        ):
            for label in labels:  # a series that exists from the start can be alerted on
                counter.labels(label)

    def watch(
        self, *, lag: Callable[[], float], window_devices: Callable[[], float], unacked: Callable[[], float]
    ) -> None:
        """Say where the gauges are read from, when they are asked for."""
        for name, text, read in (
            ("lag_records", "Records of the assigned partitions that are not yet committed", lag),
            ("window_devices", "Devices that wait for the next flush", window_devices),
            ("unacked_records", "Records taken from Kafka that are not yet safe to commit", unacked),
        ):
            Gauge(f"stream_cache_{name}", text, registry=self.registry).set_function(read)

    def decoded(self, chunk: DecodedChunk) -> None:
        """Count a chunk's records."""
        self._records.labels("reading").inc(chunk.reading_count)
        self._records.labels("no_metadata").inc(chunk.without_metadata_count)
        self._records.labels("tombstone").inc(chunk.tombstone_count)
        self._records.labels("bad").inc(len(chunk.bad))
        self._errors.labels("bad_record").inc(len(chunk.bad))

    def flushed(self, seconds: float, result: PutResult) -> None:
        """Count a flush that succeeded."""
        self._flushes.labels("ok").inc()
        self._flush_seconds.observe(seconds)
        self._devices.labels("written").inc(result.written_count)
        self._devices.labels("stale").inc(result.stale_count)
        self._devices.labels("expired").inc(result.expired_count)
        self._devices.labels("refused").inc(len(result.refused))

    def flush_failed(self) -> None:
        """Count a flush that will be tried again."""
        self._flushes.labels("failed").inc()
        self._errors.labels("redis").inc()

    def lookup_failed(self) -> None:
        """Count a lookup that Redis didn't answer."""
        self._errors.labels("redis").inc()

    def publishing_failed(self) -> None:
        """Count an error record that will be sent again."""
        self._errors.labels("error_topic").inc()

    def pruned(self, count: int) -> None:
        """Count ids taken out of the index."""
        self._pruned.inc(count)

    def as_text(self) -> bytes:
        """Return all of them in Prometheus text format."""
        return generate_latest(self.registry)
