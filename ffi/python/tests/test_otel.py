"""spanring.otel: what OpenTelemetry's interface promises, and that it and spanring see the same current span."""
import asyncio
import concurrent.futures
import contextvars
import gc
import json
import logging

import pytest

pytest.importorskip("opentelemetry")

from opentelemetry import baggage, context, propagate, trace  # noqa: E402
from opentelemetry.trace import Link, SpanKind, Status, StatusCode  # noqa: E402

import spanring  # noqa: E402
from spanring.otel import TracerProvider  # noqa: E402

REMOTE = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "tracestate": "a=b"}


@pytest.fixture
def tracer(pipeline):
    return TracerProvider().get_tracer("library", "1.2")


def ids(span):
    found = span.get_span_context()
    return f"{found.trace_id:032x}", f"{found.span_id:016x}"


def test_all_that_a_span_can_be_given(pipeline, tracer):
    other = tracer.start_span("other")
    span = tracer.start_span(
        "before",
        kind=SpanKind.CLIENT,
        attributes={"text": "a", "number": 7, "parts": [1, 2.5], "none": None},
        links=[Link(other.get_span_context(), {"why": "x"})],
        start_time=1_700_000_000_000_000_000,
    )
    span.set_attribute("one", True)
    span.set_attributes({"two": b"\x00", "number": 8})
    span.add_event("happened", {"where": "here"}, timestamp=1_700_000_000_500_000_000)
    span.add_link(other.get_span_context(), {"why": "y"})
    span.add_link(trace.INVALID_SPAN_CONTEXT)
    span.update_name("after")
    span.set_status(Status(StatusCode.ERROR, "first"))
    span.set_status(StatusCode.ERROR, "second")
    span.set_status(StatusCode.UNSET)
    assert (span.name, span.kind) == ("after", SpanKind.CLIENT)
    assert span.is_recording()
    span.end(1_700_000_001_000_000_000)
    assert not span.is_recording()
    other.end()
    found = pipeline.one("after")
    assert (found.trace_id, found.span_id) == ids(span)
    assert found.kind == 3
    assert found.attributes == {"text": "a", "number": 8, "parts": [1, 2.5], "none": None, "one": True, "two": b"\x00"}
    assert found.events == [("happened", {"where": "here"})]
    assert found.links == [(*ids(other), {"why": "x"}), (*ids(other), {"why": "y"})]
    assert found.status == {"code": 2, "message": "second"}
    assert (found.raw["startTimeUnixNano"], found.raw["endTimeUnixNano"]) == ("1700000000000000000", "1700000001000000000")
    assert found.raw["events"][0]["timeUnixNano"] == "1700000000500000000"
    assert found.scope == ("library", "1.2")
    assert pipeline.one("other").scope == ("library", "1.2")


def test_ok_is_final_and_has_no_description(pipeline, tracer):
    with tracer.start_as_current_span("a") as span:
        span.set_status(StatusCode.OK, "left out")
        span.set_status(StatusCode.ERROR, "too late")
    assert pipeline.one("a").status == {"code": 1}


def test_the_current_span_is_the_same_for_both(pipeline, tracer):
    with tracer.start_as_current_span("theirs") as theirs:
        assert trace.get_current_span() is theirs
        assert (spanring.current_span().trace_id, spanring.current_span().span_id) == ids(theirs)
        with spanring.span("ours") as ours:
            assert ids(trace.get_current_span()) == (ours.trace_id, ours.span_id)
            trace.get_current_span().set_attribute("seen", 1)
            with tracer.start_as_current_span("inner") as inner:
                assert propagate.inject(mine := {}) or mine == spanring.inject({})
                with trace.use_span(theirs), spanring.span("below theirs"):
                    pass
                assert trace.get_current_span() is inner
            with tracer.start_as_current_span("beside", context=trace.set_span_in_context(theirs)):
                pass
            assert ids(trace.get_current_span()) == (ours.trace_id, ours.span_id)
        assert trace.get_current_span() is theirs
        with spanring.attach(None):
            assert trace.get_current_span() is trace.INVALID_SPAN
            tracer.start_span("root again").end()
    assert spanring.current_span() is None
    assert trace.get_current_span() is trace.INVALID_SPAN
    found = pipeline.by_name()
    assert found["ours"].parent == found["theirs"].span_id
    assert found["ours"].attributes == {"seen": 1}
    assert found["inner"].parent == found["ours"].span_id
    assert found["below theirs"].parent == found["beside"].parent == found["theirs"].span_id
    assert found["root again"].parent is None
    assert found["root again"].trace_id != found["theirs"].trace_id


def test_a_remote_parent_from_either_side(pipeline, tracer):
    token = context.attach(propagate.extract(REMOTE))
    with spanring.span("ours"), tracer.start_as_current_span("theirs"):
        pass
    context.detach(token)
    with spanring.attach(REMOTE):
        parent = trace.get_current_span().get_span_context()
        assert (parent.is_remote, parent.trace_state.to_header()) == (True, "a=b")
        with tracer.start_as_current_span("attached"):
            propagate.inject(sent := {})
    tracer.start_span("given", context=propagate.extract(REMOTE)).end()
    tracer.start_span("root", context=context.Context()).end()
    found = pipeline.by_name()
    for name in ("ours", "attached", "given"):
        assert (found[name].trace_id, found[name].parent) == ("1" * 32, "2" * 16)
        assert found[name].raw["traceState"] == "a=b"
    assert found["theirs"].parent == found["ours"].span_id
    assert found["root"].parent is None
    assert sent == {"traceparent": f"00-{'1' * 32}-{found['attached'].span_id}-01", "tracestate": "a=b"}
    # The flags say that the parent is remote, where it is.
    assert [found[name].raw["flags"] >> 8 for name in ("ours", "theirs")] == [3, 1]


def test_other_values_of_the_context_stay(pipeline, tracer):
    token = context.attach(baggage.set_baggage("user", "7"))
    with tracer.start_as_current_span("a"), spanring.span("b"), tracer.start_as_current_span("c"):
        assert baggage.get_baggage("user") == "7"
    assert trace.get_current_span() is trace.INVALID_SPAN
    context.detach(token)
    assert baggage.get_baggage("user") is None


def test_exceptions_are_recorded_as_their_sdk_does(pipeline, tracer):
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    def fail(name, error, **options):
        with pytest.raises(type(error)):
            with tracer.start_as_current_span(name, **options):
                raise error

    fail("usual", ValueError("bad"))
    fail("not recorded", ValueError("bad"), record_exception=False)
    fail("no status", ValueError("bad"), set_status_on_exception=False)
    fail("no failure", GeneratorExit())
    fail("odd", Odd())
    with pytest.raises(ValueError):
        with tracer.start_span("itself"):
            raise ValueError("bad")
    found = pipeline.by_name()
    ((name, attributes),) = found["usual"].events
    assert name == "exception"
    assert attributes.pop("exception.stacktrace").endswith("ValueError: bad\n")
    assert attributes == {"exception.type": "ValueError", "exception.message": "bad", "exception.escaped": "False"}
    assert found["usual"].status == {"code": 2, "message": "ValueError: bad"}
    assert (found["not recorded"].events, found["not recorded"].status["code"]) == ([], 2)
    assert (len(found["no status"].events), found["no status"].status) == (1, {})
    assert (found["no failure"].events, found["no failure"].status) == ([], {})
    assert found["odd"].events[0][1]["exception.type"].endswith("Odd")
    assert found["itself"].events[0][1]["exception.escaped"] == "True"


def test_decorated_functions_and_coroutines(pipeline, tracer):
    @tracer.start_as_current_span("plain")
    def plain(value):
        return value, trace.get_current_span().name

    @tracer.start_as_current_span("coroutine")
    async def coroutine():
        before = ids(trace.get_current_span())
        await asyncio.sleep(0)
        assert ids(trace.get_current_span()) == before
        return before

    async def main():
        return await asyncio.gather(*(coroutine() for _ in range(3)))

    assert plain(1) == (1, "plain") and plain(2) == (2, "plain")
    assert len(set(asyncio.run(main()))) == 3
    names = [span.name for span in pipeline.spans()]
    assert sorted(names) == ["coroutine"] * 3 + ["plain"] * 2


def test_tasks_and_threads_with_a_context(pipeline, tracer):
    def work(number):
        with tracer.start_as_current_span("thread", attributes={"number": number}):
            spanring.span("below").end()

    async def task():
        with tracer.start_as_current_span("task"):
            await asyncio.sleep(0)

    async def main():
        with tracer.start_as_current_span("main"):
            await asyncio.gather(task(), asyncio.to_thread(work, 1) if hasattr(asyncio, "to_thread") else task())

    asyncio.run(main())
    with tracer.start_as_current_span("pool"):
        with concurrent.futures.ThreadPoolExecutor() as pool:
            pool.submit(contextvars.copy_context().run, work, 2).result()
            pool.submit(work, 3).result()
    found = {(span.name, span.attributes.get("number")): span for span in pipeline.spans() if span.name != "below"}
    assert found["task", None].parent == found["thread", 1].parent == found["main", None].span_id
    assert found["thread", 2].parent == found["pool", None].span_id
    assert found["thread", 3].parent is None
    below = [span.parent for span in pipeline.spans() if span.name == "below"]
    assert sorted(below) == sorted(found["thread", number].span_id for number in (1, 2, 3))


def test_callables_are_not_called(pipeline, tracer):
    called = []
    with tracer.start_as_current_span("a", attributes={"f": lambda: called.append(1), "in": [lambda: called.append(1)]}) as span:
        span.set_attribute("g", lambda: called.append(1))
        span.add_event("e", {"h": lambda: called.append(1)})
    assert not called
    assert "function" in pipeline.one("a").attributes["f"]


def test_keys_that_are_none_are_left_out_with_a_word(pipeline, tracer, caplog):
    with caplog.at_level(logging.WARNING):
        with tracer.start_as_current_span("a", attributes={1: "x", "kept": "y"}) as span:
            span.add_event("e", {None: "x", "kept": "y"})
            span.set_attribute(2, "x")
    assert len([record for record in caplog.records if "left out" in record.message]) == 3
    found = pipeline.one("a")
    assert (found.attributes, found.events) == ({"kept": "y"}, [("e", {"kept": "y"})])


def test_what_comes_after_the_end_is_said(pipeline, tracer, caplog):
    span = tracer.start_span("a")
    span.end()
    with caplog.at_level(logging.WARNING):
        span.set_attribute("k", 1)
        span.add_event("e")
        span.set_status(StatusCode.OK)
        span.update_name("b")
        span.add_link(span.get_span_context())
        span.end()
        span.record_exception(ValueError())
    assert len([record for record in caplog.records if "has ended" in record.message]) == 6
    found = pipeline.one("a")
    assert (found.attributes, found.events, found.links, found.status) == ({}, [], [], {})
    assert ids(span) == (found.trace_id, found.span_id)


def test_a_span_that_is_not_sampled(tmp_path):
    spanring.start(dir=tmp_path / "spans", sampler="always_off", ignore_environment=True)
    try:
        tracer = TracerProvider().get_tracer("library")
        with tracer.start_as_current_span("a", attributes={"k": 1}) as span:
            assert not span.is_recording()
            assert span.get_span_context().is_valid
            assert not span.get_span_context().trace_flags.sampled
            propagate.inject(sent := {})
        assert sent["traceparent"].endswith(("-00", "-02"))
        assert spanring.stats()["created"] == 0
    finally:
        spanring.shutdown(30)


def test_without_a_pipeline_nothing_is_recorded(pipeline, tracer):
    spanring.shutdown(30)
    with tracer.start_as_current_span("a") as span:
        assert not span.is_recording()
        assert trace.get_current_span() is span
        span.set_attribute("k", 1)


def test_a_provider_starts_the_pipeline_if_there_is_none(tmp_path):
    class Resource:
        attributes = {"service.name": "shop", "service.version": 3, "telemetry.sdk.name": "opentelemetry"}

    provider = TracerProvider(Resource(), dir=tmp_path / "spans", ignore_environment=True)
    try:
        provider.get_tracer("library").start_span("a").end()
        assert provider.force_flush()
        from conftest import read

        (found,) = read(tmp_path / "spans")
        assert found.resource["service.name"] == "shop"
        assert found.resource["service.version"] == "3"
        assert found.resource["telemetry.sdk.name"] == "spanring"
        with pytest.raises(spanring.SpanringError, match="there is a pipeline"):
            TracerProvider(dir=tmp_path)
    finally:
        provider.shutdown()


def test_span_processors_are_refused_with_a_reason(pipeline):
    provider = TracerProvider()
    assert not hasattr(provider, "add_span_processor")
    with pytest.raises(AttributeError, match="endpoint"):
        provider.add_span_processor(None)
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        provider.other


def test_a_context_that_is_closed_elsewhere(pipeline, tracer, caplog):
    async def items():
        with tracer.start_as_current_span("items"):
            yield 1
            yield 2

    async def main():
        with tracer.start_as_current_span("main"):
            iterator = items()
            await iterator.__anext__()
            await asyncio.create_task(iterator.aclose())
        tracer.start_span("after").end()

    asyncio.run(main())
    assert {span.name for span in pipeline.spans()} == {"items", "main", "after"}


def test_no_references_are_kept(pipeline, tracer):
    def work():
        with tracer.start_as_current_span("a", attributes={"k": "v"}) as span:
            span.add_event("e", {"k": 1})
            with spanring.span("b"):
                trace.get_current_span().set_attribute("x", 1)
                propagate.inject({})
            context.detach(context.attach(propagate.extract(REMOTE)))

    def count():
        gc.collect()
        return len(gc.get_objects())

    for _ in range(200):
        work()
    before = count()
    for _ in range(200):
        work()
    assert count() - before < 20


def test_limits_and_samplers_have_opentelemetrys_names(script):
    """The same program with their SDK and with spanring, under the same variables."""
    pytest.importorskip("opentelemetry.sdk")
    done = script.run(
        """
        import json
        os.environ.update(
            OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT="3", OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT="5", OTEL_SPAN_EVENT_COUNT_LIMIT="2",
            OTEL_SPAN_LINK_COUNT_LIMIT="1", OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT="1", OTEL_TRACES_SAMPLER="parentbased_always_off",
        )
        from opentelemetry import propagate, trace
        from opentelemetry.sdk.trace import TracerProvider as Theirs
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        import spanring.otel

        exporter = InMemorySpanExporter()
        theirs = Theirs()
        theirs.add_span_processor(SimpleSpanProcessor(exporter))
        for provider in (theirs, spanring.otel.TracerProvider(dir=place)):
            tracer = provider.get_tracer("limits")
            parent = propagate.extract({"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"})
            link = trace.Link(tracer.start_span("not sampled").get_span_context())
            with tracer.start_as_current_span("kept", parent, attributes={str(n): "x" * 9 for n in range(5)}, links=[link] * 3) as span:
                for n in range(4):
                    span.add_event("event", {"a": "x" * 9, "b": 1})
            with tracer.start_as_current_span("a root"):
                tracer.start_span("below").end()
        print(json.dumps([
            [span.name, len(span.attributes), span.dropped_attributes, len(span.events), span.dropped_events, len(span.links),
             span.dropped_links, sorted({len(value) for value in span.attributes.values()}), len(span.events[0].attributes)]
            for span in exporter.get_finished_spans()
        ]))
        """
    )
    theirs = json.loads(done.stdout)
    ours = [
        [
            span.name, len(span.attributes), span.raw.get("droppedAttributesCount", 0), len(span.events),
            span.raw.get("droppedEventsCount", 0), len(span.links), span.raw.get("droppedLinksCount", 0),
            sorted({len(value) for value in span.attributes.values()}), len(span.events[0][1]),
        ]
        for span in script.spans()
    ]  # fmt: skip
    assert ours == theirs == [["kept", 3, 2, 2, 2, 1, 2, [5], 1]]
