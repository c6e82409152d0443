"""A real application, instrumented by OpenTelemetry's own packages: what spanring records is what their SDK records, span by span."""
import json
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("opentelemetry.instrumentation.fastapi")
pytest.importorskip("opentelemetry.instrumentation.sqlalchemy")
pytest.importorskip("opentelemetry.instrumentation.httpx")

from conftest import read  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent


def run(how, place):
    done = subprocess.run([sys.executable, HERE / "otel_app.py", how, place], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stderr


def plain(value):
    if isinstance(value, bytes):
        return {"bytes": list(value)}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def shown(span):
    status = span.status
    return {
        "name": span.name,
        "kind": span.kind,
        "trace": span.trace_id,
        "span": span.span_id,
        "parent": span.parent,
        "parent is remote": span.parent is not None and bool(span.raw["flags"] & 0x200),
        "trace state": span.raw.get("traceState", ""),
        "scope": list(span.scope),
        "attributes": plain(span.attributes),
        "events": [[name, plain(attributes)] for name, attributes in span.events],
        "links": [[trace, other, plain(attributes)] for trace, other, attributes in span.links],
        "status": [status.get("code", 0), status.get("message", "")],
    }


def steady(value):
    """Without what differs by the run: addresses, the line of a stack trace."""
    if isinstance(value, dict):
        return {key: "a stack trace" if key == "exception.stacktrace" else steady(item) for key, item in value.items()}
    if isinstance(value, list):
        return [steady(item) for item in value]
    return value


def tree(spans):
    """Each span with the path of names from its root in place of IDs, and the same for its links; sorted."""
    by_id = {span["span"]: span for span in spans}
    assert len(by_id) == len(spans)

    def path(span):
        above = by_id.get(span["parent"])
        if above is not None:
            assert above["trace"] == span["trace"]
            return [*path(above), span["name"]]
        return [f"remote {span['trace']}/{span['parent']}", span["name"]] if span["parent"] else [span["name"]]

    found = []
    for span in spans:
        kept = {key: value for key, value in span.items() if key not in ("trace", "span", "parent", "links")}
        linked = [[path(by_id[other]), attributes] for _, other, attributes in span["links"]]
        found.append(json.dumps([path(span), steady(kept), steady(linked)], sort_keys=True, indent=1))
    return sorted(found)


def test_the_same_requests_make_the_same_spans(tmp_path):
    run("sdk", tmp_path / "sdk.json")
    said = run("spanring", tmp_path / "spans")
    theirs = json.loads((tmp_path / "sdk.json").read_text())
    ours = [shown(span) for span in read(tmp_path / "spans")]
    # What the test is about is there: requests, statements, calls to another service, failures, remote parents.
    assert len(theirs) > 50
    scopes = {span["scope"][0] for span in theirs}
    assert {"shop", "opentelemetry.instrumentation.fastapi", "opentelemetry.instrumentation.sqlalchemy"} <= scopes
    assert any(span["parent is remote"] for span in theirs) and any(span["links"] for span in theirs)
    assert any(event[0] == "exception" for span in theirs for event in span["events"])
    assert tree(ours) == tree(theirs)
    assert "Traceback" not in said
