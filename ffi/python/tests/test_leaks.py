"""Nothing is kept: references, objects, memory."""
import contextvars
import gc
import sys
import tracemalloc

import pytest

import spanring

COUNT = 100_000


class Token:
    pass


def exercise(count, value, error):
    for number in range(count):
        with spanring.span("span", it=value, number=number, text="text", items=[value, 1], lazy=lambda: value) as span:
            span.set({"a.b": value})
            span.set_attribute("key", value)
            with spanring.span("child"):
                pass
        if number % 10 == 0:
            with spanring.span(f"dynamic {number}", {f"key {number}": 1}) as span:
                span.event("event", it=value)
                span.link(span, it=value)
                span.status("error", "why")
                span.record_exception(error)
            headers = spanring.inject({}, span)
            with spanring.attach(headers), spanring.attach(span), spanring.attach(None):
                span.trace_id, span.span_id, repr(span), spanring.current_span()
            try:
                with spanring.span("fails"):
                    raise error
            except ValueError:
                error.__traceback__ = None
            for wrong in (lambda: spanring.span(7), lambda: span.set(7), lambda: spanring.span("a", {1: 2})):
                try:
                    wrong()
                except TypeError:
                    pass
            list(generator())


@spanring.trace
def generator():
    yield 1
    yield 2


def test_references_and_memory_do_not_grow(tmp_path):
    spanring.start(dir=tmp_path, ignore_environment=True, log_level="fatal", retention_bytes="1MiB", segment_max_bytes="256KiB")
    value, error = Token(), ValueError("wrong")
    exercise(5000, value, error)
    gc.collect()
    watched = [value, error, spanring.Span, spanring.Context, None, True, "text", spanring._spanring._current]
    before = [sys.getrefcount(thing) for thing in watched]
    objects = len(gc.get_objects())
    tracemalloc.start()
    exercise(1000, value, error)
    gc.collect()
    start = tracemalloc.get_traced_memory()[0]
    exercise(COUNT // 10, value, error)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - start
    tracemalloc.stop()
    exercise(COUNT, value, error)
    gc.collect()
    after = [sys.getrefcount(thing) for thing in watched]
    spanring.shutdown(30)
    assert grown < 400_000, f"{grown} bytes more"
    assert len(gc.get_objects()) - objects < 100
    # The table of texts may hold some more or less of the others.
    for thing, was, now in zip(watched, before, after):
        assert now - was < 50, f"{thing!r} was referred to {was} times, now {now}"


def test_spans_that_are_entered_and_forgotten_are_collected(pipeline):
    class Canary:
        pass

    def forget():
        # The variable's context holds the span, the span's token the context.
        span = spanring.span("forgotten")
        span.__enter__()

    gc.collect()
    for _ in range(100):
        contextvars.copy_context().run(forget)
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, spanring.Span)]
    assert len(pipeline.spans()) == 100


def test_generators_that_are_forgotten_in_a_block_are_collected(pipeline):
    variable = contextvars.ContextVar("variable")
    there = []

    class Holder:
        def __del__(self):
            there.remove(1)

    def steps(holder):
        with spanring.span("forgotten"):
            yield

    def forget():
        # The variable's context holds the generator, its frame what leaves the block, the span's token the context.
        holder = Holder()
        there.append(1)
        holder.generator = steps(holder)
        variable.set(holder)
        next(holder.generator)

    for _ in range(100):
        contextvars.copy_context().run(forget)
    gc.collect()
    assert not there
    assert len(pipeline.spans()) == 100


MANY_FORGOTTEN = """
import contextvars, gc, threading
def enter(make):
    for _ in range(100_000): make().__enter__()
def forget():
    for make in (lambda: spanring.span("forgotten"), lambda: spanring.attach(None)):
        context = contextvars.copy_context()
        context.run(enter, make)
        del context
        gc.collect()
    print("done")
threading.stack_size(1 << 19)
thread = threading.Thread(target=forget)
thread.start()
thread.join()
"""


def test_any_number_that_are_entered_and_forgotten(script):
    assert script.run(MANY_FORGOTTEN).stdout == "done\n"


ENTERED_MEANWHILE = """
import contextvars, gc
def test(make):
    failed = []
    class Late:
        def __del__(self):
            enter()
    def enter():
        try: entered.__enter__()
        except RuntimeError: failed.append(1)
    entered = make()
    gc.collect()
    gc.disable()
    late = Late()
    late.late = late
    del late
    gc.set_threshold(1)
    kept = [[] for _ in range(10)]
    gc.enable()
    enter()
    gc.disable()
    gc.collect()
    assert failed == [1], failed
    entered.__exit__(None, None, None)
    assert spanring._spanring._current.get(None) is None
for make in (lambda: spanring.span("entered"), lambda: spanring.attach(None)):
    contextvars.copy_context().run(test, make)
"""


def test_a_finalizer_that_enters_what_is_just_entered(script):
    script.run(ENTERED_MEANWHILE)


def test_a_context_that_is_entered_and_forgotten_is_collected():
    def forget():
        spanring.attach(None).__enter__()

    def there():
        gc.collect()
        return len([thing for thing in gc.get_objects() if isinstance(thing, spanring.Context)])

    # spanring.otel keeps one.
    before = there()
    for _ in range(100):
        contextvars.copy_context().run(forget)
    assert there() == before


def test_collections_while_spans_are_open(pipeline):
    gc_was = gc.get_threshold()
    gc.set_threshold(1)
    try:
        spans = []
        for number in range(500):
            with spanring.span("outer", number=number) as outer:
                spans.append(outer)
                with spanring.span("inner", it=lambda: [Token() for _ in range(3)] and 1):
                    gc.collect(0)
    finally:
        gc.set_threshold(*gc_was)
    assert len(pipeline.spans()) == 1000


def test_more_spans_at_once_than_are_kept_for_use(pipeline):
    spans = [spanring.span("many", number=number) for number in range(2000)]
    for span in spans:
        span.end()
    del spans, span
    spans = [spanring.span("many", number=number) for number in range(2000)]
    del spans
    assert len(pipeline.spans()) == 4000


# What Python itself gets wrong without memory is not in here: functions that are made (3.13), stack traces that are formatted (3.12, and
# 3.11 with assertions).
NO_MEMORY = """
import _testcapi, contextvars

class Shown:
    def __str__(self): return "a" + "b"
def lazy(): return "a" * 3
@spanring.trace
def generator(): yield 1
error = ValueError("wrong")
headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}

def scenario(number):
    with spanring.span("a", {"k": 1}, "client", x=[1, {"a": 2}], y=lazy, z=Shown(), big=1 << 80, odd="\\ud800é") as span:
        span.set(q=Shown())
        span.event("e", a=Shown())
        span.link(span, a=1)
        span.status("error", "é")
        span.trace_id, repr(span)
        if sys.version_info < (3, 12) and not hasattr(sys, "gettotalrefcount"):
            span.record_exception(error)
        with spanring.extract(headers), spanring.span(f"n{number}"):
            spanring.inject({})
        with spanring.attach(span):
            pass
        spanring.current_span()
        list(generator())

begin()
scenario(0)
found = {True: 0, False: 0}
for number in range(600):
    context = contextvars.copy_context()
    _testcapi.set_nomemory(number, number + 1)
    try:
        context.run(scenario, number)
        worked = True
    except MemoryError:
        worked = False
    finally:
        _testcapi.remove_mem_hooks()
    found[worked] += 1
assert found[True] > 100 and found[False] > 10, found
spanring.flush()
with spanring.span("after"): pass
"""


def test_each_allocation_may_fail(script):
    pytest.importorskip("_testcapi")
    script.run(NO_MEMORY)
    assert "after" in script.names()
