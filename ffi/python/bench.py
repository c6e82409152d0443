"""What a span costs in Python: ours, OpenTelemetry's, and a context variable alone, in one process.

    target/python-venv/bin/python ffi/python/bench.py [ROUNDS]

Rounds are interleaved, each has fresh loops of each kind, the medians are shown. Needs opentelemetry-sdk beside spanring.
"""
import contextvars
import statistics
import sys
import tempfile
import time

import spanring
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 31


class Nowhere(SpanExporter):
    def export(self, spans):
        return SpanExportResult.SUCCESS

    def shutdown(self):
        pass


provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(Nowhere()))
tracer = provider.get_tracer("bench")
variable = contextvars.ContextVar("bench")


class Variable:
    """The least that any span has to do."""

    __slots__ = ("token",)

    def __enter__(self):
        self.token = variable.set(self)

    def __exit__(self, *_):
        variable.reset(self.token)


def empty(count):
    for _ in range(count):
        pass


def only_variable(count):
    for _ in range(count):
        with Variable():
            pass


def ours_bare(count):
    for _ in range(count):
        with spanring.span("db.query"):
            pass


def ours_four(count):
    for _ in range(count):
        with spanring.span("db.query", system="postgresql", rows=7, cached=True, cost=1.5):
            pass


def ours_child(count):
    with spanring.span("parent"):
        for _ in range(count):
            with spanring.span("db.query"):
                pass


def theirs_bare(count):
    for _ in range(count):
        with tracer.start_as_current_span("db.query"):
            pass


def theirs_four(count):
    for _ in range(count):
        with tracer.start_as_current_span(
            "db.query", attributes={"system": "postgresql", "rows": 7, "cached": True, "cost": 1.5}
        ):
            pass


CASES = {
    "a loop alone": (empty, 2000),
    "a context variable alone": (only_variable, 2000),
    "spanring, bare": (ours_bare, 2000),
    "spanring, bare, a child": (ours_child, 2000),
    "spanring, 4 attributes": (ours_four, 2000),
    "opentelemetry, bare": (theirs_bare, 2000),
    "opentelemetry, 4 attributes": (theirs_four, 2000),
}


def main():
    with tempfile.TemporaryDirectory() as place:
        spanring.start(dir=place, max_spans=1_000_000, max_bytes="1GiB", log_level="error")
        found = {name: [] for name in CASES}
        for round in range(ROUNDS + 1):
            for name, (loop, count) in CASES.items():
                begin = time.perf_counter_ns()
                loop(count)
                took = (time.perf_counter_ns() - begin) / count
                # What follows is not to pay for what went before.
                spanring.flush(30)
                if round > 0:
                    found[name].append(took)
        ns = {name: statistics.median(times) for name, times in found.items()}
        stats = spanring.stats()
        spanring.shutdown(30)
    print(f"Python {sys.version.split()[0]}, {ROUNDS} rounds, medians; {stats['created']} spans, "
          f"{sum(stats['dropped'].values())} dropped")
    for name, value in ns.items():
        print(f"{name:30} {value:8.0f} ns")
    for case in ("bare", "4 attributes"):
        print(f"{case}: opentelemetry / spanring = {ns['opentelemetry, ' + case] / ns['spanring, ' + case]:.1f}")
    print(f"bare: spanring / a context variable alone = "
          f"{ns['spanring, bare'] / ns['a context variable alone']:.2f}")


main()
