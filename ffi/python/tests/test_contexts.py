"""Who is whose parent: tasks, threads, generators, requests."""
import asyncio
import concurrent.futures
import contextvars
import inspect
import logging
import sys
import threading

import pytest

import spanring


def parents(pipeline):
    """Name -> its parent's name."""
    found = pipeline.by_name()
    names = {span.span_id: name for name, span in found.items()}
    return {name: names.get(span.parent) for name, span in found.items()}


def test_tasks_keep_the_parent_they_were_made_under(pipeline):
    async def work(name, started, go_on):
        with spanring.span(name):
            started.set()
            await go_on.wait()
            with spanring.span(name + " below"):
                await asyncio.sleep(0)

    async def main():
        go_on = asyncio.Event()
        with spanring.span("root"):
            first_started, second_started = asyncio.Event(), asyncio.Event()
            with spanring.span("a"):
                first = asyncio.create_task(work("task a", first_started, go_on))
            with spanring.span("b"):
                second = asyncio.create_task(work("task b", second_started, go_on))
                await first_started.wait()
                await second_started.wait()
                with spanring.span("beside"):
                    pass
        with spanring.span("after"):
            go_on.set()
            await asyncio.gather(first, second)
        assert spanring.current_span() is None

    asyncio.run(main())
    assert parents(pipeline) == {
        "root": None, "a": "root", "b": "root", "task a": "a", "task b": "b", "beside": "b", "after": None,
        "task a below": "task a", "task b below": "task b",
    }


def test_gather(pipeline):
    async def work(number):
        with spanring.span(f"work {number}", number=number):
            await asyncio.sleep(0.001 * (number % 3))
            with spanring.span(f"inner {number}"):
                await asyncio.sleep(0)

    async def main():
        with spanring.span("main"):
            await asyncio.gather(*(work(number) for number in range(50)))

    asyncio.run(main())
    found = parents(pipeline)
    assert all(found[f"work {number}"] == "main" and found[f"inner {number}"] == f"work {number}" for number in range(50))


def test_to_thread_keeps_the_parent_and_an_executor_does_not(pipeline):
    def work(name):
        with spanring.span(name):
            pass

    async def main():
        with spanring.span("main"):
            await asyncio.to_thread(work, "to_thread")
            await asyncio.get_running_loop().run_in_executor(None, work, "executor")
            context = contextvars.copy_context()
            await asyncio.get_running_loop().run_in_executor(None, context.run, work, "executor, with a context")

    asyncio.run(main())
    found = parents(pipeline)
    assert found == {"main": None, "to_thread": "main", "executor": None, "executor, with a context": "main"}


def test_a_span_may_end_on_another_thread(pipeline):
    span = spanring.span("handed over")

    def end(span):
        span.set(thread=2)
        with spanring.attach(span), spanring.span("child"):
            pass
        span.end()

    thread = threading.Thread(target=end, args=(span,))
    thread.start()
    thread.join()
    assert parents(pipeline) == {"handed over": None, "child": "handed over"}
    assert pipeline.one("handed over").attributes == {"thread": 2}


def test_threads_have_roots_of_their_own(pipeline):
    def work(number):
        for _ in range(200):
            with spanring.span(f"outer {number}", number=number):
                with spanring.span(f"inner {number}"):
                    pass

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    spans = pipeline.spans()
    assert len(spans) == 8 * 400
    names = {span.span_id: span.name for span in spans}
    assert len(names) == len(spans)
    for span in spans:
        kind, number = span.name.split()
        assert (span.parent is None) == (kind == "outer")
        if kind == "inner":
            assert names[span.parent] == f"outer {number}"


def test_cancelled_tasks(pipeline):
    async def work():
        with spanring.span("cancelled"):
            await asyncio.sleep(60)

    async def main():
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    found = pipeline.one("cancelled")
    assert found.events[0][1]["exception.type"] == "asyncio.exceptions.CancelledError"
    assert found.status["code"] == 2


def test_an_async_generator_that_another_task_closes(pipeline):
    async def items():
        with spanring.span("items"):
            yield 1
            yield 2

    async def main():
        generator = items()

        async def first():
            return await generator.__anext__()

        async def close():
            await generator.aclose()
            assert spanring.current_span() is None

        assert await asyncio.create_task(first()) == 1
        await asyncio.create_task(close())

    asyncio.run(main())
    assert pipeline.one("items")


# ---- The decorator


@spanring.trace
def plain(a, b=2):
    """Adds."""
    with spanring.span("in plain"):
        return a + b


@spanring.trace("a coroutine", key="value")
async def coroutine():
    await asyncio.sleep(0)
    with spanring.span("in coroutine"):
        return 7


@spanring.trace
def numbers(count):
    for number in range(count):
        with spanring.span(f"making {number}"):
            pass
        got = yield number
        with spanring.span(f"after {number}", got=got):
            pass
    return "returned"


@spanring.trace
async def later(count):
    for number in range(count):
        with spanring.span(f"awaiting {number}"):
            await asyncio.sleep(0)
        yield number


def test_a_decorated_function(pipeline):
    assert plain(1) == 3
    assert plain.__name__ == "plain" and plain.__doc__ == "Adds." and str(inspect.signature(plain)) == "(a, b=2)"
    assert parents(pipeline) == {"plain": None, "in plain": "plain"}


def test_a_decorated_coroutine(pipeline):
    assert inspect.iscoroutinefunction(coroutine)
    with spanring.span("main"):
        assert asyncio.run(coroutine()) == 7
    found = parents(pipeline)
    assert found["in coroutine"] == "a coroutine"
    assert pipeline.one("a coroutine").attributes == {"key": "value"}


def test_a_decorated_generator_is_current_in_its_own_code_only(pipeline):
    assert inspect.isgeneratorfunction(numbers)
    with spanring.span("main") as main:
        made = numbers(2)
        with spanring.span("first use"):
            pass
        for number in made:
            assert spanring.current_span() is main
            with spanring.span(f"using {number}"):
                pass
    assert parents(pipeline) == {
        "main": None, "first use": "main", "numbers": "main", "making 0": "numbers", "after 0": "numbers", "making 1": "numbers",
        "after 1": "numbers", "using 0": "main", "using 1": "main",
    }
    assert pipeline.one("numbers").events == []


def test_a_decorated_generator_is_one(pipeline):
    def collect():
        return (yield from numbers(1))

    made = collect()
    assert made.send(None) == 0
    with pytest.raises(StopIteration) as stop:
        made.send("sent")
    assert stop.value.value == "returned"
    assert pipeline.one("after 0").attributes == {"got": "sent"}

    @spanring.trace("catches")
    def catches():
        try:
            yield 1
        except KeyError:
            yield "caught"

    made = catches()
    next(made)
    assert made.throw(KeyError("key")) == "caught"
    made.close()

    @spanring.trace("fails")
    def fails():
        yield 1
        raise ValueError("wrong")

    with pytest.raises(ValueError):
        list(fails())
    found = pipeline.one("fails")
    assert found.status["code"] == 2
    assert found.events[0][1]["exception.type"] == "ValueError"
    assert pipeline.one("catches").events[0][1]["exception.type"] == "GeneratorExit"


def test_a_span_that_a_decorated_generator_holds_open_is_not_current_outside(pipeline):
    @spanring.trace("holds")
    def holds():
        with spanring.span("held"):
            yield 1
            with spanring.span("in held"):
                yield 2
        with spanring.span("then"):
            pass

    with spanring.span("main") as main:
        for item in holds():
            assert spanring.current_span() is main
            with spanring.span(f"using {item}"):
                pass
        assert spanring.current_span() is main
    assert parents(pipeline) == {
        "main": None, "holds": "main", "held": "holds", "in held": "held", "then": "holds", "using 1": "main", "using 2": "main",
    }


def test_two_decorated_generators_by_turns(pipeline):
    @spanring.trace("other")
    def other():
        with spanring.span("other held"):
            yield 1
            yield 2

    for _ in zip(numbers(2), other()):
        assert spanring.current_span() is None
    found = parents(pipeline)
    assert found["numbers"] is None and found["other"] is None
    assert found["making 1"] == "numbers" and found["other held"] == "other"


def test_a_decorated_async_generator(pipeline):
    assert inspect.isasyncgenfunction(later)

    async def main():
        with spanring.span("main") as main:
            async for number in later(2):
                assert spanring.current_span() is main
                with spanring.span(f"using {number}"):
                    await asyncio.sleep(0)
            stopped = later(5)
            async for _ in stopped:
                break
            await stopped.aclose()

    asyncio.run(main())
    spans = pipeline.spans()
    both = [span for span in spans if span.name == "later"]
    assert [len(span.events) for span in both] == [0, 1]
    ids = {span.span_id: span for span in spans}
    for span in spans:
        if span.name.startswith("awaiting"):
            assert ids[span.parent].name == "later"
        if span.name.startswith("using"):
            assert ids[span.parent].name == "main"


def test_decorated_methods(pipeline):
    class Shop:
        @spanring.trace
        def buy(self):
            return self

        @staticmethod
        @spanring.trace
        def static():
            return 1

        @classmethod
        @spanring.trace("class method", {"a.b": 1}, "server")
        def cls(cls):
            return cls

    shop = Shop()
    assert shop.buy() is shop and Shop.static() == 1 and Shop.cls() is Shop
    found = pipeline.by_name()
    assert set(found) == {"Shop.buy", "Shop.static", "class method"}
    assert found["class method"].attributes == {"a.b": 1} and found["class method"].kind == 2


def test_a_decorated_function_that_fails(pipeline):
    @spanring.trace
    def fails():
        raise ValueError("wrong")

    @spanring.trace
    async def fails_too():
        raise ValueError("wrong")

    with pytest.raises(ValueError):
        fails()
    with pytest.raises(ValueError):
        asyncio.run(fails_too())
    for name in ("fails", "fails_too"):
        assert pipeline.one(name).status == {"code": 2, "message": "ValueError: wrong"}


# ---- Requests

TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADER = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": HEADER, "tracestate": "a=1"},
        {"Traceparent": HEADER, "TraceState": "a=1", "other": None},
        {"HTTP_TRACEPARENT": HEADER, "HTTP_TRACESTATE": "a=1", "wsgi.input": object()},
        [(b"traceparent", HEADER.encode()), (b"tracestate", b"a=1"), (b"x", b"\xff")],
        {"traceparent": [HEADER], "tracestate": ["a=1"]},
        iter([("traceparent", HEADER), ("tracestate", "a=1")]),
    ],
)
def test_headers_make_a_parent(pipeline, headers):
    with spanring.attach(headers) as context:
        assert context.trace_id == TRACE and context.is_remote and context.is_sampled
        assert spanring.current_span() is None
        with spanring.span("server", None, "server"):
            out = spanring.inject({})
    assert out["traceparent"].split("-")[1] == TRACE and out["tracestate"] == "a=1"
    found = pipeline.one("server")
    assert (found.trace_id, found.parent) == (TRACE, "b7ad6b7169203331")
    assert found.raw["traceState"] == "a=1"


@pytest.mark.parametrize("headers", [{}, {"traceparent": "nonsense"}, {"traceparent": HEADER[:-1]}, {"traceparent": None}, [("traceparent", HEADER)] * 2])
def test_headers_that_cannot_be_used_make_roots(pipeline, headers):
    with spanring.span("before"):
        with spanring.attach(headers), spanring.span("server"):
            pass
    assert pipeline.one("server").parent is None


def test_a_context_as_parent_and_link(pipeline):
    context = spanring.extract({"traceparent": HEADER})
    with spanring.span("child", None, None, context) as span:
        span.link(context)
    found = pipeline.one("child")
    assert found.parent == "b7ad6b7169203331" and found.links == [(TRACE, "b7ad6b7169203331", {})]


def test_nothing_is_current(pipeline):
    with spanring.span("outer") as outer:
        with spanring.attach(None):
            with spanring.span("root"):
                pass
            assert spanring.inject({}) == {}
        assert spanring.inject({}, outer)["traceparent"].split("-")[2] == outer.span_id
        context = spanring.attach(outer)
        with context:
            with pytest.raises(RuntimeError):
                context.__enter__()
        with context:
            pass
    assert pipeline.one("root").parent is None


def test_log_records_have_the_ids(pipeline):
    records = []

    class Handler(logging.Handler):
        def emit(self, record):
            records.append((record.trace_id, record.span_id))

    logger = logging.getLogger("spanring.test")
    logger.propagate = False
    handler = Handler()
    handler.addFilter(spanring.LogFilter())
    logger.addHandler(handler)
    with spanring.span("span") as span:
        logger.error("in it")
    logger.error("after it")
    logger.removeHandler(handler)
    assert records == [(span.trace_id, span.span_id), ("", "")]
    before = logging.getLogRecordFactory()
    try:
        logging.setLogRecordFactory(spanring.log_record_factory)
        logger.addHandler(Handler())
        with spanring.span("span") as span:
            logger.error("in it")
    finally:
        logging.setLogRecordFactory(before)
    assert records[-1] == (span.trace_id, span.span_id)
