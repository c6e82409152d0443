"""Spans, their attributes, and what becomes of errors."""
import asyncio
import collections
import contextvars
import copy
import enum
import pickle
import time
import types

import pytest

import spanring


def test_a_with_statement_is_a_span_with_its_attributes(pipeline):
    with spanring.span("db.query", rows=7, system="postgresql") as span:
        assert span.is_recording
        assert spanring.current_span() is span
        ids = (span.trace_id, span.span_id)
    assert spanring.current_span() is None
    assert not span.is_recording
    assert (span.trace_id, span.span_id) == ids
    found = pipeline.one("db.query")
    assert (found.trace_id, found.span_id) == ids
    assert found.attributes == {"rows": 7, "system": "postgresql"}
    assert found.parent is None
    assert found.resource["service.name"] == "tests"
    assert found.status.get("code", 0) == 0


def test_spans_in_a_block_are_children(pipeline):
    with spanring.span("root"):
        with spanring.span("first"):
            with spanring.span("below"):
                pass
        with spanring.span("second"):
            pass
    with spanring.span("other"):
        pass
    found = pipeline.by_name()
    root = found["root"]
    assert found["first"].parent == found["second"].parent == root.span_id
    assert found["below"].parent == found["first"].span_id
    assert {found[name].trace_id for name in ("root", "first", "below", "second")} == {root.trace_id}
    assert found["other"].parent is None and found["other"].trace_id != root.trace_id


def test_children_may_begin_after_their_parent_ended(pipeline):
    with spanring.span("parent") as parent:
        pass
    with spanring.span("late", None, None, parent):
        pass
    parent = spanring.span("by hand")
    parent.end()
    with spanring.attach(parent), spanring.span("later"):
        pass
    found = pipeline.by_name()
    assert found["late"].parent == found["parent"].span_id
    assert found["later"].parent == found["by hand"].span_id


def test_without_with(pipeline):
    span = spanring.span("by hand", {"a.b": 1}, "client")
    assert spanring.current_span() is None
    with spanring.attach(span):
        with spanring.span("child"):
            pass
    span.end()
    span.end()
    span.set(too=1)
    found = pipeline.by_name()
    assert found["by hand"].attributes == {"a.b": 1}
    assert found["by hand"].kind == 3
    assert found["child"].parent == found["by hand"].span_id


def test_a_span_that_is_forgotten_ends(pipeline):
    spanring.span("forgotten", key=1)
    assert pipeline.one("forgotten").attributes == {"key": 1}


def test_a_span_that_ended_in_its_block_is_left_as_usual(pipeline):
    with spanring.span("once") as span:
        span.end()
        with spanring.span("child"):
            pass
    assert spanring.current_span() is None
    found = pipeline.by_name()
    assert found["child"].parent == found["once"].span_id


class Text(str):
    pass


class Color(enum.IntEnum):
    RED = 3


class Shown:
    def __str__(self):
        return "shown"


class Indexed:
    def __index__(self):
        return 42


class Broken:
    def __str__(self):
        raise ValueError("no text")


class Fraction(float):
    pass


VALUES = [
    ("text", "text"),
    ("", ""),
    ("ä€𝄞", "ä€𝄞"),
    ("a\0b", "a\0b"),
    ("\ud800", "\\ud800"),
    (Text("sub"), "sub"),
    (True, True),
    (False, False),
    (0, 0),
    (-1, -1),
    (2**63 - 1, 2**63 - 1),
    (-(2**63), -(2**63)),
    (2**63, str(2**63)),
    (-(2**70), str(-(2**70))),
    (Color.RED, 3),
    (1.5, 1.5),
    (Fraction(2.5), 2.5),
    (b"raw\0", b"raw\0"),
    (bytearray(b"raw"), b"raw"),
    (memoryview(b"raw"), b"raw"),
    (None, None),
    ([], []),
    ([1, "two", None, [3.5, [True]]], [1, "two", None, [3.5, [True]]]),
    ((1, 2), [1, 2]),
    ({}, {}),
    ({"a": {"b": [1]}, 2: "two"}, {"a": {"b": [1]}, "2": "two"}),
    (Shown(), "shown"),
    (Indexed(), 42),
    (Broken(), "ValueError: no text"),
    ([Broken()], ["ValueError: no text"]),
    (int, "<class 'int'>"),
    ({1}, "{1}"),
    (lambda: 7, 7),
    (lambda: [1], [1]),
    ([lambda: 7], [7]),
    (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
    ("x" * 100_000, "x" * 100_000),
    (["x" * 50] * 200, ["x" * 50] * 200),
]


@pytest.mark.parametrize("at", range(len(VALUES)))
def test_values(pipeline, at):
    given, expected = VALUES[at]
    with spanring.span("value", before=1, it=given, after="after") as span:
        span.set_attribute("again", given)
        span.set({"by.mapping": given})
        span.event("event", it=given)
    found = pipeline.one("value")
    assert found.attributes == {"before": 1, "it": expected, "after": "after", "again": expected, "by.mapping": expected}
    assert type(found.attributes["it"]) is type(expected)
    assert found.events == [("event", {"it": expected})]


def test_an_int_that_python_writes_in_no_decimal_text(pipeline):
    with spanring.span("value", it=1 << 100_000):
        pass
    assert pipeline.one("value").attributes["it"].startswith(("0x1000", "9990"))


def test_lists_that_hold_themselves_end(pipeline):
    endless = []
    endless.append(endless)
    wide = ["x"]
    for _ in range(40):
        wide = [wide] * 3
    holder = {}
    holder["it"] = holder
    with spanring.span("value", endless=endless, wide=wide, holder=holder, after=1):
        pass
    assert pipeline.one("value").attributes["after"] == 1


def test_a_list_that_changes_while_it_is_read(pipeline):
    changing = []

    def empty():
        changing.clear()
        return "emptied"

    changing += [empty, 1, 2]
    mapping = {}

    def fill():
        for number in range(100):
            mapping[str(number)] = number
        return "filled"

    mapping["first"] = fill
    with spanring.span("value", it=changing) as span:
        span.set(inner=mapping)
    found = pipeline.one("value").attributes
    assert found == {"it": ["emptied"], "inner": {"first": "filled"}}


def test_lazy_values_are_computed_only_for_spans_that_record(pipeline):
    calls = []

    def lazy():
        calls.append(1)
        return 1

    with spanring.span("records", it=lazy):
        pass
    assert calls == [1]
    # Not sampled: its parent is not.
    unsampled = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}
    with spanring.extract(unsampled), spanring.span("does not", it=lazy) as span:
        span.set(it=lazy)
        span.event("event", it=lazy)
        assert not span.is_recording
        with spanring.span("below", it=lazy) as below:
            assert below.trace_id == span.trace_id == "0af7651916cd43dd8448eb211c80319c"
    span.set(it=lazy)
    assert calls == [1]
    assert list(pipeline.by_name()) == ["records"]


def test_a_lazy_value_may_have_spans_of_its_own(pipeline):
    def lazy():
        with spanring.span("inner", it=lambda: 2):
            return 1

    with spanring.span("outer", it=lazy):
        pass
    found = pipeline.by_name()
    assert found["outer"].attributes == {"it": 1}
    assert found["inner"].attributes == {"it": 2}


def test_the_keyboard_is_no_value(pipeline):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spanring.span("interrupted", it=interrupted)
    with spanring.span("goes on") as span:
        for call in (
            lambda: span.set(it=interrupted),
            lambda: span.set({"it": interrupted}),
            lambda: span.set_attribute("it", [interrupted]),
            lambda: span.event("event", it=interrupted),
            lambda: span.link(span, it=interrupted),
            lambda: span.record_exception(ValueError(), it=interrupted),
        ):
            with pytest.raises(KeyboardInterrupt):
                call()
    assert spanring.current_span() is None


class Stops(ValueError):
    """An exception, a number and a value that the keyboard or a signal stops when they are looked at."""

    def __init__(self, error):
        self.error = error

    def __str__(self):
        raise self.error

    __index__ = __str__


class StopsInt(int):
    def __str__(self):
        raise KeyboardInterrupt


def fails(error):
    raise error


class Killed(BaseException):
    """As greenlets are stopped."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, Killed])
def test_who_stops_the_program_is_heard(pipeline, error):
    stops = Stops(error)
    with spanring.span("goes on") as span:
        for value in (stops, lambda: fails(stops), lambda: fails(error), {stops: 1}, [stops]):
            with pytest.raises(error):
                span.set(it=value)
    with pytest.raises(error):
        with spanring.span("stopped"):
            raise stops
    assert spanring.current_span() is None
    assert set(pipeline.by_name()) == {"goes on", "stopped"}


def test_the_keyboard_while_a_large_number_is_written(pipeline):
    with spanring.span("goes on") as span, pytest.raises(KeyboardInterrupt):
        span.set(it=StopsInt(1 << 70))


CALLS_ITSELF = """
import functools, threading
def deep(value):
    for _ in range(97): value = [value]
    return value
def run():
    for nested in (lambda value: value, deep, lambda value: {"in": value}):
        for call in (spanring.Span, spanring.span("a").set, spanring.span("a").event, spanring.span("a").set_attribute):
            keywords = {}
            text = () if call.__name__ == "set" else ("text",)
            function = functools.partial(call, *text, keywords)
            keywords["it"] = nested(function)
            function()
begin()
run()
thread = threading.Thread(target=run)
thread.start()
thread.join()
"""


def test_a_value_that_calls_itself_ends(script):
    script.run(CALLS_ITSELF)
    assert "a" in script.names()


def test_a_span_as_a_value_is_its_text(pipeline):
    with spanring.span("outer") as outer, spanring.span("inner", it=outer):
        pass
    assert pipeline.by_name()["inner"].attributes["it"] == repr(outer)


def test_more_keys_and_names_than_the_engine_has_numbers(pipeline):
    keys = [f"key{number}" for number in range(20_000)]
    for _ in range(3):
        for key in keys:
            with spanring.span("many", {key: key}) as span:
                span.end()
    with spanring.span("many names are text"):
        pass
    for _ in range(3):
        for key in keys[-10:]:
            with spanring.span(key, {key: 1}):
                pass
    spanring.flush(30)
    found = pipeline.spans()
    assert len(found) == 60_031
    assert all(span.attributes == {key: key} for span, key in zip(found, keys * 3))
    assert [span.name for span in found[-10:]] == keys[-10:]


def test_events_links_status_and_names(pipeline):
    with spanring.span("other") as other:
        pass
    with spanring.span("first name", None, "server") as span:
        span.rename("name")
        span.event("plain")
        span.event("with", {"a.b": 1}, c=[2])
        span.link(other, why="because")
        span.link(spanring.attach(other))
        span.link(spanring.attach(None))
        span.status("error", "it is wrong")
        span.critical()
    with spanring.span("fine") as fine:
        fine.status("ok")
        fine.status("error", "too late")
    found = pipeline.by_name()
    assert found["name"].kind == 2
    assert found["name"].events == [("plain", {}), ("with", {"a.b": 1, "c": [2]})]
    assert found["name"].links == [
        (other.trace_id, other.span_id, {"why": "because"}),
        (other.trace_id, other.span_id, {}),
    ]
    assert found["name"].status == {"code": 2, "message": "it is wrong"}
    assert found["fine"].status == {"code": 1}


class Odd(Exception):
    def __str__(self):
        raise RuntimeError("no message")


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyError("key"), Odd(), asyncio.CancelledError(), SystemExit(3), KeyboardInterrupt()])
def test_an_exception_that_leaves_the_block_is_recorded_and_goes_on(pipeline, error):
    with pytest.raises(type(error)) as caught:
        with spanring.span("outer"):
            with spanring.span("fails"):
                raise error
    assert caught.value is error
    for name in ("fails", "outer"):
        found = pipeline.one(name)
        assert found.status["code"] == 2
        ((event, attributes),) = found.events
        assert event == "exception"
        kind = type(error)
        expected = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        assert attributes["exception.type"] == expected
        if isinstance(error, Odd):
            assert attributes["exception.message"] == "RuntimeError: no message"
        else:
            assert attributes["exception.message"] == str(error)
            assert found.status["message"] in (f"{kind.__name__}: {error}", kind.__name__, f"{expected}")
        assert "raise error" in attributes["exception.stacktrace"]
    assert spanring.current_span() is None


def test_who_stops_a_generator_early_is_no_error(pipeline):
    def items():
        with spanring.span("items"):
            yield 1

    generator = items()
    next(generator)
    generator.close()
    found = pipeline.one("items")
    assert [(name, attributes["exception.type"]) for name, attributes in found.events] == [("exception", "GeneratorExit")]
    assert found.status.get("code", 0) == 0


def test_record_exception_leaves_the_status(pipeline):
    with spanring.span("caught") as span:
        try:
            1 / 0
        except ZeroDivisionError as error:
            span.record_exception(error, retry=1)
        span.record_exception(ValueError("never raised"))
    found = pipeline.one("caught")
    assert [attributes["exception.type"] for _, attributes in found.events] == ["ZeroDivisionError", "ValueError"]
    assert found.events[0][1]["retry"] == 1
    assert found.status.get("code", 0) == 0


def test_wrong_types_are_found(pipeline):
    with spanring.span("span") as span:
        for call in (
            lambda: spanring.span(),
            lambda: spanring.span(7),
            lambda: spanring.span(b"name"),
            lambda: spanring.span("name", 7),
            lambda: spanring.span("name", "text"),
            lambda: spanring.span("name", [1]),
            lambda: spanring.span("name", {1: 2}),
            lambda: spanring.span("name", **{1: 2}),
            lambda: spanring.span("name", None, 7),
            lambda: spanring.span("name", None, None, 7),
            lambda: spanring.span("name", None, None, None, None, None),
            lambda: span.set(7),
            lambda: span.set({1: 2}),
            lambda: span.set({}, {}),
            lambda: span.set_attribute(1, 2),
            lambda: span.set_attribute("a"),
            lambda: span.event(),
            lambda: span.event(7),
            lambda: span.event("event", 7),
            lambda: span.link(7),
            lambda: span.link(None),
            lambda: span.status(7),
            lambda: span.status("error", 7),
            lambda: span.status(),
            lambda: span.rename(7),
            lambda: span.record_exception(7),
            lambda: span.record_exception(ValueError),
            lambda: span.__exit__(),
            lambda: span.__enter__(1),
            lambda: span.__enter__(a=1),
            lambda: spanring.attach(7),
            lambda: spanring.extract("text"),
            lambda: spanring.extract([1]),
            lambda: spanring.inject({}, 7),
            lambda: spanring.trace(7),
            lambda: spanring.trace(int),
            lambda: spanring.trace("name")(7),
            lambda: spanring.trace("name", {1: 2})(lambda: 0),
            lambda: spanring.start(7),
            lambda: spanring.start(max_spans=object()),
            lambda: spanring.flush("long"),
            lambda: copy.copy(span),
            lambda: pickle.dumps(span),
        ):
            with pytest.raises(TypeError):
                call()
        for call in (
            lambda: spanring.span("name", None, "wrong"),
            lambda: span.status("wrong"),
            lambda: spanring.flush(-1),
            lambda: spanring.trace("name", None, "wrong")(lambda: 0),
        ):
            with pytest.raises(ValueError):
                call()
        with pytest.raises(RuntimeError):
            span.__enter__()


def test_the_last_value_of_a_key_counts(pipeline):
    keys = [f"key {number}" for number in range(100)]
    for _ in range(3):
        with spanring.span("span", {"a": 1, "b": 1}, a=2, c=1) as span:
            span.set(c=3, d=1)
            span.set_attribute("d", "4")
        with spanring.span("many", {key: 1 for key in keys}) as span:
            span.set({key: 2 for key in keys[:50]})
        with spanring.span("after an event") as span:
            span.event("event", a=1)
            span.set(a=2, b=3)
            span.set({"a": 4}, b=5)
    found = pipeline.spans()
    assert [span.attributes for span in found if span.name == "span"] == [{"a": 2, "b": 1, "c": 3, "d": "4"}] * 3
    expected = {key: 2 if at < 50 else 1 for at, key in enumerate(keys)}
    assert [span.attributes for span in found if span.name == "many"] == [expected] * 3
    assert [(span.attributes, span.events) for span in found if span.name == "after an event"] == [
        ({"a": 4, "b": 5}, [("event", {"a": 1})])
    ] * 3


def test_other_mappings_are_mappings(pipeline):
    with spanring.span("span", types.MappingProxyType({"a": 1})) as span:
        span.set(collections.OrderedDict(b=2))
        span.set(collections.ChainMap({"c": 3}))
        span.set(None)
        span.set()
    assert pipeline.one("span").attributes == {"a": 1, "b": 2, "c": 3}


def test_names_that_are_arguments_elsewhere(pipeline):
    with spanring.span("span", name=1, attributes=2, kind=3, parent=4, self=5) as span:
        span.event("event", name=1, attributes=2)
    found = pipeline.one("span")
    assert found.attributes == {"name": 1, "attributes": 2, "kind": 3, "parent": 4, "self": 5}
    assert found.events == [("event", {"name": 1, "attributes": 2})]


def test_context_managers_of_the_library_take_spans(pipeline):
    import contextlib

    with contextlib.ExitStack() as stack:
        outer = stack.enter_context(spanring.span("outer"))
        stack.enter_context(spanring.span("inner"))
    span = spanring.span("by name")
    enter, leave = span.__enter__, span.__exit__
    del span
    assert enter() is spanring.current_span()
    leave(None, None, None)
    del enter, leave
    span = spanring.span("by type")
    type(span).__enter__(span)
    type(span).__exit__(span, None, None, None)
    assert span.span_id != "0" * 16
    found = pipeline.by_name()
    assert found["inner"].parent == outer.span_id
    assert spanring.current_span() is None
    assert set(found) == {"outer", "inner", "by name", "by type"}


def test_blocks_that_are_left_in_another_order(pipeline):
    def cross():
        first = spanring.span("first")
        first.__enter__()
        second = spanring.span("second")
        second.__enter__()
        first.__exit__(None, None, None)
        second.__exit__(None, None, None)

    # In a context of its own: as with any context variable, what the last one found is current then.
    contextvars.copy_context().run(cross)
    assert spanring.current_span() is None
    found = pipeline.by_name()
    assert found["first"].parent is None
    assert found["second"].parent == found["first"].span_id


def test_everything_works_without_a_pipeline(script):
    script.run(
        """
        with spanring.span("a", key=lambda: 1 / 0) as span:
            assert not span.is_recording
            span.set(b=1); span.event("e"); span.status("ok"); span.link(span); span.rename("x"); span.critical()
            span.record_exception(ValueError())
            assert spanring.current_span() is span
            span.trace_id, span.span_id, repr(span)
            assert spanring.inject({}) == {}
        spanring.flush()
        spanring.shutdown()
        try:
            spanring.stats()
        except spanring.SpanringError as error:
            assert error.code == 5 and "spanring_start" in str(error), error
        else:
            raise AssertionError
        """
    )


def test_errors_have_a_code_and_a_sentence(pipeline):
    with pytest.raises(spanring.SpanringError) as caught:
        spanring.start()
    assert caught.value.code == 6 and "shut it down" in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
    spanring.shutdown(30)
    for settings in ({"no_such_setting": 1}, {"max_spans": "many"}):
        with pytest.raises(spanring.SpanringError) as caught:
            spanring.start(**settings)
        assert caught.value.code == 4


def test_settings_of_all_types(tmp_path):
    import datetime

    spanring.start(
        dir=tmp_path,
        max_spans=1000,
        fsync=True,
        flush_interval=0.25,
        cleanup_interval=datetime.timedelta(seconds=30),
        resource_attributes={"team": "a b,c", "n": 1},
        propagators=["tracecontext", "baggage"],
        endpoint=None,
        ignore_environment=True,
    )
    with spanring.span("span"):
        pass
    assert spanring.stats()["created"] == 1
    spanring.shutdown()
    from conftest import read

    (span,) = read(tmp_path)
    assert span.resource["team"] == "a b,c" and span.resource["n"] == "1"


def test_settings_that_change_while_the_program_runs(pipeline):
    spanring.change_settings(sampler="always_off", flush_interval=0.5)
    with spanring.span("no") as span:
        assert not span.is_recording
    found = spanring.settings()
    assert (found["sampler"]["value"], found["sampler"]["source"], found["sampler"]["live"]) == ("always_off", "live", True)
    assert (found["flush_interval"]["value"], found["dir"]["live"]) == ("0.5", False)
    for wrong, said in (({"batch_size": 5, "sampler": "maybe"}, "is not a sampler"), ({"dir": "x"}, "cannot change while the program runs")):
        with pytest.raises(spanring.SpanringError, match=said):
            spanring.change_settings(**wrong)
    with pytest.raises(TypeError, match="setting batch_size must be"):
        spanring.change_settings(batch_size=object())
    spanring.change_settings(sampler=None)
    with spanring.span("yes"):
        pass
    found = spanring.settings()
    assert (found["sampler"]["source"], found["batch_size"]["source"]) == ("default", "default")
    assert [span.name for span in pipeline.spans()] == ["yes"]


def test_overhead_runs_the_work_untraced_and_traced_in_turn(tmp_path):
    spanring.start(dir=tmp_path, ignore_environment=True)
    recorded = []

    def work():
        with spanring.span("work") as span:
            recorded.append(span.is_recording)

    found = spanring.overhead(work, rounds=3)
    assert recorded == [False, True, False, True, True, False, False, True]
    assert found.rounds == 3 and found.baseline > 0 and found.traced > 0
    assert str(found).startswith("untraced ") and "3 rounds" in str(found)
    with pytest.raises(ZeroDivisionError):
        spanring.overhead(lambda: 1 / 0)
    with spanring.span("afterwards") as span:
        assert span.is_recording
    known = spanring.Overhead(rounds=1, baseline=10.0, traced=11.0, overhead=1.0, noise=0.5)
    assert known.percent == 10.0 and known.is_measurable
    spanring.shutdown()


def test_a_priority_that_is_critical_leaves_at_once(tmp_path):
    spanring.start(dir=tmp_path, flush_interval=3600, ignore_environment=True)
    with spanring.span("usual", priority="high"):
        pass
    with spanring.span("now", priority="critical"):
        pass
    # With the interval alone it would take an hour.
    deadline = time.monotonic() + 60
    while spanring.stats()["sealed"] < 2:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    spanring.shutdown()


def test_metrics_and_health(tmp_path):
    spanring.start(dir=tmp_path, metrics=True, ignore_environment=True)
    for _ in range(10):
        with pytest.raises(ValueError), spanring.span("buy"):
            raise ValueError
        with spanring.span("buy"):
            pass
    spanring.flush()
    found = spanring.metrics()
    (series,) = [series for series in found["spans"]["series"] if series["name"] == "buy"]
    assert (series["count"], series["errors"], found["engine"]["created"]) == (20, 10, 20)
    health = spanring.health()
    assert health["tracing_enabled"] is True and health["processors_count"] == 1
    assert health["error_rate"] == 0.5 and health["healthy"] is False and "error" in health["reasons"][0]
    spanring.shutdown()


def test_stats_and_messages(pipeline):
    with spanring.span("span"):
        pass
    spanring.flush()
    stats = spanring.stats()
    assert (stats["created"], stats["sealed"], stats["resident"]) == (1, 1, 0)
    assert stats["sinks"][0]["delivered"] == 1
    assert all(isinstance(message, spanring.Message) for message in spanring.messages())
