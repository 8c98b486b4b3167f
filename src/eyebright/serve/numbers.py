"""Figures for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

PATHS = frozenset(("/", "/predict", "/explain", "/model", "/healthz", "/readyz", "/metrics"))
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Numbers:
    """What is counted while serving."""

    kind = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "eyebright_requests", "Requests answered.", ("path", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "eyebright_request_seconds",
            "From the last header to the whole answer, of requests that were not refused.",
            ("path",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.pictures = Counter(
            "eyebright_pictures", "Pictures judged.", ("outcome",), registry=self.registry
        )

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """A figure that is asked for whenever somebody looks."""
        Gauge(name, what, registry=self.registry).set_function(value)

    def count(self, path: str, status: int, seconds: float | None = None) -> None:
        """A request was answered; of paths that there are not, one name is enough."""
        path = path if path in PATHS else "other"
        self.requests.labels(path, str(status)).inc()
        if seconds is not None:
            self.seconds.labels(path).observe(seconds)

    def count_pictures(self, unreadable: int, n: int) -> None:
        """So many of n pictures could not be read, the others were predicted."""
        self.pictures.labels("predicted").inc(n - unreadable)
        self.pictures.labels("unreadable").inc(unreadable)

    def text(self) -> bytes:
        """All of it, in Prometheus's words."""
        return generate_latest(self.registry)
