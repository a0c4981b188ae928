"""What Prometheus reads at ``/metrics``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: a client may send any word as a method; a label has few values
METHODS = frozenset(("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"))
#: seconds, from a product with a small catalogue to the default timeout
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counters of one server, in a registry of its own, so that several in a process do not meet."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        self._requests = Counter(
            "recbole_mambarec_requests", "Answered requests.", ("method", "route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "recbole_mambarec_request_seconds",
            "Seconds from a request's headers to the end of its answer.",
            ("route",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self.in_progress = Gauge(
            "recbole_mambarec_requests_in_progress", "Requests not yet answered.", registry=registry
        )
        self._swaps = Counter(
            "recbole_mambarec_bundle_swaps", "New bundles, by what became of them.", ("outcome",), registry=registry
        )
        for outcome in ("swapped", "refused"):
            self._swaps.labels(outcome)
        self._bundle = {
            name: Gauge(f"recbole_mambarec_bundle_{name}", text, registry=registry)
            for name, text in (
                ("users", "Users of the bundle that is served."),
                ("items", "Items of the bundle that is served."),
                ("loaded_timestamp_seconds", "When it was loaded, in seconds since 1970."),
            )
        }

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            route: its pattern, such as ``/recommend/{user}``, or another of a few words: each value is a time series.
        """
        self._requests.labels(method if method in METHODS else "other", route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def swapped(self, outcome: str) -> None:
        """Count a new bundle that is served (``swapped``) or was broken (``refused``)."""
        self._swaps.labels(outcome).inc()

    def serving(self, users: int, items: int, loaded: float) -> None:
        """Say what is served."""
        for name, value in (("users", users), ("items", items), ("loaded_timestamp_seconds", loaded)):
            self._bundle[name].set(value)

    def text(self) -> bytes:
        """All of them in Prometheus's text format 0.0.4."""
        return generate_latest(self._registry)
