"""What a span costs in Python: ours, OpenTelemetry's, and a context variable alone, in one process.

    python ffi/python/bench.py [--json] [ROUNDS]

Rounds are interleaved, each has fresh loops of each kind, the medians are shown. OpenTelemetry has its batch processor with all defaults and
an exporter that only counts; its thread runs as it does for users. A loop's spans fit into its queue, and after each loop, which is not
timed, both flush and the garbage is collected. Needs opentelemetry-sdk beside spanring, a C compiler and Python's headers.
"""
import contextvars
import ctypes
import gc
import itertools
import json
import pathlib
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time

import opentelemetry.sdk.version
import spanring
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

FIRST = 100  # spans before each loop that are not timed: whoever must be woken is
LOOP = 1900  # with them, what OpenTelemetry's queue holds
COUNTED = 1000  # spans whose objects are counted


class Counts(SpanExporter):
    exported = 0

    def export(self, spans):
        self.exported += len(spans)
        return SpanExportResult.SUCCESS

    def shutdown(self):
        pass


class Variable:
    """The least that a span has to do."""

    __slots__ = ("token",)

    def __enter__(self):
        self.token = variable.set(self)

    def __exit__(self, *_):
        variable.reset(self.token)


exporter = Counts()
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(exporter))
tracer = provider.get_tracer("bench")
variable = contextvars.ContextVar("bench")
only_variable = Variable()


def empty(count):
    for _ in itertools.repeat(None, count):
        pass


def variable_alone(count):
    for _ in itertools.repeat(None, count):
        with only_variable:
            pass


def ours_bare(count):
    for _ in itertools.repeat(None, count):
        with spanring.span("db.query"):
            pass


def ours_four(count):
    for _ in itertools.repeat(None, count):
        with spanring.span("db.query", system="postgresql", rows=7, cached=True, cost=1.5):
            pass


def ours_child(count):
    with spanring.span("parent"):
        ours_bare(count)


def theirs_bare(count):
    for _ in itertools.repeat(None, count):
        with tracer.start_as_current_span("db.query"):
            pass


def theirs_four(count):
    for _ in itertools.repeat(None, count):
        with tracer.start_as_current_span(
            "db.query", attributes={"system": "postgresql", "rows": 7, "cached": True, "cost": 1.5}
        ):
            pass


CASES = {
    "a loop": empty,
    "a context variable": variable_alone,
    "spanring, bare": ours_bare,
    "spanring, a child": ours_child,
    "spanring, 4 attributes": ours_four,
    "opentelemetry, bare": theirs_bare,
    "opentelemetry, 4 attributes": theirs_four,
}


def set_and_reset(count):
    for _ in itertools.repeat(None, count):
        variable.reset(variable.set(only_variable))


kept = []


def kept_four(count):
    for _ in itertools.repeat(None, count):
        with spanring.span("db.query", system="postgresql", rows=7, cached=True, cost=1.5) as span:
            kept.append(span)


def objects(place):
    """Python objects a span for which memory is allocated, beside those that a context variable's set and reset allocate: of spans that are
    kept, and of such as end with their block, whose memory is used again. What is counted are calls of Python's allocator of objects."""
    library = pathlib.Path(place, "allocations.so")
    source = pathlib.Path(__file__).with_name("allocations.c")
    include = sysconfig.get_paths()["include"]
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", f"-I{include}", str(source), "-o", str(library)], check=True)
    counter = ctypes.PyDLL(str(library))
    counter.allocations_end.restype = ctypes.c_ssize_t

    def count(loop):
        loop(FIRST)
        counter.allocations_begin()
        loop(COUNTED)
        return counter.allocations_end()

    variables = count(set_and_reset)
    used_again = count(ours_four) - variables
    kept.extend(spanring.span("held") for _ in range(COUNTED))  # no memory of earlier spans is left
    new = count(kept_four) - variables
    kept.clear()
    return new / COUNTED, used_again / COUNTED


def measure(rounds):
    found = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as place:
        spanring.start(dir=place, ignore_environment=True)
        for round in range(rounds + 1):
            for name, loop in CASES.items():
                loop(FIRST)
                begin = time.perf_counter_ns()
                loop(LOOP)
                took = (time.perf_counter_ns() - begin) / LOOP
                # What follows is not to pay for what went before.
                spanring.flush(30)
                provider.force_flush()
                gc.collect()
                if round > 0:
                    found[name].append(took)
        new, used_again = objects(place)
        spanring.flush(30)
        dropped = sum(spanring.stats()["dropped"].values())
        spanring.shutdown(30)
    provider.shutdown()
    if dropped:
        sys.exit(f"spanring dropped {dropped} spans: a benchmark that drops measures nothing")
    ns = {name: statistics.median(times) for name, times in found.items()}
    numbers = {f"{name} ns": value for name, value in ns.items()}
    for case in ("bare", "4 attributes"):
        numbers[f"opentelemetry, {case}, times spanring"] = ns[f"opentelemetry, {case}"] / ns[f"spanring, {case}"]
    numbers["spanring, bare, times a context variable"] = ns["spanring, bare"] / ns["a context variable"]
    numbers["opentelemetry dropped"] = 2 * (rounds + 1) * (FIRST + LOOP) - exporter.exported
    numbers["objects a span, kept"] = new
    numbers["objects a span, used again"] = used_again
    numbers["Python 3."] = sys.version_info.minor
    numbers["OpenTelemetry 1."] = int(opentelemetry.sdk.version.__version__.split(".")[1])
    return numbers


def main():
    arguments = sys.argv[1:]
    as_json = "--json" in arguments
    if as_json:
        arguments.remove("--json")
    numbers = measure(int(arguments[0]) if arguments else 31)
    if as_json:
        print(json.dumps(numbers))
        return
    for name, value in numbers.items():
        print(f"{name:44} {value:10.1f}")


main()
