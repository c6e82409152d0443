"""What the tests have in common: a pipeline that writes into a directory, and reading what came of it with the command."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest

import spanring

ROOT = pathlib.Path(__file__).resolve().parents[3]
COMMAND = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "spanring"


def value(of):
    """A plain value of one in OTLP/JSON."""
    if not of:
        return None
    ((kind, found),) = of.items()
    if kind == "intValue":
        return int(found)
    if kind == "arrayValue":
        return [value(item) for item in found.get("values", [])]
    if kind == "kvlistValue":
        return attributes(found.get("values", []))
    if kind == "bytesValue":
        import base64

        return base64.b64decode(found)
    if kind == "doubleValue":
        return float(found)
    return found


def attributes(pairs):
    return {pair["key"]: value(pair.get("value")) for pair in pairs or []}


class Recorded:
    """A span as the command shows it."""

    def __init__(self, raw, resource, scope):
        self.raw = raw
        self.resource = resource
        self.scope = (scope.get("name", ""), scope.get("version", ""))
        self.name = raw["name"]
        self.trace_id = raw["traceId"]
        self.span_id = raw["spanId"]
        self.parent = raw.get("parentSpanId") or None
        self.attributes = attributes(raw.get("attributes"))
        self.status = raw.get("status", {})
        self.events = [(event["name"], attributes(event.get("attributes"))) for event in raw.get("events", [])]
        self.links = [(link["traceId"], link["spanId"], attributes(link.get("attributes"))) for link in raw.get("links", [])]
        self.kind = raw.get("kind")


def read(place):
    """All spans in a directory, in the order in which they began."""
    done = subprocess.run([COMMAND, "cat", "--format", "otlp-json", str(place)], capture_output=True, text=True, check=True)
    found = []
    for line in done.stdout.splitlines():
        for resource in json.loads(line).get("resourceSpans", []):
            of = attributes(resource.get("resource", {}).get("attributes"))
            for scope in resource["scopeSpans"]:
                found += [Recorded(span, of, scope.get("scope", {})) for span in scope["spans"]]
    return sorted(found, key=lambda span: int(span.raw["startTimeUnixNano"]))


class Pipeline:
    def __init__(self, place):
        self.place = place

    def spans(self):
        spanring.flush(30)
        return read(self.place)

    def one(self, name):
        (found,) = [span for span in self.spans() if span.name == name]
        return found

    def by_name(self):
        found = {}
        for span in self.spans():
            assert span.name not in found, f"two spans are called {span.name}"
            found[span.name] = span
        return found


@pytest.fixture
def pipeline(tmp_path):
    """A pipeline in this process; everything that it takes is delivered."""
    place = tmp_path / "spans"
    spanring.start(dir=place, service_name="tests", ignore_environment=True)
    yield Pipeline(place)
    spanring.shutdown(30)


def usual_signals():
    """Of a process that is started by hand: jobs in the background ignore some."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


class Script:
    """A program in a process of its own, which finds the directory for its spans in `place`."""

    def __init__(self, tmp_path):
        self.place = tmp_path / "spans"
        self.file = tmp_path / "script.py"
        self.folder = tmp_path

    def run(self, text, status=0, before=""):
        head = textwrap.dedent(before) + (
            "\nimport os, sys, spanring\n"
            f"place = {str(self.place)!r}\n"
            "def begin(): spanring.start(dir=place, service_name='script', ignore_environment=True)\n"
        )
        self.file.write_text(head + textwrap.dedent(text))
        done = subprocess.run(
            [sys.executable, str(self.file)], capture_output=True, text=True, timeout=60, cwd=self.folder, preexec_fn=usual_signals
        )
        assert status is None or done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def spans(self):
        return read(self.place)

    def names(self):
        return sorted(span.name for span in self.spans())


@pytest.fixture
def script(tmp_path):
    return Script(tmp_path)
