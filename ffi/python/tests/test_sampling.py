"""Rules of sampling and levels, as far as Python has to do with them."""
import pytest

import spanring

from conftest import Pipeline


@pytest.fixture
def start(tmp_path):
    def begin(**settings):
        place = tmp_path / "spans"
        spanring.start(dir=place, service_name="tests", ignore_environment=True, **settings)
        return Pipeline(place)

    yield begin
    spanring.shutdown(30)


def test_rules_see_what_a_span_starts_with(start):
    pipeline = start(rules=["rows>=100 -> always", "priority=high -> always", "* -> never"])
    for rows in (99, 100):
        with spanring.span("query", rows=rows):
            pass
    with spanring.span("set later") as span:
        span.set(rows=100)
    with spanring.span("mapping", {"priority": "high"}, other=lambda: 7):
        with spanring.span("child", rows=1):
            pass
    spanring.start_span("by hand", {"priority": "high"}).end()
    spanring.start_span("by hand, low", {"priority": "low"}).end()
    found = pipeline.spans()
    assert sorted(span.name for span in found) == ["by hand", "child", "mapping", "query"]
    query = pipeline.one("query")
    assert query.attributes == {"rows": 100, "spanring.sampling.rule": "rows>=100 -> always"}
    assert pipeline.one("mapping").attributes == {
        "priority": "high",
        "other": 7,
        "spanring.sampling.rule": "priority=high -> always",
    }


def test_a_span_of_level_none_is_as_if_it_were_not_there(start):
    pipeline = start(levels="hidden=none")
    with spanring.span("root") as root:
        with spanring.span("hidden") as hidden:
            assert not hidden.is_recording
            assert (hidden.trace_id, hidden.span_id) == (root.trace_id, root.span_id)
            with spanring.span("leaf"):
                pass
        with spanring.span("given", None, None, None, "none"):
            with spanring.span("second leaf", None, None, None, "full"):
                pass
    found = pipeline.by_name()
    assert sorted(found) == ["leaf", "root", "second leaf"]
    assert found["leaf"].parent == found["second leaf"].parent == found["root"].span_id


def test_the_level_and_the_detail_of_a_span(start):
    pipeline = start()
    with spanring.span("root"):
        spanring.start_span("fine", level="minimal").end()
        failed = spanring.start_span("failed", level="minimal")
        failed.status("error", "why")
        failed.end()
        spanring.start_span("detail", detailed=True).end()
        spanring.change_settings(detailed_tracing=True)
        spanring.start_span("wanted detail", detailed=True).end()
        spanring.start_span("important", {"priority": "high"}, level="smart").end()
    assert sorted(pipeline.by_name()) == ["failed", "important", "root", "wanted detail"]
    with pytest.raises(ValueError, match="level must be none, minimal, smart or full, not 'most'"):
        spanring.span("x", None, None, None, "most")
    with pytest.raises(ValueError, match="level must be"):
        spanring.start_span("x", level=3)


def test_what_goes_wrong_with_attributes_goes_wrong_before_the_span_starts(start):
    pipeline = start(rules="a=1 -> always; * -> never")
    with pytest.raises(TypeError, match="attributes must be a mapping"):
        spanring.span("x", [1])
    with pytest.raises(TypeError, match="attribute keys must be str"):
        spanring.start_span("x", {1: 1})

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spanring.span("x", a=1, b=interrupt)
    assert spanring.current_span() is None
    with spanring.span("after", a=1):
        pass
    assert [span.name for span in pipeline.spans()] == ["after"]
